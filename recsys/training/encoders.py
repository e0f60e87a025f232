"""Which encoders of histories a training tries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recsys._query_config import QueryConfig
from recsys.training.dataset import Dataset
from recsys.training.rows.history import known_kinds

# What "auto" tries beside the mean: the cheapest that minds order, and the most able.
TRIED = ("decay", "transformer")
DROPOUT = 0.3
"""Share of the items of a sequence that are hidden, where nothing else is said."""


def first_query(query: QueryConfig, dataset: Dataset) -> QueryConfig:
    """Return the encoder that a search starts from: the mean, unless one is named."""
    if query.sequential:
        return replace(query, kinds=known_kinds(dataset))
    return replace(query, encoder="mean")


def sequential(query: QueryConfig, dataset: Dataset, dim: int) -> list[QueryConfig]:
    """Return the encoders to try where the order of things may matter.

    None where an encoder is named, where times are unknown, or where there are several
    queries, which are made in other ways.
    """
    timed = bool(np.isfinite(dataset.time).any())
    if query.encoder != "auto" or query.interests > 1 or not timed:
        return []
    kinds, heads = known_kinds(dataset), _heads(query.heads, dim)
    return [replace(query, encoder=name, kinds=kinds, heads=heads) for name in TRIED]


def _heads(most: int, dim: int) -> int:
    """Return how many heads divide the dimensions: nobody has asked for any."""
    return next(heads for heads in range(most, 0, -1) if dim % heads == 0)
