"""Recall, NDCG and hit rate of full-catalogue rankings; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

HIT_DEPTH = 10


def ranking_metrics(
    recommended: NDArray[np.integer],
    relevant: Sequence[NDArray[np.integer]],
    k: int,
) -> dict[str, float]:
    """Average recall@k, ndcg@k and hr@10 over the users who have relevant items.

    Args:
        recommended: Item indices, best first, without repeats, shape (U, K);
            -1 means no item. Places after k count for nothing but hr@10.
        relevant: Item indices the user is known to have chosen, one array per user.
        k: Length of the list that recall and NDCG look at.

    Returns:
        Three values in [0, 1], higher is better: hits / |relevant|; the discounted
        gain with 1 / log2(rank + 1) over that of min(k, |relevant|) hits in front;
        the share of users with a hit among the first 10. All zero without users.
    """
    each = user_metrics(recommended, relevant, k)
    return {
        name: float(values.mean()) if values.size else 0.0
        for name, values in each.items()
    }


def score_of(metrics: Mapping[str, float]) -> float:
    """Return what settings are chosen by, higher is better."""
    return metrics["recall@20"] + metrics["ndcg@20"]


def user_metrics(
    recommended: NDArray[np.integer],
    relevant: Sequence[NDArray[np.integer]],
    k: int,
) -> dict[str, NDArray[np.float64]]:
    """Return what ``ranking_metrics`` averages: one value per user, in their order.

    Users without relevant items are left out.
    """
    sizes = np.array([np.unique(items).size for items in relevant], np.int64)
    names = (f"recall@{k}", f"ndcg@{k}", f"hr@{HIT_DEPTH}")
    counted = sizes > 0
    if not counted.any():
        return {name: np.empty(0) for name in names}
    hits = _hits(recommended, relevant)[counted]  # (U, K)
    sizes = sizes[counted]
    top = hits[:, :k]
    discount = 1.0 / np.log2(np.arange(2, max(k, top.shape[1]) + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount[:k])])
    gain = top @ discount[: top.shape[1]] / ideal[np.minimum(sizes, k)]
    hit = hits[:, :HIT_DEPTH].any(1)
    each = (top.sum(1) / sizes, gain, hit)
    return {
        name: np.asarray(values, np.float64)
        for name, values in zip(names, each, strict=True)
    }


def _hits(
    recommended: NDArray[np.integer], relevant: Sequence[NDArray[np.integer]]
) -> NDArray[np.bool_]:
    """Mark the relevant places of each list; shape (U, K)."""
    rows = np.repeat(np.arange(len(relevant)), [len(items) for items in relevant])
    flat = np.concatenate([np.asarray(items, np.int64) for items in relevant])
    width = int(max(flat.max(initial=0), np.max(recommended, initial=0))) + 1
    known = np.unique(rows * width + flat)
    asked = np.arange(len(recommended))[:, None] * width + recommended
    place = np.minimum(np.searchsorted(known, asked), known.size - 1)
    return (known[place] == asked) & (recommended >= 0)
