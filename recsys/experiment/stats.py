"""Two arms compared: delta method, CUPED, fixed intervals, confidence sequences.

Everything here is arithmetic on ``Moments``. The view ``recsys.experiment_result`` does
the same in SQL; a test compares the two.

A fixed interval is right once, at the time that was planned. A confidence sequence is
right at every look, and wider: look daily, stop when it leaves zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from recsys.errors import ConfigError
from recsys.experiment.moments import Moments, cuped_coefficient, gradients, pooled

EXPECTED_USERS = 5_000
"""Users at which the sequences are narrowest, unless the experiment says otherwise."""
MINIMUM_USERS = 100
"""Users per arm below which the normal approximation is not trusted at every look."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Two bounds, low <= high."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """The metric of one arm.

    Attributes:
        users: Users of the arm.
        mean: The metric as observed; None without users or without a denominator.
        adjusted: The metric after CUPED; equals ``mean`` without a covariate.
        variance: Variance of ``adjusted`` (the standard error squared).
    """

    users: int
    mean: float | None
    adjusted: float
    variance: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A treatment against the control, in one metric.

    Attributes:
        control: The metric of the control.
        treatment: The metric of the treatment.
        note: Why numbers are missing; empty when none is.
        difference: Treatment minus control, after CUPED.
        se: Standard error of the difference.
        interval: Fixed-horizon interval of the difference.
        sequence: Always-valid interval of the difference; None below
            ``MINIMUM_USERS`` in an arm.
        p_value: Fixed-horizon p-value of no difference, two-sided.
        sequential_p: Always-valid p-value: the sequence leaves zero when it falls
            below alpha.
        lift: Treatment / control - 1; None unless both are positive.
        lift_interval: Fixed-horizon interval of the lift.
        lift_sequence: Always-valid interval of the lift.
        coefficient: Of CUPED; 0 without a covariate.
        variance_reduction: Share of the difference's variance that CUPED removed.
    """

    control: Estimate
    treatment: Estimate
    note: str = ""
    difference: float | None = None
    se: float | None = None
    interval: Interval | None = None
    sequence: Interval | None = None
    p_value: float | None = None
    sequential_p: float | None = None
    lift: float | None = None
    lift_interval: Interval | None = None
    lift_sequence: Interval | None = None
    coefficient: float = 0.0
    variance_reduction: float = 0.0


def critical_value(alpha: float) -> float:
    """Return the two-sided standard normal bound, 1.96 for 0.05.

    Raises:
        ConfigError: ``alpha`` is not between 0 and 0.5.
    """
    _check_alpha(alpha)
    return -NormalDist().inv_cdf(alpha / 2)


def sequence_factor(
    users: float, alpha: float, expected_users: float = EXPECTED_USERS
) -> float:
    """Return how many standard errors a confidence sequence reaches to each side.

    Args:
        users: Users so far, of both arms of a difference.
        alpha: Chance that the sequence ever misses the truth, in (0, 0.5).
        expected_users: Users at which it is narrowest.

    Returns:
        The factor that takes the place of ``critical_value(alpha)``.

    Raises:
        ConfigError: ``alpha`` is not between 0 and 0.5, or a number is not positive.

    Source: Waudby-Smith et al., "Time-uniform central limit theory and asymptotic
        confidence sequences", arXiv 2103.06476, theorem 2.2, with rho as proposed
        there for a sequence that is tight at ``expected_users``.
    """
    spread = _spread(users, alpha, expected_users)
    return math.sqrt(
        2 * (spread + 1) / spread * math.log(math.sqrt(spread + 1) / alpha)
    )


def _spread(users: float, alpha: float, expected_users: float) -> float:
    """Return users * rho^2, rho being the sequence's free parameter."""
    _check_alpha(alpha)
    if users <= 0 or expected_users <= 0:
        raise ConfigError(
            "a confidence sequence needs a positive number of users",
            hint="Pass users so far and users expected.",
        )
    return users / expected_users * (-2 * math.log(alpha) + math.log(
        1 - 2 * math.log(alpha)))  # fmt: skip


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 0.5:
        raise ConfigError(
            f"alpha must lie between 0 and 0.5, got {alpha}", hint="0.05 is usual."
        )


def two_sided_p(z: float) -> float:
    """Return the chance of a standard normal at least this far from zero."""
    return math.erfc(abs(z) / math.sqrt(2))


def sequential_p(
    z: float, users: float, alpha: float, expected_users: float = EXPECTED_USERS
) -> float:
    """Return the always-valid p-value of a difference ``z`` standard errors from zero.

    It is below alpha exactly when the confidence sequence leaves zero.
    """
    spread = _spread(users, alpha, expected_users)
    log_p = math.log(spread + 1) / 2 - z * z * spread / (2 * (spread + 1))
    return math.exp(min(log_p, 0.0))


