"""Learning with the popularity of the time: nothing of it may know what comes later."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from toys import make_config

from recsys.popularity import DAY_S, HALF_LIVES_D
from recsys.training.choice.tried import first_settings
from recsys.training.dataset import Dataset
from recsys.training.device import resolve
from recsys.training.loop import fit
from recsys.training.periods import (
    Cutter,
    PeriodRows,
    Periods,
    Positives,
    beginnings,
    counts_at,
)
from recsys.training.rows import QueryRows, query_rows
from recsys.training.sampler import Sampler, UserRows
from recsys.training.svd import first_rows

USERS, ITEMS, START = 40, 12, 1e9


def events(seed: int = 0, n: int = 400) -> Positives:
    """A user may choose an item again; some times are unknown."""
    rng = np.random.default_rng(seed)
    time = START + np.floor(rng.random(n) * 100 * DAY_S)
    time[::50] = np.nan
    user = rng.integers(0, USERS, n)
    return Positives(
        row=user,
        user=user,
        item=rng.integers(0, ITEMS, n),
        weight=rng.random(n).astype(np.float32) + 0.1,
        time=time,
    )


def slow_count(made: Positives, item: int, before: float, half_life_d: float) -> float:
    """Every user's latest event with the item before a time, one by one."""
    latest: dict[int, float] = {}
    for user, which, time in zip(made.user, made.item, made.time, strict=True):
        if which == item and time < before:
            latest[int(user)] = max(latest.get(int(user), -math.inf), time)
    ages = [(before - time) / DAY_S for time in latest.values()]
    return math.fsum(0.5 ** (age / half_life_d) for age in ages)


def test_counts_know_only_what_came_strictly_before() -> None:
    made = events()
    known = np.isfinite(made.time)
    time = np.where(known, made.time, -np.inf)
    # One of the times is that of an event, which it must not count.
    starts = np.sort([START, made.time[3], START + 30 * DAY_S, START + 99 * DAY_S])

    counts = counts_at(made.user, made.item, time, ITEMS, starts)

    for number, start in enumerate(starts):
        for row, half_life in enumerate(HALF_LIVES_D):
            slow = [slow_count(made, item, start, half_life) for item in range(ITEMS)]
            np.testing.assert_allclose(counts[number, row], slow, atol=1e-9)


def cut(made: Positives, end: float) -> Periods:
    starts = beginnings(float(np.nanmin(made.time)), end, ITEMS)
    assert starts is not None
    cutter = Cutter(starts, end, ITEMS)
    cutter.add(made, 0)
    return cutter.periods()


def test_the_future_does_not_change_what_earlier_periods_see() -> None:
    made = events()
    end = START + 100 * DAY_S
    late = made.time > START + 60 * DAY_S
    other = replace(made, item=np.where(late, 0, made.item))

    periods, changed = (cut(some, end) for some in (made, other))

    length = 100 / len(periods.popularity)
    before = [p for p in range(len(periods.popularity)) if p * length <= 60]
    assert torch.equal(periods.popularity[before], changed.popularity[before])
    assert not torch.equal(periods.popularity[-1], changed.popularity[-1])


def test_every_positive_is_learned_once_at_its_first_time() -> None:
    made = events()

    periods = cut(made, START + 100 * DAY_S)

    owner = torch.repeat_interleave(periods.targets.start.diff())
    found = {
        (int(periods.row[o]), int(item)): int(periods.period[o])
        for o, item in zip(owner, periods.targets.values, strict=True)
    }
    wanted: dict[tuple[int, int], float] = {}
    for user, item, time in zip(made.user, made.item, made.time, strict=True):
        at = time if math.isfinite(time) else START
        wanted[int(user), int(item)] = min(at, wanted.get((user, item), math.inf))
    length = 100 * DAY_S / len(periods.popularity)
    first = START + 100 * DAY_S - length * len(periods.popularity)
    assert len(owner) == len(wanted)
    assert found == {p: int((t - first) // length) for p, t in wanted.items()}


def test_a_step_is_of_one_period_and_an_epoch_of_all_rows() -> None:
    rows = timed_rows()[1]
    assert rows.periods is not None
    source = PeriodRows(UserRows(rows), rows.periods, 1.2)

    batches = source.batches(16, torch.Generator().manual_seed(0))

    assert all(len(set(rows.periods.period[b].tolist())) == 1 for b in batches)
    assert max(map(len, batches)) <= 16
    every = torch.cat(list(batches)).sort().values
    assert torch.equal(every, torch.arange(len(source)))


def timed_rows() -> tuple[Dataset, QueryRows]:
    """Everybody follows the wave; even users choose even items within it."""
    rng = np.random.default_rng(1)
    users = rng.integers(0, 100, 3_000)
    day = np.sort(rng.random(3_000)) * 120
    items = (day // 10).astype(int) * 4 + rng.integers(0, 4, 3_000)
    data = Dataset.from_arrays(make_config(), users, items, times=START + day * DAY_S)
    return data, query_rows(data, np.ones(len(data), bool), data.until, 32)


def test_the_loss_sees_the_popularity_of_the_period() -> None:
    data, rows = timed_rows()
    assert rows.periods is not None
    settings = replace(first_settings(make_config()), recent_beta=1.2)
    source = PeriodRows(UserRows(rows), rows.periods, 1.2)
    generator = torch.Generator().manual_seed(0)
    sampler = Sampler(source, rows, settings, resolve(), generator, content=False)
    chosen = torch.nonzero(rows.periods.period == 5).squeeze(1)[:8]

    step = sampler.step(chosen)

    assert torch.equal(step.batch.bias, 1.2 * rows.periods.popularity[5])
    start = first_rows(rows, settings.dim, 0)
    assert fit(data, rows, settings, 2, 0, start).served.isfinite().all()


def test_a_day_of_data_is_not_cut() -> None:
    assert beginnings(START, START + 400, ITEMS) is None
