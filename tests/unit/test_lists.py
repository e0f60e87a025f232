"""Likeness of lists and intervals, against values computed by hand and by force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys import _gate, _lists
from recsys._gate import Facts, Gate
from recsys._lists import Paired
from recsys.errors import ConfigError


def slow_rbo(a: list[int], b: list[int], p: float) -> float:
    """RBO_ext word for word as in the paper: S the shorter list, L the longer."""
    short, long = sorted((a, b), key=len)
    s, n = len(short), len(long)

    def x(d: int) -> int:
        return len(set(short[:d]) & set(long[:d]))

    first = sum(x(d) / d * p**d for d in range(1, n + 1))
    second = sum(x(s) * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    rest = ((x(n) - x(s)) / n + x(s) / s) * p**n
    return (1 - p) / p * (first + second) + rest


def test_rbo_of_two_swapped_items_by_hand() -> None:
    # X = 0, 2, so agreements are 0 and 1: (1-p)/p * (0 + p^2) + 1 * p^2 with p = 0.9.
    found = _lists.rank_biased_overlap([1, 2], [2, 1], p=0.9)

    assert found == pytest.approx(0.1 / 0.9 * 0.81 + 0.81)
    assert found == pytest.approx(0.9)


def test_rbo_of_half_different_lists_by_hand() -> None:
    # X = 1, 1, so agreements are 1 and 1/2; p = 0.5: 1 * (0.5 + 0.125) + 0.5 * 0.25.
    found = _lists.rank_biased_overlap(["a", "b"], ["a", "c"], p=0.5)

    assert found == pytest.approx(0.75)


def test_rbo_of_a_prefix_is_one() -> None:
    """Beyond its end the shorter list is taken to go on agreeing as it did."""
    assert _lists.rank_biased_overlap([1, 2], [1, 2, 3, 4]) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(30))
def test_rbo_agrees_with_the_formula_of_the_paper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.permutation(25)[: rng.integers(1, 20)].tolist()
    b = rng.permutation(25)[: rng.integers(1, 20)].tolist()

    found = _lists.rank_biased_overlap(a, b, p=0.9)

    assert found == pytest.approx(slow_rbo(a, b, 0.9))
    assert found == pytest.approx(_lists.rank_biased_overlap(b, a, p=0.9))
    assert 0 <= found <= 1 + 1e-9


def test_equal_disjoint_and_empty_lists() -> None:
    for measure in (_lists.rank_biased_overlap, _lists.overlap):
        assert measure([3, 1, 2], [3, 1, 2]) == pytest.approx(1)
        assert measure([1, 2], [3, 4]) == 0
        assert measure([], [1]) == 0
        assert measure([], []) == 1
    assert _lists.overlap([1, 2, 3, 4], [4, 9]) == 0.25


@pytest.mark.parametrize(
    ("degrees", "expected"),
    # Published tables of Student's t, two-sided 95 %.
    [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (29, 2.045), (120, 1.980)],
)
def test_t_quantiles_are_those_of_the_tables(degrees: int, expected: float) -> None:
    assert _lists.t_quantile(0.975, degrees) == pytest.approx(expected, abs=2e-3)


def test_a_paired_interval_by_hand() -> None:
    found = _lists.paired_mean(np.array([0.0, 1, 2, 3]), np.array([1.0, 2, 3, 6]))

    # Differences 1, 1, 1, 3: mean 1.5, deviation 1, t(3) = 3.182 / sqrt(4).
    assert (found.base, found.candidate, found.difference) == (1.5, 3.0, 1.5)
    assert found.low == pytest.approx(1.5 - 3.182 / 2, abs=2e-3)
    assert found.high == pytest.approx(1.5 + 3.182 / 2, abs=2e-3)
    assert _lists.paired_mean(np.zeros(1), np.ones(1)).low is None


def test_a_paired_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        user = rng.exponential(size=40)
        base, candidate = user + rng.normal(size=(2, 40)) * 0.5
        found = _lists.paired_mean(base, candidate)
        covered += (found.low or 0) <= 0 <= (found.high or 0)

    assert 930 <= covered <= 970


def test_a_quantile_is_compared_in_pairs() -> None:
    values = np.arange(101.0)

    found = _lists.paired_quantile(values, values + 3, 0.5)

    assert (found.base, found.candidate) == (50, 53)
    assert found.low == found.high == found.difference == 3


# the verdict -------------------------------------------------------------------------


def verdict(
    gate: Gate | None = None,
    *,
    ndcg: Paired | None = None,
    users: int = 100,
    ann_high: float | None = 1.0,
    limited: str | None = None,
    **metrics: Paired,
) -> tuple[bool, str]:
    ndcg = ndcg or Paired(0.2, 0.2, 0.0, -0.01, 0.01)
    return _gate.judge(
        gate or Gate(),
        Facts(
            2, "version 1", users, users, {"ndcg@20": ndcg, **metrics}, "ndcg@20",
            0.95, ann_high, limited,
        ),
    )  # fmt: skip


def test_a_version_as_good_as_the_other_passes() -> None:
    passed, told = verdict()

    assert passed
    assert told == "passed: ndcg@20 0.2000 -> 0.2000 on 100 users against version 1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ndcg": Paired(0.2, 0.18, -0.02, -0.05, 0.01)}, "fell by 10.0%"),
        ({"ndcg": Paired(0.2, 0.196, -0.004, -0.006, -0.002)}, "fell for certain"),
        ({"ndcg": Paired(0.0, 0.0, 0.0, 0.0, 0.0)}, "of both is 0"),
        ({"users": 29}, "too little data: 30 users are needed"),
        ({"ann_high": 0.94}, "ANN recall on these users is at most 0.940"),
        ({"ann_recall": Paired(0.99, 0.93)}, "ANN recall is 0.930"),
        ({"coverage": Paired(0.5, 0.2)}, "coverage is 20.0%"),
        ({"latency_p99_ms": Paired(4, 8, 4, 3, 5)}, "p99 latency is 8.0 ms"),
        ({"limited": "on 37 % of the items"}, "limited data: on 37 % of the items"),
    ],
)
def test_what_does_not_pass_says_why(given: dict[str, object], words: str) -> None:
    passed, told = verdict(**given)  # type: ignore[arg-type]

    assert not passed
    assert words in told


@pytest.mark.parametrize(
    "given",
    [
        {"ndcg": Paired(0.2, 0.191, -0.009, -0.03, 0.01)},
        {"ndcg": Paired(0.0, 0.1, 0.1, 0.0, 0.2)},
        {"coverage": Paired(0.5, 0.25)},
        # Twice as slow, but by noise; and slower by more, but not by half.
        {"latency_p99_ms": Paired(1, 2.9, 1.9, 1, 2)},
        {"latency_p99_ms": Paired(4, 8, 4, -1, 9)},
        {"latency_p99_ms": Paired(20, 25, 5, 4, 6)},
        {"ann_high": None, "users": 30},
        {"gate": Gate(max_drop=0.2), "ndcg": Paired(0.2, 0.17, -0.03, -0.1, 0.1)},
    ],
)
def test_what_is_within_the_bounds_passes(given: dict[str, object]) -> None:
    assert verdict(**given)[0]  # type: ignore[arg-type]


def test_limited_data_and_few_users_pass_no_gate_however_good() -> None:
    better = Paired(0.1, 0.9, 0.8, 0.7, 0.9)

    assert not verdict(ndcg=better, limited="on 100 % of the items")[0]
    assert not verdict(ndcg=better, users=5)[0]
    assert math.isclose(better.difference or 0, 0.8)


@pytest.mark.parametrize(
    "given",
    [
        {"max_drop": math.nan},
        {"max_drop": math.inf},
        {"max_drop": -0.1},
        {"max_drop": 1.1},
        {"min_coverage": math.nan},
        {"max_latency": 0.5},
        {"latency_slack_ms": -1},
        {"min_users": 0},
    ],
)
def test_thresholds_out_of_range_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="threshold") as caught:
        Gate(**given)  # type: ignore[arg-type]

    assert caught.value.hint


def test_weaker_thresholds_are_known_and_told() -> None:
    assert Gate().weaker == ()
    assert Gate(0.01, 0.9, 1.2, 1.0, 100).weaker == ()
    assert Gate(0.2, 0.1, 9, 9, 2).weaker == (
        "max_drop", "min_coverage", "max_latency", "latency_slack_ms", "min_users",
    )  # fmt: skip
    told = verdict(Gate(max_drop=0.2))[1]
    assert told.endswith("; with max_drop 0.2 instead of 0.05")
