"""Is the experiment sound: sample ratio mismatch and corrections for many metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

from recsys.errors import ConfigError

ALARM = 0.001
"""A sample ratio p-value below this is an alarm: the arms are not comparable."""


def sample_ratio(users: Sequence[int], shares: Sequence[float]) -> float | None:
    """Return the p-value of arms as unequal as these if users were assigned as planned.

    Args:
        users: Users seen in each arm.
        shares: Planned share of each arm, in any unit.

    Returns:
        The chi-square p-value, None without users; below ``ALARM`` something loses or
        gains users in one arm and no result can be trusted.

    Raises:
        ConfigError: Fewer than two arms, or shares that are not positive.

    Example:
        >>> round(sample_ratio([5000, 5200], [50, 50]), 4)
        0.0477
    """
    if len(users) != len(shares) or len(users) < 2 or min(shares) <= 0:
        raise ConfigError(
            "a sample ratio needs two arms or more, each with a positive share",
            hint="Pass one number of users and one share per arm.",
        )
    total = sum(users)
    if not total:
        return None
    expected = [total * share / sum(shares) for share in shares]
    statistic = sum((n - e) ** 2 / e for n, e in zip(users, expected, strict=True))
    return chi_square_tail(statistic, len(users) - 1)


def chi_square_tail(statistic: float, df: int) -> float:
    """Return the chance of a chi-square variable above ``statistic``.

    For whole degrees of freedom the incomplete gamma function is a finite sum.
    """
    half = statistic / 2
    if half <= 0:
        return 1.0
    odd = df % 2
    tail = math.erfc(math.sqrt(half)) if odd else 0.0
    for step in range(df // 2):
        power = step + odd / 2
        tail += math.exp(power * math.log(half) - half - math.lgamma(power + 1))
    return min(tail, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that one false alarm among all is as rare as alpha.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(_ascending(p_values)):
        highest = max(highest, p_values[index] * (len(p_values) - rank))
        adjusted[index] = min(highest, 1.0)
    return adjusted


def _ascending(p_values: Sequence[float]) -> list[int]:
    if any(not 0 <= p <= 1 for p in p_values):
        raise ConfigError("a p-value lies between 0 and 1", hint="Leave out NaN.")
    return sorted(range(len(p_values)), key=p_values.__getitem__)
