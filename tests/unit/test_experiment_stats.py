"""The statistics of experiments: against tea-tasting, and where nothing can be said."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import tea_tasting as tt
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.experiment import checks, power
from recsys.experiment.moments import Moments, cuped_coefficient, from_users, pooled
from recsys.experiment.stats import (
    MINIMUM_USERS,
    compare,
    critical_value,
    estimate,
    sequence_factor,
    sequential_p,
    two_sided_p,
)


def population(
    users: int, seed: int, lift: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Clicks and impressions of users, now and before; active users stay active."""
    rng = np.random.default_rng(seed)
    activity = rng.gamma(2, 3, users)
    taste = rng.beta(2, 20, users)
    shown, shown_before = rng.poisson(activity) + 1, rng.poisson(activity) + 1
    return (
        rng.binomial(shown, np.minimum(taste * (1 + lift), 1)).astype(float),
        shown.astype(float),
        rng.binomial(shown_before, taste).astype(float),
        shown_before.astype(float),
    )


CONTROL = population(4_000, seed=1)
TREATMENT = population(3_000, seed=2, lift=0.15)


def theirs(metric: object) -> object:
    columns = [np.concatenate(pair) for pair in zip(CONTROL, TREATMENT, strict=True)]
    names = ("clicks", "shown", "clicks_before", "shown_before")
    arm = np.repeat([0, 1], [4_000, 3_000])
    table = pa.table({"variant": arm, **dict(zip(names, columns, strict=True))})
    return tt.Experiment(m=metric).analyze(table)["m"]  # type: ignore[arg-type]


# tea-tasting ------------------------------------------------------------------------


@pytest.mark.parametrize("covariate", [False, True], ids=["plain", "cuped"])
@pytest.mark.parametrize("ratio", [False, True], ids=["mean", "ratio"])
def test_a_comparison_equals_that_of_tea_tasting(ratio: bool, covariate: bool) -> None:
    columns = [0, 1, 2, 3] if ratio else [0, None, 2, None]
    if not covariate:
        columns[2:] = [None, None]
    arms = [
        from_users(*(None if i is None else arm[i] for i in columns))  # type: ignore[arg-type]
        for arm in (CONTROL, TREATMENT)
    ]
    options = {"use_t": False, "equal_var": False}
    past = "clicks_before" if covariate else None
    metric = (
        tt.RatioOfMeans("clicks", "shown", past, "shown_before" if past else None,
                        **options)
        if ratio else tt.Mean("clicks", past, **options)
    )  # fmt: skip

    expected = theirs(metric)
    actual = compare(*arms)

    pairs = [
        (actual.control.adjusted, expected.control),
        (actual.treatment.adjusted, expected.treatment),
        (actual.difference, expected.effect_size),
        (actual.interval.low, expected.effect_size_ci_lower),
        (actual.interval.high, expected.effect_size_ci_upper),
        (actual.lift, expected.rel_effect_size),
        (actual.lift_interval.low, expected.rel_effect_size_ci_lower),
        (actual.lift_interval.high, expected.rel_effect_size_ci_upper),
        (actual.p_value, expected.pvalue),
        (actual.difference / actual.se, expected.statistic),
    ]
    for ours, reference in pairs:
        assert ours == pytest.approx(reference, rel=1e-6, abs=1e-12)
    assert (actual.variance_reduction > 0.05) == covariate


@pytest.mark.parametrize("users", [(4_000, 3_000), (5_000, 5_200), (990, 1_010)])
def test_the_sample_ratio_test_equals_that_of_tea_tasting(
    users: tuple[int, int],
) -> None:
    arm = pa.table({"variant": np.repeat([0, 1], users)})
    metric = tt.SampleRatio(method="norm", correction=False)

    expected = tt.Experiment(m=metric).analyze(arm)["m"]  # type: ignore[arg-type]

    ours = checks.sample_ratio(users, [50, 50])
    assert ours == pytest.approx(expected.pvalue, rel=1e-6)


def test_the_chi_square_tail_equals_that_of_scipy() -> None:
    from scipy.stats import chi2

    for statistic, df in itertools.product(
        [0.0, 0.1, 3, 12.5, 80, 2_000], range(1, 20)
    ):
        ours = checks.chi_square_tail(statistic, df)
        assert ours == pytest.approx(chi2.sf(statistic, df), rel=1e-9, abs=1e-300)


