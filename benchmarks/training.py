"""Training speed of the default trainer on Gowalla; skipped without the data.

Left out: reading from Postgres, the choice of the settings, export. 'make bench' runs
it under the allocator settings that 'recsys train' uses; without them it is slower.
"""

from __future__ import annotations

import csv
import gzip
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Row
from recsys.config import from_mapping

CONFIG = {
    "model": {
        "gowalla": {
            "items": {"sql": "select 1"},
            "interactions": {"sql": "select 1"},
            "train": {"dim": 64, "tau": 0.1, "dropout": 0.5},
        }
    }
}


def run(folder: Path, epochs: int) -> list[Row]:
    """Measure some epochs at d = 64."""
    file = folder / "train.csv.gz"
    if not file.exists():
        return [Row("skipped", 0, "", note=f"no {file.name} in the data folder")]
    import torch

    from recsys.training import loop, svd
    from recsys.training.dataset import Dataset
    from recsys.training.objectives.ranking import _RankingLoss
    from recsys.training.rows import query_rows
    from recsys.training.settings import Settings

    with gzip.open(file, "rt") as text:
        reader = csv.reader(text)
        next(reader)
        pairs = np.array([(int(u), int(i)) for u, i in reader])
    config = from_mapping(CONFIG).model("gowalla")
    dataset = Dataset.from_arrays(config, pairs[:, 0], pairs[:, 1])
    rows = query_rows(dataset, np.ones(len(pairs), bool), None, config.train.history)
    train = config.train
    settings = Settings(
        train.dim, train.tau, train.dropout, train.beta, train.lr, train.batch,
        train.negatives, 0.0,
    )  # fmt: skip
    start = time.perf_counter()
    first = svd.first_rows(rows, train.dim, seed=0)
    svd_s = time.perf_counter() - start
    inside = _timed(_RankingLoss)
    seconds: list[float] = []

    def after(epoch: Any, towers: Any) -> bool:
        del towers
        seconds.append(epoch.seconds)
        return False

    loop.fit(dataset, rows, settings, epochs, 0, first, after)
    epoch_s = float(np.median(seconds))
    outside = 1 - inside["s"] / sum(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    threads = f"{torch.get_num_threads()} threads, median of {epochs}"
    return [
        Row("warm start (SVD)", svd_s, "s"),
        Row("epoch", epoch_s, "s", note=f"{threads}; the prototype: 1.5 s"),
        Row("interactions", len(pairs) / epoch_s, "/s"),
        Row("outside the loss and its gradient", 100 * outside, "%"),
        Row("peak memory", peak, "MB"),
    ]


def _timed(function: Any) -> dict[str, float]:
    """Add up the time inside the loss's forward and backward passes."""
    total = {"s": 0.0}
    for name in ("forward", "backward"):
        inner = getattr(function, name)

        def outer(*args: Any, inner: Any = inner, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                total["s"] += time.perf_counter() - start

        setattr(function, name, staticmethod(outer))
    return total
