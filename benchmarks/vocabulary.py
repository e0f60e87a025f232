"""Time and memory to learn a category of millions of distinct values."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.report import Row
from recsys.config import Feature
from recsys.encoder.fit import fit

_HEAD = 5_000
_TAIL = 9_000


def run(distinct: int) -> list[Row]:
    """Learn so many values that occur once, beside 50,000 that occur often."""
    feature = Feature("tag", "category")
    before, start = _peak_mb(), time.perf_counter()
    found = fit((feature,), _batches(distinct)).features[0].vocabulary
    seconds = time.perf_counter() - start
    rare = sum(value.startswith("rare") for value in found)
    return [
        Row("cells", _cells(distinct) / seconds, "/s", note=f"{seconds:.0f} s in all"),
        Row("memory above the start", _peak_mb() - before, "MB", target=400),
        Row("values with a row of their own", len(found), "", note=f"{rare} rare ones"),
    ]


def _batches(distinct: int) -> Iterator[dict[str, list[str]]]:
    rng = np.random.default_rng(0)
    for first in range(0, distinct, _TAIL):
        head = rng.zipf(1.2, _HEAD) % 50_000
        rare = range(first, min(first + _TAIL, distinct))
        yield {"tag": [f"v{n}" for n in head.tolist()] + [f"rare {n}" for n in rare]}


def _cells(distinct: int) -> int:
    return distinct + _HEAD * -(-distinct // _TAIL)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