def estimate(
    moments: Moments, coefficient: float = 0.0, centre: float | None = None
) -> Estimate:
    """Return the metric of one arm with its variance.

    Args:
        moments: Of the arm.
        coefficient: Of CUPED, see ``cuped_coefficient``; 0 adjusts nothing.
        centre: The covariate over all arms.

    Returns:
        The estimate; its variance is 0 with fewer than two users.
    """
    mean = moments.ratio
    if mean is None or moments.users < 1:
        return Estimate(moments.users, None, 0.0, 0.0)
    metric, covariate = gradients(moments)
    shift = coefficient * ((moments.covariate or 0.0) - (centre or 0.0))
    direction = metric - coefficient * covariate
    variance = max(float(direction @ moments.cov @ direction), 0.0)
    return Estimate(moments.users, mean, mean - shift, variance / moments.users)


def compare(
    control: Moments,
    treatment: Moments,
    *,
    total: Moments | None = None,
    alpha: float = 0.05,
    expected_users: float = EXPECTED_USERS,
    cuped: bool = True,
) -> Comparison:
    """Compare a treatment with the control.

    Args:
        control: Moments of the control.
        treatment: Moments of the treatment.
        total: All arms of the experiment together; default: these two.
        alpha: Level of the intervals, in (0, 0.5).
        expected_users: Users at which the sequences are narrowest.
        cuped: Use the covariate where there is one.

    Returns:
        The comparison; ``note`` says why numbers are missing, none is ever NaN.

    Raises:
        ConfigError: ``alpha`` is out of range.
    """
    bound = critical_value(alpha)
    total = total or pooled([control, treatment])
    theta = cuped_coefficient(total) if cuped else 0.0
    if None in (control.covariate, treatment.covariate):
        theta = 0.0  # an arm without a past has nothing to adjust with
    a = estimate(control, theta, total.covariate)
    b = estimate(treatment, theta, total.covariate)
    note = _note(a, b)
    if note:
        return Comparison(a, b, note)
    users = a.users + b.users
    se = math.sqrt(a.variance + b.variance)
    z = (b.adjusted - a.adjusted) / se
    factor = None
    if min(a.users, b.users) >= MINIMUM_USERS:
        factor = sequence_factor(users, alpha, expected_users)
    plain = estimate(control).variance + estimate(treatment).variance
    lift, ratio_se = _log_ratio(a, b)
    return Comparison(
        a,
        b,
        difference=b.adjusted - a.adjusted,
        se=se,
        interval=_around(b.adjusted - a.adjusted, se, bound),
        sequence=_around(b.adjusted - a.adjusted, se, factor),
        p_value=two_sided_p(z),
        sequential_p=sequential_p(z, users, alpha, expected_users) if factor else None,
        lift=None if lift is None else math.expm1(lift),
        lift_interval=_lift_around(lift, ratio_se, bound),
        lift_sequence=_lift_around(lift, ratio_se, factor),
        coefficient=theta,
        variance_reduction=1 - se * se / plain if plain > 0 else 0.0,
    )


def _note(control: Estimate, treatment: Estimate) -> str:
    arms = (control, treatment)
    if min(arm.users for arm in arms) == 0:
        return "no exposures"
    if any(arm.mean is None for arm in arms):
        return "denominator is zero"
    if min(arm.users for arm in arms) < 2:
        return "fewer than two users"
    scale = max(abs(arm.adjusted) for arm in arms)
    if min(arm.variance for arm in arms) <= 1e-24 * scale * scale:
        return "no variance"
    return ""


def _log_ratio(control: Estimate, treatment: Estimate) -> tuple[float | None, float]:
    """Return the logarithm of treatment / control and its standard error.

    The logarithm keeps the interval of a lift above -100 % and is closer to normal
    than the lift itself.
    """
    if control.adjusted <= 0 or treatment.adjusted <= 0:
        return None, 0.0
    relative = (
        control.variance / control.adjusted**2
        + treatment.variance / treatment.adjusted**2
    )
    return math.log(treatment.adjusted / control.adjusted), math.sqrt(relative)


def _around(centre: float, se: float, factor: float | None) -> Interval | None:
    if factor is None:
        return None
    return Interval(centre - factor * se, centre + factor * se)


def _lift_around(
    centre: float | None, se: float, factor: float | None
) -> Interval | None:
    if centre is None or factor is None:
        return None
    reach = factor * se
    # A lift of more than e^700 says nothing, and would overflow.
    high = math.expm1(min(centre + reach, 700.0))
    return Interval(math.expm1(max(centre - reach, -700.0)), high)
