"""What training keeps of interactions leaves memory: it grows with users and items."""

from __future__ import annotations

import dataclasses
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from toys import make_config

from recsys.config import Feature, Interactions, NegativesConfig, Source
from recsys.errors import TrainingError
from recsys.training import blocks, columns
from recsys.training.columns import Column
from recsys.training.dataset import Dataset
from recsys.training.interactions import Arrays, Collector
from recsys.training.rows import QueryRows, query_rows

START = 1.7e9
DAY_S = 86_400.0


def interactions(count: int, users: int = 300, items: int = 80) -> Dataset:
    """Kinds, dislikes, values, contexts, unknown times; a user with very much."""
    rng = np.random.default_rng(0)
    kinds = Interactions(
        "x", {"view": 1.0, "buy": 3.0}, dislikes=("no",), value="linear"
    )
    config = make_config(
        interactions=kinds,
        negatives=NegativesConfig(disliked=4),
        context=Source("select 1", (Feature("device", "category"),)),
    )
    user = rng.integers(0, users, count)
    user[: count // 10] = 7
    time = START + 200 * DAY_S * rng.random(count)
    time[::17] = np.nan
    return Dataset.from_arrays(
        config,
        user,
        rng.integers(0, items, count),
        times=time,
        kinds=np.array(["view", "buy", "no"])[rng.integers(0, 3, count)].tolist(),
        values=rng.random(count) - 0.05,
        context_columns={"device": np.array(["a", "b"])[user % 2].tolist()},
    )


def built(dataset: Dataset) -> QueryRows:
    keep = np.ones(len(dataset), bool)
    keep[::9] = False
    return query_rows(dataset, keep, START + 150 * DAY_S, 20, 30 * DAY_S)


def same(one: Any, other: Any, where: str) -> None:
    assert type(one) is type(other), where
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            name = field.name
            same(getattr(one, name), getattr(other, name), f"{where}.{name}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        # Counts are sums, which round by their order.
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5, msg=where)
    elif one is not None:
        np.testing.assert_array_equal(one, other, where)


@pytest.mark.parametrize("block", [1, 200, 2000])
def test_users_in_blocks_give_the_rows_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    dataset = interactions(6000)
    whole = built(dataset)
    assert whole.periods is not None
    assert whole.disliked is not None

    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr(columns, "IN_MEMORY", 100)

    same(whole, built(dataset), "rows")


def plain(count: int) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(
        item_ids=range(500),
        user_ids=range(1000),
        user=rng.integers(0, 1000, count).astype(np.int32),
        item=rng.integers(0, 500, count).astype(np.int32),
        time=START + 200 * DAY_S * rng.random(count),
        kind=np.zeros(count, np.int16),
        kinds=("",),
        kind_weight=np.ones(1, np.float32),
        kind_target=np.ones(1, bool),
    )


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that were taken at once; files do not count."""
    tracemalloc.start()
    try:
        kept = work()
        del kept
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 10_000)
    monkeypatch.setattr(columns, "IN_MEMORY", 20_000)


@pytest.mark.usefixtures("small")
def test_memory_for_rows_does_not_grow_with_interactions() -> None:
    few, many = plain(60_000), plain(240_000)
    end = START + 200 * DAY_S
    peaks = [
        peak(lambda of=of: query_rows(of, np.ones(len(of), bool), end, 256))
        for of in (few, many)
    ]

    # One byte is the mask of interactions to learn from.
    assert (peaks[1] - peaks[0]) / 180_000 < 8


@pytest.mark.usefixtures("small")
def test_memory_for_reading_does_not_grow_with_interactions() -> None:
    config = make_config()

    def read(batches: int) -> Arrays:
        found = Collector({i: i for i in range(50)}, config, START)
        for number in range(batches):
            batch = [(n % 200, n % 50, START - n, "", None) for n in range(5000)]
            batch[number] = (None, 3, None, "", None)
            found.add(batch)
        assert found.dropped == batches
        return found.arrays()

    small, large = peak(lambda: read(10)), peak(lambda: read(50))

    assert (large - small) / (40 * 5000) < 1


def test_a_column_in_a_file_is_the_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(columns, "IN_MEMORY", 1000)
    column, parts = Column(np.int32), [np.arange(n) for n in (0, 3, 400, 0, 500, 2)]
    for part in parts:
        column.add(part)

    whole = column.array()

    assert np.array_equal(whole, np.concatenate(parts))
    assert whole.dtype == np.int32
    # Whatever ends the process, nothing is left.
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) in Path("/proc/self/maps").read_text()


def test_no_folder_for_the_file_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/missing"])
    monkeypatch.setattr(columns, "IN_MEMORY", 1000)

    with pytest.raises(TrainingError, match="cannot be kept in any folder") as caught:
        Column(np.int64).add(np.arange(1000))

    assert "TMPDIR" in caught.value.hint


def test_a_folder_that_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(columns, "IN_MEMORY", 1000)

    with pytest.raises(TrainingError, match="cannot be kept in") as caught:
        Column(np.int64).add(np.arange(1000))

    assert "TMPDIR" in caught.value.hint


def test_no_room_for_the_file_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> IO[bytes]:
        return Path("/dev/full").open("w+b")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(columns, "IN_MEMORY", 1000)

    with pytest.raises(TrainingError, match="No space left") as caught:
        Column(np.int64).add(np.arange(1000))

    assert "Make room" in caught.value.hint
