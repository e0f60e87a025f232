"""Lines and bars as SVG, coloured by the page's own styles; nothing to load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 36
COLOURS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: For the legend.
        points: x and y, by rising x.
        colour: Number of the colour, 1 to ``COLOURS``; 0 is quiet grey.
        dots: Mark the points; a touch shows their values.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 1
    dots: bool = True


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = self.low, self.high, max(value, self.low)
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / ((high - low) or 1.0) * (
            self.end - self.start
        )

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.log10(self.high)
            step = max(1, math.ceil((last - first) / 4))
            every = [10.0**p for p in range(first, math.ceil(last) + 1, step)]
        else:
            step = nice((self.high - self.low) / 4)
            step = max(1.0, step) if self.whole else step
            count = math.floor((self.high + 1e-9 * step) / step)
            every = [i * step for i in range(math.ceil(self.low / step), count + 1)]
        return [v for v in every if self.low * (1 - 1e-9) <= v <= self.high]


def nice(step: float) -> float:
    """Return the next of 1, 2, 5 times a power of ten that is not less."""
    if step <= 0 or not math.isfinite(step):
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= step * (1 - 1e-9))


def lines(
    title: str,
    drawn: Sequence[Line],
    *,
    x: str = "epoch",
    log: bool = False,
    zero: bool = False,
    mark: tuple[float, str] | None = None,
) -> str:
    """Return a line chart as an HTML figure, empty text without any points.

    Args:
        title: What is drawn.
        drawn: The lines; those without a finite point are left out.
        x: What the x axis counts.
        log: Logarithmic y axis; points that are not positive are left out.
        zero: The y axis begins at 0.
        mark: A place on the x axis, and what is there.
    """
    drawn = [_finite(line, log) for line in drawn]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return ""
    xs = [px for line in drawn for px, _ in line.points]
    ys = [py for line in drawn for _, py in line.points]
    whole = all(value == int(value) for value in xs)
    across = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT, whole=whole)
    up = _Axis(*_bounds(ys, log, zero), _HEIGHT - _BOTTOM, _TOP, log)
    parts = [_grid(across, up, x), *(_line(line, across, up, x) for line in drawn)]
    if mark:
        parts.insert(1, _mark(across(mark[0]), mark[1]))
    return _figure(title, "".join(parts), drawn)


def bars(
    title: str,
    rows: Sequence[tuple[str, Sequence[float | None]]],
    names: Sequence[str],
) -> str:
    """Return horizontal bars, one per name and row; the names are the legend.

    Args:
        title: What is drawn.
        rows: Label and one value per name; None draws nothing.
        names: What the values are.
    """
    values = [v for _, row in rows for v in row if v is not None]
    if not values:
        return ""
    thick, gap = 11, 12
    left, right = 118, 56
    tall = len(names) * thick + gap
    most = max(*values, 1e-9)
    drawn: list[str] = []
    for place, (label, row) in enumerate(rows):
        top = place * tall + gap / 2
        middle = top + len(names) * thick / 2 + 4
        drawn.append(
            f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">'
            f"{escape(label)}</text>"
        )
        for number, value in enumerate(row):
            if value is None:
                continue
            y = top + number * thick
            long = max(1.0, value / most * (_WIDTH - left - right))
            drawn.append(
                f'<rect class="b{number + 1}" x="{left}" y="{y:.1f}" rx="2"'
                f' width="{long:.1f}" height="{thick - 2}"/>'
                f'<text class="v" x="{left + long + 5:.1f}" y="{y + 9:.1f}">'
                f"{short(value)}</text>"
            )
    legend = [Line(name, [], place + 1) for place, name in enumerate(names)]
    body = "".join(drawn)
    return _figure(title, body, legend if len(names) > 1 else [], len(rows) * tall + 4)


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


def _finite(line: Line, log: bool) -> Line:
    kept = [
        (px, py)
        for px, py in line.points
        if math.isfinite(px) and math.isfinite(py) and (py > 0 or not log)
    ]
    return Line(line.name, kept, line.colour, line.dots)


def _bounds(ys: Sequence[float], log: bool, zero: bool) -> tuple[float, float]:
    low, high = min(ys), max(ys)
    if log:
        return (low / 1.3, high * 1.3) if low < high else (low / 3, high * 3)
    if zero:
        low = min(0.0, low)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if zero and low == 0 else low - margin), high + margin


def _grid(across: _Axis, up: _Axis, x: str) -> str:
    out = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(v):.1f}"'
        f' y2="{up(v):.1f}"/><text x="{_LEFT - 6}" y="{up(v) + 4:.1f}"'
        f' text-anchor="end">{short(v)}</text>'
        for v in up.ticks()
    ]
    base = _HEIGHT - _BOTTOM
    out += [
        f'<text x="{across(v):.1f}" y="{base + 15}" text-anchor="middle">{short(v)}'
        "</text>"
        for v in across.ticks()
    ]
    out.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}"'
        f' y2="{base}"/><text class="unit" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 5}"'
        f' text-anchor="end">{escape(x)}</text>'
    )
    return "".join(out)


def _line(line: Line, across: _Axis, up: _Axis, x: str) -> str:
    places = [(across(px), up(py)) for px, py in line.points]
    path = "M" + " L".join(f"{px:.1f},{py:.1f}" for px, py in places)
    out = f'<path class="l{line.colour}" d="{path}"/>' if len(places) > 1 else ""
    if line.dots or len(places) == 1:
        out += "".join(
            f'<circle class="d{line.colour}" cx="{px:.1f}" cy="{py:.1f}" r="3">'
            f"<title>{escape(line.name)}, {escape(x)} {short(vx)}: {vy:.5g}</title>"
            "</circle>"
            for (px, py), (vx, vy) in zip(places, line.points, strict=True)
        )
    return out


def _mark(place: float, text: str) -> str:
    anchor, shift = ("end", -5) if place > _WIDTH / 2 else ("start", 5)
    return (
        f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}"'
        f' y2="{_HEIGHT - _BOTTOM}"/><text class="marked" x="{place + shift:.1f}"'
        f' y="{_HEIGHT - _BOTTOM - 8}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _figure(
    title: str, body: str, legend: Sequence[Line], height: float = _HEIGHT
) -> str:
    names = list(dict.fromkeys((line.name, line.colour) for line in legend))
    entries = "".join(
        f'<span><i class="k{colour}"></i>{escape(name)}</span>'
        for name, colour in names
    )
    keys = f'<div class="legend">{entries}</div>' if len(names) > 1 else ""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{keys}"
        f'<svg role="img" viewBox="0 0 {_WIDTH} {height:.0f}"'
        f' aria-label="{escape(title)}">{body}</svg></figure>'
    )
