"""How many users an experiment needs, how long it takes, what it can find.

The normal approximation with equal variances in both arms, for the fixed interval at
the planned end. The sequence needs more, see ``sequential``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from recsys.errors import ConfigError
from recsys.experiment.stats import critical_value, sequence_factor

_NORMAL = NormalDist()
_MOST_USERS = 1e15
"""More than ever lived: beyond it lies rounding."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked and what follows.

    Attributes:
        baseline: The metric of the control.
        deviation: Standard deviation of one user's value (linearised for a ratio).
        lift: The smallest relative change to be found, such as 0.05.
        users: Users in the control and in the treatment together.
        control: Users of the control.
        treatment: Users of the treatment.
        days: Days at the given users per day; None when not given.
    """

    baseline: float
    deviation: float
    lift: float
    users: int
    control: int
    treatment: int
    days: int | None


def power(
    users: float,
    difference: float,
    deviation: float,
    *,
    alpha: float = 0.05,
    share: float = 0.5,
    sequential: bool = False,
) -> float:
    """Return the chance to find a difference.

    Args:
        users: Users of control and treatment together.
        difference: The true absolute difference.
        deviation: Standard deviation of one user's value.
        alpha: Level of the test, in (0, 0.5).
        share: Treatment's share of the users, in (0, 1).
        sequential: Of a confidence sequence looked at once, at its best.

    Returns:
        In [0, 1], for a two-sided test.
    """
    _check(difference, deviation, share)
    bound = _bound(users, alpha, sequential=sequential)
    shift = abs(difference) / (deviation * math.sqrt(1 / (users * share * (1 - share))))
    return _beyond(shift, bound)


def users_needed(
    difference: float,
    deviation: float,
    *,
    alpha: float = 0.05,
    target: float = 0.8,
    share: float = 0.5,
    sequential: bool = False,
) -> float:
    """Return the users of both arms together that find a difference.

    Args:
        difference: The smallest absolute difference to be found.
        deviation: Standard deviation of one user's value.
        alpha: Level of the test, in (0, 0.5).
        target: Wanted power, between ``alpha`` and 1.
        share: Treatment's share of the users, in (0, 1).
        sequential: For a confidence sequence instead of the fixed interval.

    Returns:
        A real number; round it up.

    Raises:
        ConfigError: A number is out of range.
    """
    _check(difference, deviation, share)
    if not alpha < target < 1:
        raise ConfigError(
            f"power must lie between alpha and 1, got {target}", hint="0.8 is usual."
        )
    if difference == 0:
        raise ConfigError(
            "no number of users finds a difference of zero", hint="Pass a lift."
        )

    def reached(users: float) -> float:
        return power(
            users, difference, deviation, alpha=alpha, share=share,
            sequential=sequential,
        )  # fmt: skip

    high = 4.0
    while reached(high) < target:
        high *= 2
        if high > _MOST_USERS:
            raise ConfigError(
                f"a difference of {difference:g} takes more than {_MOST_USERS:.0e}"
                " users",
                hint="Ask for a larger lift.",
            )
    low = high / 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) >= target else (middle, high)
    return high


def detectable(
    users: float,
    deviation: float,
    *,
    alpha: float = 0.05,
    target: float = 0.8,
    share: float = 0.5,
    sequential: bool = False,
) -> float:
    """Return the smallest absolute difference that so many users find.

    Args, range and errors as in ``users_needed``.
    """
    _check(1.0, deviation, share)
    if users <= 0:
        raise ConfigError("the number of users must be positive", hint="Pass users.")
    # The power of a fixed number of users depends on difference / deviation only.
    bound = _bound(users, alpha, sequential=sequential)
    error = deviation / math.sqrt(users * share * (1 - share))
    low, high = 0.0, bound + 40.0
    for _ in range(200):
        z = (low + high) / 2
        low, high = (low, z) if _beyond(z, bound) >= target else (z, high)
    return high * error


def _bound(users: float, alpha: float, *, sequential: bool) -> float:
    """Return beyond how many standard errors a difference is found."""
    return sequence_factor(users, alpha, users) if sequential else critical_value(alpha)


def _beyond(shift: float, bound: float) -> float:
    """Return how often a standard normal moved by ``shift`` is beyond the bounds."""
    return _NORMAL.cdf(shift - bound) + _NORMAL.cdf(-shift - bound)


def plan(
    baseline: float,
    deviation: float,
    lift: float,
    *,
    alpha: float = 0.05,
    target: float = 0.8,
    share: float = 0.5,
    daily_users: float | None = None,
    variance_reduction: float = 0.0,
    sequential: bool = False,
) -> Plan:
    """Plan an experiment.

    Args:
        baseline: The metric of the control, positive.
        deviation: Standard deviation of one user's value.
        lift: The smallest relative change to be found, such as 0.05.
        alpha: Level of the test.
        target: Wanted power.
        share: Treatment's share of the users.
        daily_users: New users that enter per day, both arms together.
        variance_reduction: Share of the variance that CUPED removes, in [0, 1).
        sequential: For a confidence sequence instead of the fixed interval.

    Returns:
        The plan.

    Raises:
        ConfigError: A number is out of range.
    """
    if not 0 < baseline < math.inf:
        raise ConfigError(
            f"the baseline must be positive, got {baseline}", hint="Such as 0.04."
        )
    if not 0 <= variance_reduction < 1:
        raise ConfigError(
            f"variance reduction must lie in [0, 1), got {variance_reduction}",
            hint="The squared correlation with the time before the experiment.",
        )
    if daily_users is not None and not 0 < daily_users < math.inf:
        raise ConfigError(
            "users per day must be positive and finite", hint="Such as 2000."
        )
    total = users_needed(
        baseline * lift, deviation * math.sqrt(1 - variance_reduction),
        alpha=alpha, target=target, share=share, sequential=sequential,
    )  # fmt: skip
    treatment, control = math.ceil(total * share), math.ceil(total * (1 - share))
    days = math.ceil((treatment + control) / daily_users) if daily_users else None
    return Plan(
        baseline, deviation, lift, treatment + control, control, treatment, days
    )


def _check(difference: float, deviation: float, share: float) -> None:
    if not math.isfinite(difference) or not deviation > 0 or math.isinf(deviation):
        raise ConfigError(
            "the standard deviation must be positive and the difference finite",
            hint="For a conversion rate p it is sqrt(p * (1 - p)).",
        )
    if not 0 < share < 1:
        raise ConfigError(
            f"the treatment's share must lie between 0 and 1, got {share}",
            hint="0.5 needs the fewest users.",
        )