def test_holm_adjusts_step_by_step() -> None:
    assert checks.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert checks.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_power_equals_that_of_tea_tasting(share: float) -> None:
    values = np.concatenate([CONTROL[0], TREATMENT[0]])
    # tea-tasting's ratio is treatment / control.
    metric = tt.Mean(
        "clicks", use_t=False, equal_var=False, power=0.8, alpha=0.05,
        rel_effect_size=0.04, ratio=share / (1 - share),
    )  # fmt: skip
    table = pa.table({"clicks": values})
    found = metric.solve_power(table, "n_obs")[0]
    deviation = float(values.std(ddof=1))

    ours = power.users_needed(0.04 * values.mean(), deviation, share=share)

    assert ours == pytest.approx(found.n_obs, abs=1)
    back = power.detectable(ours, deviation, share=share)
    assert back == pytest.approx(0.04 * values.mean(), rel=1e-6)


# confidence sequences ---------------------------------------------------------------


def test_the_sequence_has_the_published_width() -> None:
    # Waudby-Smith et al.: se * sqrt(n) * sqrt(2 (n rho^2 + 1) / (n rho)^2
    # * log(sqrt(n rho^2 + 1) / alpha)), written out with rho for n* = 5000.
    alpha, tuned = 0.05, 5_000
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / tuned)
    for n in (100, 5_000, 80_000):
        square = n * rho * rho
        width = math.sqrt(n) * math.sqrt(
            2 * (square + 1) / (n * rho) ** 2 * math.log(math.sqrt(square + 1) / alpha)
        )
        assert sequence_factor(n, alpha, tuned) == pytest.approx(width, rel=1e-12)
    assert sequence_factor(5_000, 0.05, 5_000) == pytest.approx(3.03521, abs=1e-5)


@given(
    z=st.floats(-40, 40),
    users=st.integers(2, 10**8),
    alpha=st.floats(0.001, 0.3),
    tuned=st.integers(10, 10**7),
)
@settings(max_examples=200, deadline=None)
def test_the_sequential_p_is_below_alpha_when_the_sequence_leaves_zero(
    z: float, users: int, alpha: float, tuned: int
) -> None:
    factor = sequence_factor(users, alpha, tuned)
    p = sequential_p(z, users, alpha, tuned)

    assert 0 <= p <= 1
    assert factor > critical_value(alpha)
    if abs(abs(z) - factor) > 1e-9 * factor:
        assert (p < alpha) == (abs(z) > factor)


def test_the_critical_value_belongs_to_its_p_value() -> None:
    for alpha in (0.001, 0.05, 0.2):
        assert two_sided_p(critical_value(alpha)) == pytest.approx(alpha)


# moments ----------------------------------------------------------------------------


def test_moments_of_parts_add_up_to_those_of_the_whole() -> None:
    parts = [
        from_users(*(c[i : i + 700] for c in CONTROL)) for i in range(0, 4_000, 700)
    ]

    whole, sum_of_parts = from_users(*CONTROL), pooled(parts)

    assert sum_of_parts.users == whole.users
    np.testing.assert_allclose(sum_of_parts.mean, whole.mean)
    np.testing.assert_allclose(sum_of_parts.cov, whole.cov)


def test_the_variance_of_a_ratio_is_that_of_resampled_users() -> None:
    rng = np.random.default_rng(0)
    clicks, shown = CONTROL[0], CONTROL[1]
    picks = rng.integers(0, clicks.size, (2_000, clicks.size))
    resampled = clicks[picks].sum(axis=1) / shown[picks].sum(axis=1)

    ours = estimate(from_users(clicks, shown)).variance

    assert math.sqrt(ours) == pytest.approx(resampled.std(), rel=0.05)


# nothing to say ---------------------------------------------------------------------


def _numbers(value: object) -> list[float]:
    fields = [getattr(value, name) for name in value.__slots__]  # type: ignore[attr-defined]
    return [x for x in fields if isinstance(x, float)]


