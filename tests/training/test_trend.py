"""The popularity dimension against the slow way to compute it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.popularity import DAY_S, HALF_LIVES_D, Trend, decayed_counts
from recsys.training.trend import blend, grid


def test_decayed_counts_equal_the_sum_over_events() -> None:
    rng = np.random.default_rng(0)
    item = rng.integers(0, 7, 200)
    time = 1e9 + rng.random(200) * 90 * DAY_S
    time[::20] = -1e18  # unknown
    end = 1e9 + 90 * DAY_S

    counts = decayed_counts(item, time, 8, end)

    for row, half_life in enumerate(HALF_LIVES_D):
        for number in range(8):
            ages = [(end - t) / DAY_S for t in time[item == number]]
            slow = math.fsum(0.5 ** (age / half_life) for age in ages)
            assert counts[row, number] == pytest.approx(slow, rel=1e-5)
    assert not counts[:, 7].any()


def test_the_popularity_dimension_is_a_weighted_sum_of_logarithms() -> None:
    pop = np.array([1.0, 4.0], np.float32)
    decayed = np.array([[0.0, 1.0], [0.5, 2.0], [0.5, 3.0], [1.0, 4.0]], np.float32)

    bias = Trend(0.1, (0.4, 0.3, 0.2, 0.05)).bias(pop, decayed)

    slow = 0.1 * math.log(4) + 0.4 * math.log(1.5) + 0.3 * math.log(2.5)
    slow += 0.2 * math.log(3.5) + 0.05 * math.log(4.5)
    assert bias[1] == pytest.approx(slow, rel=1e-5)


def test_what_is_tried_is_in_units_of_tau_and_never_negative() -> None:
    tried = grid(0.2, 0.5, timed=True)

    assert [tuple(w / 2 for w in t.recent) for t in tried] == [
        pytest.approx(t.recent) for t in grid(0.1, 0.5, timed=True)
    ]
    assert all(min((t.long_run, *t.recent)) >= 0 for t in tried)
    assert grid(0.2, 0.5, timed=False) == [Trend(pytest.approx(0.12))]


def test_what_is_as_good_as_the_best_shares_the_weight() -> None:
    tried = [Trend(0.4), Trend(0.0, (0.2, 0.0)), Trend(0.0, (0.0, 0.6))]

    mean = blend(tried, [0.1, 0.3, 0.3])
    best = blend(tried, [0.1, 0.3, 0.2])

    assert mean.long_run == pytest.approx(0, abs=1e-9)
    assert mean.recent == (pytest.approx(0.1), pytest.approx(0.3))
    assert best.recent == (pytest.approx(0.2), pytest.approx(0, abs=1e-6))
