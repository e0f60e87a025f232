"""Memory that a training takes beside the interactions, by how many there are.

Measured are the split, the rows of a fit, warm start, companions and fingerprint, each
time in a process of its own. Left out are what judges on the validation slice, and the
steps of a fit, which see one batch at a time; a whole training with one epoch and given
settings is measured by ``python -m benchmarks.memory train COUNT 0 0``.
Counted is what belongs to the process alone (``RssAnon``), beyond what it had when the
interactions were there, looked at every few milliseconds: pages of files, which the
kernel takes back when memory is short, are left out. 30 interactions per user, 10,000
items, 200 days.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Row

SIZES = (1_000_000, 4_000_000)
NEVER = 10**15
# Freed blocks go back to the system, so that a peak is what was held at once.
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def run(sizes: tuple[int, ...] = SIZES) -> list[Row]:
    """Measure with users in blocks, and with all users at once."""
    out: list[Row] = []
    for name, block in (("in blocks", 0), ("at once", NEVER)):
        for count in sizes:
            peak = measured("prepare", count, block, block) / 1e6
            note = f"{1e6 * peak / count:.0f} bytes per interaction"
            out.append(Row(f"{count:,} interactions, {name}", peak, "MB", note=note))
    return out


def measured(what: str, count: int, block: int = 0, in_memory: int = 0) -> int:
    """Return the most bytes that a piece of work takes, in a process of its own.

    Args:
        what: Name of one of ``WORK``.
        count: Interactions.
        block: How many are looked at together; 0 is the default.
        in_memory: Bytes from which on a column is a file; 0 is the default.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", what]
        + [str(number) for number in (count, block, in_memory)],
        env={**os.environ, **_ENVIRONMENT},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return int(done.stdout.split()[-1])


def _train(dataset: Any) -> object:
    from recsys.training.trainer import train

    return train(dataset, _config())


def _prepare(dataset: Any) -> object:
    """Make of the interactions what a fit begins with."""
    from recsys.training.checkpoint import fingerprint
    from recsys.training.companions import closest
    from recsys.training.rows import query_rows
    from recsys.training.split import split
    from recsys.training.svd import first_rows

    cut = split(dataset, 0.1, seed=0)
    rows = query_rows(dataset, cut.train, cut.end, 128)
    return len(first_rows(rows, 16, 0)), closest(rows), fingerprint(dataset, rows)


WORK: dict[str, Callable[[Any], object]] = {"train": _train, "prepare": _prepare}


class _Peak:
    """Looks at the memory of this process until it is told to end."""

    def __init__(self) -> None:
        self._began = self.most = _anonymous()
        self._over = False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over:
            self.most = max(self.most, _anonymous())
            time.sleep(0.003)

    def end(self) -> int:
        """Return by how many bytes it grew at most."""
        self._over = True
        self._thread.join()
        return self.most - self._began


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("the kernel does not say RssAnon")


def _config() -> Any:
    from recsys.config import from_mapping

    train = {"epochs": 1, "dim": 64, "tau": 0.15, "dropout": 0.5, "companions": 0.5}
    model = {
        "item_id": "bigint",
        "user_id": "bigint",
        "items": {"sql": "select 1"},
        "interactions": {"sql": "select 1"},
        "query": {"encoder": "mean"},
        "train": {**train, "recent_beta": 0.5},
    }
    return from_mapping({"model": {"shop": model}}).models["shop"]


def _dataset(count: int) -> Any:
    from recsys.training.columns import Column
    from recsys.training.dataset import Dataset

    rng = np.random.default_rng(0)
    users, items, seconds = max(1, count // 30), 10_000, 200 * 86_400.0
    columns = Column(np.int32), Column(np.int32), Column(np.float64), Column(np.int16)
    for first in range(0, count, 100_000):
        some = min(100_000, count - first)
        columns[0].add(rng.integers(0, users, some))
        columns[1].add((rng.random(some) ** 2 * items).astype(np.int32))
        columns[2].add(1.7e9 + seconds * rng.random(some))
        columns[3].add(np.zeros(some))
    return Dataset(
        range(items),
        range(users),
        *(column.array() for column in columns),
        kinds=("",),
        kind_weight=np.ones(1, np.float32),
        kind_target=np.ones(1, bool),
        until=1.7e9 + seconds,
    )


def main(what: str, count: str, block: str, in_memory: str) -> None:
    """Do a piece of work, and print what it took."""
    from recsys.training import blocks, columns

    blocks.BLOCK = int(block) or blocks.BLOCK
    columns.IN_MEMORY = int(in_memory) or columns.IN_MEMORY
    WORK[what](_dataset(5_000))  # what is loaded and allocated once
    dataset = _dataset(int(count))
    peak = _Peak()
    kept = WORK[what](dataset)
    print(peak.end())
    del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
