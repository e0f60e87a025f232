"""Newest interactions that lie alone, long after the others: said before the fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from toys import FAST, BeforeTheSearch, checkerboard, make_config

from recsys.progress import SILENT
from recsys.training.dataset import Dataset
from recsys.training.gap import find_gap
from recsys.training.search import search
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

    gap = find_gap(made(times))

    assert gap is not None
    assert gap.alone == alone
    assert gap.since == AUTUMN
    assert gap.ends == times[alone:].max()


def test_two_of_few_are_warned_of_as_one_is() -> None:
    times = of_sixty_days(150)
    times[:2] = AUTUMN

    gap = find_gap(made(times))

    assert gap is not None
    assert gap.alone == 2


def test_gaps_among_the_newest_count_from_the_first() -> None:
    times = of_sixty_days()
    times[:2] = [SPRING + 60 * DAY, AUTUMN]

    gap = find_gap(made(times))

    assert gap is not None
    assert (gap.since, gap.alone) == (SPRING + 60 * DAY, 2)


def test_data_that_go_on_have_no_gap() -> None:
    evenly = of_sixty_days()
    resumed = of_sixty_days()
    resumed[:100] += 240 * DAY

    assert find_gap(made(evenly)) is None
    assert find_gap(made(np.floor(evenly / DAY) * DAY)) is None
    assert find_gap(made(resumed)) is None


@pytest.mark.parametrize("alone", [1, 4, 12])
@pytest.mark.parametrize("pause", [3, 7])  # a weekend, one with holidays
def test_office_hours_have_no_gap_on_the_first_morning(pause: int, alone: int) -> None:
    friday = SPRING  # a Friday
    rng = np.random.default_rng(alone)
    days = rng.integers(0, 12, 1000) * 7 + rng.integers(0, 5, 1000)
    times = friday - days * DAY - rng.random(1000) * DAY / 3
    times[:alone] = friday + pause * DAY + np.arange(alone) * 60

    assert find_gap(made(times)) is None


@pytest.mark.parametrize("n", [60, 1000])
def test_times_that_are_months_have_no_gap(n: int) -> None:
    months = np.arange("2025-01", "2026-01", dtype="datetime64[M]")
    starts = months.astype("datetime64[s]").astype(np.float64)
    times = np.random.default_rng(0).choice(starts[:-1], n)
    times[:3] = starts[-1]

    assert find_gap(made(times)) is None


def test_sparse_sessions_have_no_gap() -> None:
    """A few visits in two years, each of a few interactions within an hour."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        visits = SPRING - rng.random(30) * 730 * DAY
        times = rng.choice(visits, 90) + rng.random(90) * 3600

        assert find_gap(made(times)) is None


def test_one_time_for_all_but_the_newest_is_a_gap() -> None:
    times = np.full(100, SPRING)
    times[3] = AUTUMN

    gap = find_gap(made(times))

    assert gap is not None
    assert (gap.alone, gap.ends) == (1, SPRING)


def test_equal_unknown_and_few_times_have_no_gap() -> None:
    few = of_sixty_days(49)
    few[0] = AUTUMN

    assert find_gap(made(np.full(100, SPRING))) is None
    assert find_gap(made(np.full(100, np.nan))) is None
    assert find_gap(made(few)) is None


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


def test_a_search_warns_when_it_begins_and_not_when_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = of_sixty_days()
    times[0] = AUTUMN
    quick = make_config(train=replace(FAST, epochs=1, dim=8))
    asked = (made(times), quick, tmp_path / "toy.study")

    search(*asked, trials=1, progress=SILENT)
    begun = caplog.text
    caplog.clear()
    search(*asked, resume=True, trials=1, progress=SILENT)

    assert "--until 2026-11-15T09:46:40" in begun
    # To leave it out now would change what the study compares.
    assert "--until" not in caplog.text


def test_a_training_up_to_the_gap_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick = make_config(train=replace(FAST, epochs=1))

    model = train(made(of_sixty_days()), quick)

    assert model.report["warnings"] == []
    assert "alone" not in caplog.text
