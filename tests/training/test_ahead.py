"""Popularity as of several days: the days, their counts, and what they choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from toys import checkerboard, make_config

from recsys._query_config import QueryConfig
from recsys.config import Interactions, ModelConfig
from recsys.popularity import DAY_S, Trend
from recsys.progress import SILENT
from recsys.training import blocks
from recsys.training.ahead import DAYS, Ahead, start_times
from recsys.training.choice import choose
from recsys.training.dataset import Dataset
from recsys.training.evaluation import Judge
from recsys.training.lean import Lean, no_lean
from recsys.training.loop import fit
from recsys.training.model import Towers
from recsys.training.rows import QueryRows, query_rows
from recsys.training.settings import settings_of
from recsys.training.split import Split, horizon_s, split
from recsys.training.svd import first_rows
from recsys.training.trainer import train

CONFIG = make_config()


def world(seed: int = 0, days: float = 60.0, share: float = 0.5) -> Dataset:
    rng = np.random.default_rng(seed)
    users, items = checkerboard(share=share)
    times = 1e9 + rng.random(len(users)) * days * DAY_S
    return Dataset.from_arrays(CONFIG, users, items, times=times)


def cut_at(
    dataset: Dataset, days: float
) -> tuple[QueryRows, Split, Judge, Ahead, float]:
    serves_s = horizon_s(dataset, 0.1, days)
    cut = split(dataset, 0.1, 0, serves_s)
    rows = query_rows(dataset, cut.train, cut.end, 32)
    judge = Judge(dataset, rows, cut, 0)
    return rows, cut, judge, Ahead(
        dataset, rows, cut, judge, CONFIG.train, serves_s
    ), serves_s  # fmt: skip


def fitted(dataset: Dataset, rows: QueryRows) -> Towers:
    settings = settings_of(CONFIG, 0.15, 0.3)
    return fit(dataset, rows, settings, 2, 0, first_rows(rows, settings.dim, 0))


@pytest.mark.parametrize(
    ("length", "serves", "last"), [(20, 10, 10), (20, 5, 15), (20, 18, 10), (20, 0, 20)]
)
def test_what_came_within_the_horizon_is_known_of_every_day(
    length: float, serves: float, last: float
) -> None:
    starts = start_times(100.0, 100.0 + length, serves)

    assert len(starts) == DAYS
    assert starts[0] == 100
    assert starts[-1] == pytest.approx(100 + last)


def test_twice_the_horizon_is_held_out_up_to_a_third() -> None:
    dataset = world()
    last = dataset.time.max()

    assert horizon_s(dataset, 0.1, 7) == 7 * DAY_S
    assert horizon_s(dataset, 0.1, 0) == pytest.approx(6 * DAY_S, rel=0.1)
    week = split(dataset, 0.1, 0, 7 * DAY_S)
    month = split(dataset, 0.1, 0, 30 * DAY_S)
    day = split(dataset, 0.1, 0, DAY_S)

    assert week.end == pytest.approx(last - 14 * DAY_S)
    assert month.train.mean() == pytest.approx(2 / 3, abs=0.01)
    assert day.end == split(dataset, 0.1, 0).end


def test_without_times_there_is_no_horizon() -> None:
    users, items = checkerboard()
    dataset = Dataset.from_arrays(CONFIG, users, items)

    rows, _, judge, ahead, serves_s = cut_at(dataset, 7)

    assert serves_s == 0
    assert len(ahead) == 1
    towers = fitted(dataset, rows)
    chosen = ahead.trend(towers, [Trend(0.1)])
    assert chosen.long_run == pytest.approx(0.1)
    assert judge.users > 0


def test_each_day_has_the_rows_of_a_training_until_then() -> None:
    dataset = world()
    rows, cut, _, ahead, serves_s = cut_at(dataset, 9)
    assert cut.end is not None
    starts = start_times(cut.end, float(dataset.time.max()), serves_s)

    assert len(ahead) == DAYS
    for day, start in zip(ahead.days, starts.tolist(), strict=True):
        slow = query_rows(dataset, dataset.time < start, start, 32)
        assert np.array_equal(slow.items, rows.items)
        np.testing.assert_array_equal(day.pop, slow.pop)
        assert slow.decayed is not None
        assert day.decayed is not None
        np.testing.assert_allclose(day.decayed, slow.decayed, rtol=1e-4, atol=1e-5)


def test_counts_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = world()
    at_once = cut_at(dataset, 9)[3]

    monkeypatch.setattr(blocks, "BLOCK", 100)
    in_blocks = cut_at(dataset, 9)[3]

    for one, other in zip(at_once.days, in_blocks.days, strict=True):
        np.testing.assert_array_equal(one.pop, other.pop)
        assert one.decayed is not None
        assert other.decayed is not None
        np.testing.assert_allclose(one.decayed, other.decayed, rtol=1e-5, atol=1e-6)


def test_each_day_knows_what_users_did_before_it_and_nothing_else() -> None:
    dataset = world()
    rows, cut, _, ahead, serves_s = cut_at(dataset, 9)
    assert cut.end is not None
    starts = start_times(cut.end, float(dataset.time.max()), serves_s)

    for day, start in zip(ahead.days, starts.tolist(), strict=True):
        known = day.judge._rows
        users = known.users[day.judge.user]
        assert len(users) > 50
        for place, user in zip(day.judge.user, users, strict=True):
            mine = np.flatnonzero((dataset.user == user) & (dataset.time < start))
            had = dataset.item[mine[np.argsort(-dataset.time[mine])]]
            history = known.history.take(place.reshape(1)).values
            seen = known.seen.take(place.reshape(1)).values
            assert rows.items[history].tolist() == had.tolist()
            assert sorted(rows.items[seen].tolist()) == sorted(had.tolist())


def test_a_day_counts_nothing_by_time_of_its_own() -> None:
    ahead = cut_at(world(), 9)[3]

    for day in ahead.days:
        assert day.judge._rows.periods is None
        assert day.judge._rows.decayed is None


def test_what_is_to_be_found_came_within_the_horizon_and_is_new() -> None:
    dataset = world()
    rows, cut, _, ahead, serves_s = cut_at(dataset, 5)
    assert cut.end is not None
    starts = start_times(cut.end, float(dataset.time.max()), serves_s)

    for day, start in zip(ahead.days, starts.tolist(), strict=True):
        within = (dataset.time >= start) & (dataset.time <= start + serves_s)
        wanted = sorted(tuple(rows.items[some].tolist()) for some in day.judge.relevant)
        slow: list[tuple[int, ...]] = []
        for user in range(len(dataset.user_ids)):
            mine = dataset.user == user
            had = dataset.item[mine & (dataset.time < start)]
            new = np.setdiff1d(dataset.item[mine & within], had)
            if len(new) and len(had):
                slow.append(tuple(new.tolist()))
        assert wanted == sorted(slow)


class Said(Judge):
    """A judge that says what it was told to."""

    def __init__(self, scores: list[float]) -> None:
        self._scores = scores

    def score(self, towers: Towers, biases: torch.Tensor) -> list[dict[str, float]]:
        del towers
        assert len(biases) == len(self._scores)
        return [{"recall@20": score, "ndcg@20": score} for score in self._scores]


def test_one_day_does_not_choose_for_the_weeks() -> None:
    """The first day would choose the count of one day, all together the slow one."""
    dataset = world()
    rows, _, _, ahead, _ = cut_at(dataset, 9)
    towers = fitted(dataset, rows)
    said = [[0.5, 0.3], [0.1, 0.3], [0.2, 0.3], [0.1, 0.3], [0.2, 0.3], [0.1, 0.3]]
    ahead.days = [
        replace(day, judge=Said(scores))
        for day, scores in zip(ahead.days, said, strict=True)
    ]

    chosen = ahead.trend(
        towers, [Trend(0.0, (0.5, 0, 0, 0)), Trend(0.0, (0, 0, 0, 0.5))]
    )

    assert chosen.recent == (pytest.approx(0), 0, 0, pytest.approx(0.5))


def test_no_lean_is_chosen_where_none_is_better() -> None:
    dataset = world()
    rows, _, _, ahead, _ = cut_at(dataset, 9)
    towers = fitted(dataset, rows)

    strength, lean = ahead.lean(towers, Trend(0.0), (0.1,))

    # Without a popularity dimension every lean ranks alike.
    assert strength == 0
    assert torch.count_nonzero(lean.weight) == 0


class Leaning(Judge):
    """A judge to whom each lean is worth what it was told, as of its own day."""

    def __init__(self, worth: list[float], bias: torch.Tensor) -> None:
        self._worth = worth
        self._bias = bias

    def lean(
        self, towers: Towers, bias: torch.Tensor, leans: Sequence[Lean]
    ) -> NDArray[np.int64]:
        del towers
        assert torch.equal(bias, self._bias)
        assert len(leans) == len(self._worth)
        return np.arange(len(leans)).reshape(-1, 1, 1)

    def metrics(self, ranked: NDArray[np.int64]) -> dict[str, float]:
        score = self._worth[int(ranked.item())]
        return {"recall@20": score, "ndcg@20": score}


def test_one_day_does_not_choose_the_lean() -> None:
    dataset, trend = world(), Trend(0.1, (0.2, 0.0, 0.0, 0.1))
    rows, _, _, ahead, _ = cut_at(dataset, 9)
    towers = fitted(dataset, rows)
    worth = [[0.1, 0.2, 0.5], *[[0.1, 0.3, 0.2]] * 5]
    ahead.days = [
        replace(day, judge=Leaning(each, day.biases([trend])[0]))
        for day, each in zip(ahead.days, worth, strict=True)
    ]

    strength, lean = ahead.lean(towers, trend, (0.1, 0.2))

    assert strength == 0.1
    assert torch.count_nonzero(lean.weight)


def quick(**changes: Any) -> ModelConfig:
    return make_config(
        train=replace(CONFIG.train, **changes), query=QueryConfig(encoder="mean")
    )


@pytest.mark.parametrize("days", [0.0, 12.0])
def test_training_chooses_for_the_horizon_that_was_asked_for(days: float) -> None:
    dataset = world(share=0.15)
    config = quick(epochs=1, horizon_days=days, recent_beta=0.0)
    held_out = {
        serves_s: len(split(dataset, 0.1, 0, serves_s).users)
        for serves_s in (0.0, horizon_s(dataset, 0.1, 0), 12 * DAY_S)
    }
    assert len(set(held_out.values())) == 3

    validation = train(dataset, config).report["validation"]

    assert validation["days"] == DAYS
    assert validation["users"] == held_out[horizon_s(dataset, 0.1, days)]


@pytest.mark.parametrize(("epochs", "tried"), [(3, False), (8, True)])
def test_the_first_epochs_are_tried_without_a_lean(
    epochs: int, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Trend] = []

    def lean(
        ahead: Ahead, towers: Towers, trend: Trend, strengths: Sequence[float]
    ) -> tuple[float, Lean]:
        del ahead, strengths
        asked.append(trend)
        return 0.0, no_lean(towers.served)

    monkeypatch.setattr(Ahead, "lean", lean)

    choose(world(share=0.2), quick(epochs=epochs), SILENT)

    assert bool(asked) == tried


def test_a_day_on_which_nothing_was_worth_anything_is_no_error() -> None:
    """Who only looked is ranked for, too, whatever the looks were worth."""
    config = replace(
        quick(epochs=1), interactions=Interactions("select 1", value="linear")
    )
    rng = np.random.default_rng(0)
    users, items = checkerboard()
    left = np.array(users) < 60
    days = np.where(left, 15, 90) * rng.random(len(users))
    dataset = Dataset.from_arrays(
        config, users, items, times=1e9 + DAY_S * days, values=np.where(left, 10.0, 0.0)
    )

    assert train(dataset, config).report["validation"]["days"] == DAYS
