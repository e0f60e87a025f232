"""Newest interactions that lie alone, long after the others: said before the fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from toys import FAST, BeforeTheSearch, checkerboard, make_config

from recsys.training.dataset import Dataset
from recsys.training.gap import find_gap
from recsys.training.trainer import train

DAY = 86_400.0
SPRING = 1_774_000_000.0  # 20 March 2026, 9:46:40
AUTUMN = SPRING + 240 * DAY


def made(times: NDArray[np.float64]) -> Dataset:
    users, items = checkerboard()
    return Dataset.from_arrays(
        make_config(), users[: len(times)], items[: len(times)], times=times
    )


def of_sixty_days(n: int = 1000) -> NDArray[np.float64]:
    return SPRING - np.random.default_rng(0).random(n) * 60 * DAY


@pytest.mark.parametrize("alone", [1, 7])
def test_interactions_long_after_the_others_lie_alone(alone: int) -> None:
    times = of_sixty_days()
    times[:alone] = AUTUMN + np.arange(alone)

    gap = find_gap(made(times), 0.1)

    assert gap is not None
    assert gap.alone == alone
    assert gap.since == AUTUMN
    assert gap.ends == times[alone:].max()


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_data_that_go_on_have_no_gap(share: float) -> None:
    evenly = of_sixty_days()
    in_days = np.floor(evenly / DAY) * DAY
    weekend = np.where(evenly > SPRING - 2 * DAY, SPRING, evenly)
    resumed = of_sixty_days()
    resumed[:100] += 240 * DAY

    assert find_gap(made(evenly), share) is None
    assert find_gap(made(in_days), share) is None
    assert find_gap(made(weekend), share) is None
    assert find_gap(made(resumed), share) is None


def test_equal_unknown_and_few_times_have_no_gap() -> None:
    assert find_gap(made(np.full(100, SPRING)), 0.1) is None
    assert find_gap(made(np.full(100, np.nan)), 0.1) is None
    assert find_gap(made(np.array([SPRING, SPRING + 1, AUTUMN])), 0.1) is None


def test_one_time_for_all_but_the_newest_is_a_gap() -> None:
    times = np.full(100, SPRING)
    times[3] = AUTUMN

    gap = find_gap(made(times), 0.1)

    assert gap is not None
    assert (gap.alone, gap.ends) == (1, SPRING)


def test_a_training_says_before_the_fit_what_one_late_interaction_moves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = of_sixty_days()
    times[0] = AUTUMN
    quick = make_config(train=replace(FAST, epochs=1))
    progress = BeforeTheSearch(caplog)

    model = train(made(times), quick, progress=progress)

    (warning,) = model.report["warnings"]
    message = warning["message"]
    assert message.startswith("1 interaction lies alone, 240 days after all others: at")
    assert "2026-11-15 09:46 UTC, while the others end at 2026-03-20" in message
    assert "the slice holds 334 of 1,000 interactions, from 2026-02-" in message
    assert "--until 2026-11-15T09:46:40" in message
    assert message in (progress.text or "")


def test_a_training_up_to_the_gap_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick = make_config(train=replace(FAST, epochs=1))

    model = train(made(of_sixty_days()), quick)

    assert model.report["warnings"] == []
    assert "alone" not in caplog.text
