"""Memory that the rows of a fit take beside the interactions, by how many there are.

Counted are the bytes that Python, numpy and torch hold at once, files left
out: what must fit into memory. 30 interactions per user, 10,000 items, 200 days.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np

from benchmarks.report import Row

SIZES = (1_000_000, 2_000_000, 4_000_000)
_NEVER = 10**15


def run(sizes: tuple[int, ...] = SIZES) -> list[Row]:
    """Measure rows of users in blocks, and of all users at once."""
    from recsys.training import blocks, columns

    out: list[Row] = []
    before = blocks.BLOCK, columns.IN_MEMORY
    for name, limits in (("in blocks", before), ("at once", (_NEVER, _NEVER))):
        blocks.BLOCK, columns.IN_MEMORY = limits
        for count in sizes:
            peak = _peak(count) / 1e6
            note = f"{1e6 * peak / count:.0f} bytes per interaction"
            out.append(Row(f"{count:,} interactions, {name}", peak, "MB", note=note))
    blocks.BLOCK, columns.IN_MEMORY = before
    return out


def _peak(count: int) -> int:
    from recsys.training.rows import query_rows

    dataset = _dataset(count)
    keep = np.ones(count, bool)
    tracemalloc.start()
    made = query_rows(dataset, keep, dataset.until, 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del made
    return peak


def _dataset(count: int) -> Any:
    from recsys.training.dataset import Dataset

    rng = np.random.default_rng(0)
    users, items, seconds = count // 30, 10_000, 200 * 86_400.0
    return Dataset(
        item_ids=range(items),
        user_ids=range(users),
        user=rng.integers(0, users, count).astype(np.int32),
        item=rng.integers(0, items, count).astype(np.int32),
        time=1.7e9 + seconds * rng.random(count),
        kind=np.zeros(count, np.int16),
        kinds=("",),
        kind_weight=np.ones(1, np.float32),
        kind_target=np.ones(1, bool),
        until=1.7e9 + seconds,
    )
