"""What looks through the interactions some at a time finds what it finds at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from toys import make_config

from recsys.config import Feature, Source
from recsys.training import blocks, companions
from recsys.training.checkpoint import fingerprint
from recsys.training.companions import closest
from recsys.training.dataset import Dataset
from recsys.training.leaks import find_leaks
from recsys.training.rows import QueryRows, query_rows
from recsys.training.split import Split, horizon_s, judged, split
from recsys.training.svd import first_rows

START = 1.7e9
DAY_S = 86_400.0


def interactions(count: int = 4000, users: int = 300, items: int = 120) -> Dataset:
    """A user with very much, repeats, contexts, unknown times, a leaking feature."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, users, count)
    user[: count // 10] = 7
    item = (rng.random(count) ** 2 * items).astype(int)
    time = START + 200 * DAY_S * rng.random(count)
    time[::17] = np.nan
    config = make_config(
        items=Source("select 1", (Feature("sold", "number"),)),
        context=Source("select 1", (Feature("device", "category"),)),
    )
    return Dataset.from_arrays(
        config,
        user,
        item,
        times=time,
        item_ids=list(range(items)),
        item_columns={"sold": np.bincount(item, minlength=items).tolist()},
        context_columns={"device": np.array(["a", "b"])[user % 2].tolist()},
    )


def rows_of(dataset: Dataset) -> QueryRows:
    return query_rows(dataset, np.ones(len(dataset), bool), dataset.until, 40)


def same_split(one: Split, other: Split) -> None:
    np.testing.assert_array_equal(one.train, other.train)
    np.testing.assert_array_equal(one.users, other.users)
    assert one.end == other.end
    assert len(one.relevant) == len(other.relevant)
    for some, again in zip(one.relevant, other.relevant, strict=True):
        np.testing.assert_array_equal(some, again)
    assert one.context is not None
    assert other.context is not None
    np.testing.assert_array_equal(one.context, other.context)


@pytest.mark.parametrize("block", [1, 70, 900])
def test_a_split_does_not_depend_on_blocks(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    dataset = interactions()
    whole = split(dataset, 0.1, seed=0)
    assert len(whole.users) > 100

    monkeypatch.setattr(blocks, "BLOCK", block)

    same_split(whole, split(dataset, 0.1, seed=0))
    same_split(whole, judged(dataset, whole.train, whole.end))


def test_what_a_user_had_is_no_hit_in_any_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 50)
    dataset = interactions()

    cut = split(dataset, 0.1, seed=0)

    had = set(zip(dataset.user[cut.train], dataset.item[cut.train], strict=True))
    later = set(zip(dataset.user[~cut.train], dataset.item[~cut.train], strict=True))
    found = {
        (user, item)
        for user, items in zip(cut.users, cut.relevant, strict=True)
        for item in items
    }
    known = set(dataset.user[cut.train]), set(dataset.item[cut.train])
    assert found == {(u, i) for u, i in later - had if u in known[0] and i in known[1]}


@pytest.mark.parametrize("shares", ["even", "most at once", "two times"])
@pytest.mark.parametrize("block", [13, 10_000])
def test_the_cut_is_at_its_rank(
    monkeypatch: pytest.MonkeyPatch, shares: str, block: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    rng = np.random.default_rng(0)
    time = START + 200 * DAY_S * rng.random(1000)
    if shares == "most at once":
        time[:800] = START + 1e7 + np.floor(rng.random(800) * 3)
    if shares == "two times":
        time = START + DAY_S * (np.arange(1000) >= 950)
    user, item = rng.integers(0, 50, 1000), rng.integers(0, 40, 1000)
    dataset = Dataset.from_arrays(make_config(), user, item, times=time)

    cut = split(dataset, 0.1, seed=0)

    assert cut.end == (START + DAY_S if shares == "two times" else np.sort(time)[900])


@pytest.mark.parametrize("block", [1, 300])
def test_random_splits_hold_out_a_share_in_any_block(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 80, 4000), rng.integers(0, 60, 4000)
    dataset = Dataset.from_arrays(make_config(), user, item)

    cut = split(dataset, 0.1, seed=0)

    pair = user * 60 + item
    distinct = {key: set(cut.train[pair == key].tolist()) for key in np.unique(pair)}
    # Repeats of a pair are on one side.
    assert all(len(sides) == 1 for sides in distinct.values())
    held = sum(sides == {False} for sides in distinct.values())
    assert held / len(distinct) == pytest.approx(0.1, abs=0.02)


def test_nothing_is_split_into_nothing() -> None:
    cut = split(Dataset.from_arrays(make_config(), [], [], times=[]), 0.1, 0)

    assert len(cut.users) == 0


def test_an_endless_time_is_unknown() -> None:
    time = START + DAY_S * np.r_[np.arange(99.0), np.inf]
    user, item = np.arange(100) % 10, np.arange(100) % 7
    dataset = Dataset.from_arrays(make_config(), user, item, times=time)

    cut = split(dataset, 0.1, 0)

    assert cut.end == START + DAY_S * 89
    assert cut.train[-1]
    assert horizon_s(dataset, 0.1, 0.0) == 9 * DAY_S


def test_the_fingerprint_does_not_depend_on_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = interactions()
    rows = rows_of(dataset)
    whole = fingerprint(dataset, rows)

    monkeypatch.setattr(blocks, "BLOCK", 100)

    assert fingerprint(dataset, rows) == whole


class Counted(np.ndarray[Any, np.dtype[np.int32]]):
    """Counts how often it is read from."""

    reads = 0

    def __getitem__(self, key: Any) -> Any:
        Counted.reads += 1
        return np.asarray(self)[key]


def test_neighbours_are_placed_once_however_many_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = interactions()
    near = np.random.default_rng(0).integers(-1, 120, (120, 4)).astype(np.int32)
    counted = replace(dataset, neighbours=near.view(Counted))
    whole = rows_of(replace(dataset, neighbours=near)).neighbours
    assert whole is not None

    monkeypatch.setattr(blocks, "BLOCK", 100)
    Counted.reads = 0
    found = rows_of(counted).neighbours

    assert Counted.reads == 1
    assert found is not None
    assert torch.equal(found, whole)


def test_leaks_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = interactions(20_000)
    cut = split(dataset, 0.3, seed=0)
    whole = find_leaks(dataset, cut)
    assert [leak.feature for leak in whole] == ["sold"]

    monkeypatch.setattr(blocks, "BLOCK", 100)

    (leak,) = find_leaks(dataset, cut)
    assert leak.known == pytest.approx(whole[0].known, rel=1e-4)


def normalised(rows: QueryRows) -> np.ndarray[Any, np.dtype[np.float64]]:
    dense = np.zeros((len(rows.targets), len(rows.items)))
    for row in range(len(rows.targets)):
        values, weight = rows.targets.entries(row)
        dense[row, values.numpy()] = weight
    return dense / np.sqrt(np.outer(dense.sum(1), dense.sum(0)))


@pytest.mark.parametrize("block", [1, 500, 1_000_000])
def test_the_warm_start_is_the_best_of_its_rank(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    rows = rows_of(interactions())
    monkeypatch.setattr(blocks, "BLOCK", block)

    start = first_rows(rows, dim=8, seed=0).double().numpy()

    # Scaled right singular vectors, so start' start is diagonal with their squares.
    scale = 0.1**2 * len(rows.items)
    size = np.linalg.svd(normalised(rows), compute_uv=False)
    gram = start.T @ start / scale
    np.testing.assert_allclose(np.diag(gram)[:4], size[:4] ** 2, rtol=0.02)
    projected = (normalised(rows) @ start) / np.linalg.norm(start, axis=0)
    kept = float((projected**2).sum())
    assert kept == pytest.approx(float((size[:8] ** 2).sum()), rel=0.02)


def close_of(rows: QueryRows) -> torch.Tensor:
    """Return the probability of each companion of each item, shape (T, T)."""
    near = closest(rows, most=200)
    share = near.share.clone()
    share[:, 1:] -= near.share[:, :-1]
    return torch.zeros(len(rows.items), len(rows.items)).scatter_add_(
        1, near.item, share
    )


def test_companions_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(interactions())
    whole = close_of(rows)

    monkeypatch.setattr(blocks, "BLOCK", 150)
    monkeypatch.setattr(companions, "_ENTRIES_PER_STEP", 40)
    monkeypatch.setattr(companions, "_ITEMS_PER_STEP", 7)

    torch.testing.assert_close(close_of(rows), whole, rtol=1e-4, atol=1e-5)


def test_companions_of_a_popular_item_are_those_of_many_of_its_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Item 0 goes with item 1 for 80 % of its users, with item 2 for the others.
    users = np.arange(1000)
    other = np.random.default_rng(0).permutation(1000) < 200
    item = np.where(other, 2, 1)
    dataset = Dataset.from_arrays(
        make_config(), np.r_[users, users], np.r_[np.zeros(1000, int), item]
    )
    rows = rows_of(dataset)
    monkeypatch.setattr(companions, "_MOST_USERS", 100)
    monkeypatch.setattr(blocks, "BLOCK", 333)

    near = close_of(rows)

    place = {dataset.item_ids[item]: at for at, item in enumerate(rows.items)}
    # Each is scaled by the root of its own popularity.
    expected = 0.8 / np.sqrt(800) / (0.8 / np.sqrt(800) + 0.2 / np.sqrt(200))
    assert float(near[place[0], place[1]]) == pytest.approx(expected, abs=0.06)


def test_products_of_companions_leave_no_memory_behind() -> None:
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 2000, 60_000), rng.integers(0, 1000, 60_000)
    dataset = Dataset.from_arrays(make_config(), user, item)
    rows = rows_of(dataset)
    for _ in range(3):
        closest(rows)  # what the allocator keeps for the next, it keeps once
    process = psutil.Process()
    before = process.memory_full_info().uss

    for _ in range(20):
        closest(rows)

    # A million entries each time; a product of CSR matrices kept eight bytes of each.
    assert process.memory_full_info().uss - before < 80e6
