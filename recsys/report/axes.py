"""Axes of a chart: where values stand, which are written beside it, and how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# A step of 1, 2 or 5 times a power of ten is up to 2.5 times this part: 3 to 7 ticks.
_PARTS = 6
_DECADES = 4
_MOST_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to places.

    Attributes:
        low: Least value.
        high: Greatest value.
        start: Place of the least one.
        end: Place of the greatest one.
        log: Logarithmic.
        whole: Ticks are whole numbers.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        low, high, value = self.low, self.high, max(value, self.low)
        if low == high:
            return (self.start + self.end) / 2
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return round values within the axis, and how they are written."""
        if self.log:
            found = _log_ticks(self.low, self.high)
            if len(found) > 1:
                return [(value, _power(value)) for value in found]
        step = nice((self.high - self.low) / _PARTS)
        step = max(1.0, step) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [place * step for place in range(first, last + 1)]
        return list(zip(values, _written(values, step), strict=True))


def bounds(ys: Sequence[float], *, log: bool, zero: bool) -> tuple[float, float]:
    """Return where an axis of some values begins and ends, with some air."""
    low, high = min(ys), max(ys)
    if log:
        return (low / 1.3, high * 1.3) if low < high else (low / 3, high * 3)
    if zero:
        low = min(0.0, low)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if zero and low == 0 else low - margin), high + margin


def nice(step: float) -> float:
    """Return the next of 1, 2, 5 times a power of ten that is not less."""
    if step <= 0 or not math.isfinite(step):
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= step * (1 - 1e-9))


def short(value: float) -> str:
    """Return a number in at most six characters or so."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 1e-3 else f"{value:.0e}"


def digits(value: float) -> str:
    """Return a number with four digits, of one length in a column."""
    if 1e3 <= abs(value) < 1e6 or value == 0:
        return f"{value:,.0f}"
    return f"{value:#.4g}"


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, math.ceil((last - first) / _DECADES))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    every = [f * 10.0**p for p in range(first, last + 1, step) for f in factors]
    return [v for v in every if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]


def _power(value: float) -> str:
    return f"{value:.4f}".rstrip("0") if 1e-4 <= value < 1 else short(value)


def _written(values: Sequence[float], step: float) -> list[str]:
    """Return numbers with as many decimals as their step needs."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals <= _MOST_DECIMALS and max(map(abs, values), default=0.0) < 1e4:
        return [f"{value + 0.0:,.{decimals}f}" for value in values]
    texts = [short(value) for value in values]
    return texts if len(set(texts)) == len(texts) else [f"{v:.6g}" for v in values]
