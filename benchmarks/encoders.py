"""What each encoder of histories reaches on a validation slice, and what it costs.

    python -m benchmarks.encoders DATA [ENCODER ...]

DATA is the folder of MovieTweetings (ratings.csv.gz). All are trained at temperature
0.15 for four epochs; read on the latest tenth of the ratings before October 2013.
"""

from __future__ import annotations

import csv
import gzip
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recsys.config import ModelConfig, from_mapping

if TYPE_CHECKING:
    from recsys.training.dataset import Dataset

CUT_S = 1_380_585_600.0
EPOCHS = 4


def latency_us(encoder: str, dim: int = 64, length: int = 50) -> float:
    """Return the median time of one query from a full history, microseconds."""
    import torch

    from recsys._query_config import QueryConfig
    from recsys._tower import QueryTower
    from recsys.encoder import FittedSide
    from recsys.encoder.towers import query_tower
    from recsys.training.model import array
    from recsys.training.query import taste_of

    nothing, config = FittedSide(), QueryConfig(encoder=encoder, length=length)
    taste = taste_of(config, dim, 1e7, torch.Generator().manual_seed(0))
    weights = {name: array(value) for name, value in taste.named().items()}
    weights["default_query"] = np.ones(dim, np.float32)
    model = query_tower(dim, nothing, nothing, weights)
    tower = QueryTower(model, (), (), dim, sequential=config.sequential)
    rows = np.random.default_rng(0).normal(size=(length, dim)).astype(np.float32)
    ages, kinds = (np.arange(length) * 1e5).tolist(), [0] * length
    times: list[float] = []
    for _ in range(300):
        start = time.perf_counter()
        tower.encode_one(rows, np.ones(length, np.float32), None, None, ages, kinds)
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times))


def ratings(folder: Path) -> tuple[ModelConfig, Dataset]:
    """Read the ratings of MovieTweetings before the cut, without features."""
    from recsys.training.dataset import Dataset

    with gzip.open(folder / "ratings.csv.gz", "rt") as text:
        rated = [r for r in csv.DictReader(text) if float(r["timestamp"]) < CUT_S]
    source = {"items": {"sql": "select 1"}, "interactions": {"sql": "select 1"}}
    table = {"item_id": "text", "train": {"dim": 64}, **source}
    config = from_mapping({"model": {"m": table}}).model("m")
    return config, Dataset.from_arrays(
        config,
        [int(r["user_id"]) for r in rated],
        [r["item_id"] for r in rated],
        times=[float(r["timestamp"]) for r in rated],
    )


def quality(folder: Path, encoders: list[str]) -> None:
    """Print the best look of each encoder."""
    from recsys._query_config import QueryConfig
    from recsys.training.choice.tried import biases_of, first_settings
    from recsys.training.encoders import DROPOUT
    from recsys.training.evaluation import Judge
    from recsys.training.loop import Epoch, fit
    from recsys.training.metrics import score_of
    from recsys.training.model import Towers
    from recsys.training.rows import query_rows
    from recsys.training.split import split
    from recsys.training.svd import first_rows

    config, dataset = ratings(folder)
    cut = split(dataset, 0.1, 0)
    rows = query_rows(dataset, cut.train, cut.end, 256)
    judge, start = Judge(dataset, rows, cut, 0), first_rows(rows, config.train.dim, 0)
    for encoder in encoders:
        settings = replace(
            first_settings(config),
            tau=0.15,
            dropout=0.5 if encoder == "mean" else DROPOUT,
            query=QueryConfig(encoder=encoder),
        )
        if encoder != "mean":
            settings = replace(settings, companions=0.0, recent_beta=0.0)
        biases = biases_of(settings, rows)
        found: list[dict[str, float]] = []

        def after(epoch: Epoch, towers: Towers) -> bool:
            del epoch
            found.extend(judge.score(towers, biases))  # noqa: B023 # used at once
            return False

        began = time.perf_counter()
        fit(dataset, rows, settings, EPOCHS, 0, start, after)
        best = max(found, key=score_of)
        print(
            f"{encoder:12} recall@20 {best['recall@20']:.4f} ndcg@20"
            f" {best['ndcg@20']:.4f} {time.perf_counter() - began:6.0f} s"
            f" tower {latency_us(encoder):5.0f} us",
            flush=True,
        )


if __name__ == "__main__":
    every = ["mean", "decay", "gated", "attention", "transformer"]
    quality(Path(sys.argv[1]), sys.argv[2:] or every)