@pytest.mark.parametrize(
    ("control", "treatment", "note"),
    [
        (from_users([]), from_users([1.0, 2.0]), "no exposures"),
        (from_users([]), from_users([]), "no exposures"),
        (from_users([1.0]), from_users([1.0, 2.0]), "fewer than two users"),
        (from_users([1.0, 1, 1]), from_users([1.0, 1, 2]), "no variance"),
        (from_users([0.1] * 50), from_users([0.1, 0.3]), "no variance"),
        (from_users([0.0, 0.0]), from_users([0.0, 0.0]), "no variance"),
        (from_users([1.0, 2], [0, 0]), from_users([1.0, 2]), "denominator is zero"),
    ],
)
def test_what_cannot_be_compared_says_why(
    control: Moments, treatment: Moments, note: str
) -> None:
    result = compare(control, treatment)

    assert result.note == note
    assert result.difference is None
    assert result.p_value is None
    assert all(map(math.isfinite, _numbers(result.control) + _numbers(result)))


def test_a_covariate_that_says_nothing_changes_nothing() -> None:
    now = CONTROL[0]
    for past in (np.zeros_like(now), np.full_like(now, 0.1)):
        assert cuped_coefficient(from_users(now, None, past)) == 0
    nobody = from_users(now, CONTROL[1], CONTROL[2], np.zeros_like(now))
    other = from_users(*TREATMENT)

    plain = compare(from_users(now, CONTROL[1]), from_users(*TREATMENT[:2]))

    assert compare(nobody, other).difference == plain.difference


def test_a_metric_that_is_negative_or_zero_has_a_difference_but_no_lift() -> None:
    rng = np.random.default_rng(0)
    result = compare(
        from_users(rng.normal(-5, 1, 400)), from_users(rng.normal(0, 1, 400))
    )

    assert result.difference is not None
    assert result.lift is None
    assert result.lift_sequence is None


def test_few_users_have_an_interval_but_no_sequence() -> None:
    few = MINIMUM_USERS - 1
    result = compare(*(from_users(*(c[:few] for c in x)) for x in (CONTROL, TREATMENT)))

    assert result.interval is not None
    assert result.sequence is None
    assert result.sequential_p is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: from_users([1.0, 2.0], [1.0]),
        lambda: from_users([1.0, math.nan]),
        lambda: compare(from_users([1.0, 2]), from_users([1.0, 2]), alpha=0),
        lambda: sequence_factor(0, 0.05),
        lambda: sequence_factor(100, 0.05, 0),
        lambda: checks.sample_ratio([1], [100]),
        lambda: checks.sample_ratio([1, 2], [100, 0]),
        lambda: checks.holm([math.nan]),
        lambda: power.users_needed(0, 1),
        lambda: power.users_needed(1, 0),
        lambda: power.users_needed(1, 1, target=1.0),
        lambda: power.users_needed(1, 1, share=1.0),
        lambda: power.detectable(0, 1),
        lambda: power.plan(0, 1, 0.05),
        lambda: power.plan(1, 1, 0.05, variance_reduction=1),
        lambda: power.plan(1, 1, 0.05, daily_users=0),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_with_a_hint(call) -> None:
    with pytest.raises(ConfigError) as caught:
        call()

    assert caught.value.hint


def test_a_sample_ratio_without_users_is_unknown() -> None:
    assert checks.sample_ratio([0, 0], [50, 50]) is None
    assert checks.sample_ratio([5000, 0], [50, 50]) < checks.ALARM


# power ------------------------------------------------------------------------------


def test_a_history_saves_users_and_the_sequence_costs_some() -> None:
    base = power.plan(0.05, 0.3, 0.1, daily_users=1_000)
    helped = power.plan(0.05, 0.3, 0.1, daily_users=1_000, variance_reduction=0.4)
    watched = power.plan(0.05, 0.3, 0.1, sequential=True)

    assert helped.users == pytest.approx(base.users * 0.6, rel=1e-3)
    assert base.days == math.ceil(base.users / 1_000)
    assert 1.5 * base.users < watched.users < 2.5 * base.users
    lopsided = power.plan(0.05, 0.3, 0.1, share=0.1)
    assert lopsided.users > 2 * base.users
    assert lopsided.treatment == pytest.approx(lopsided.users / 10, rel=1e-3)


def test_the_promised_power_is_reached_in_simulation() -> None:
    rng = np.random.default_rng(3)
    needed = power.plan(0.2, 0.4, 0.1)
    found = 0
    for _ in range(400):
        a = rng.binomial(1, 0.2, needed.control)
        b = rng.binomial(1, 0.22, needed.treatment)
        found += (compare(from_users(a), from_users(b)).p_value or 1) < 0.05

    assert 0.74 < found / 400 < 0.86
