"""The floors that a model must beat: lists by popularity alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.popularity import DAY_S
from recsys.training.blocks import users_per_item
from recsys.training.dataset import Dataset
from recsys.training.evaluation import Judge
from recsys.training.rows import QueryRows
from recsys.training.split import Split

# What the floor calls recent.
_RECENT_S = 30 * DAY_S


def floor_lists(
    dataset: Dataset, rows: QueryRows, judge: Judge, cut: Split
) -> dict[str, NDArray[np.int64]]:
    """Return lists by popularity alone, for the same users."""

    def chosen(hits: NDArray[np.bool_]) -> Tensor:
        counts = users_per_item(dataset, hits)[rows.items]
        return torch.from_numpy(counts.astype(np.float32))

    hits = cut.train & dataset.target
    lists = {"most_popular": judge.floor(chosen(hits))}
    if cut.end is not None:
        hits = hits & (dataset.time >= cut.end - _RECENT_S)
        lists["popular_30d"] = judge.floor(chosen(hits))
    return lists
