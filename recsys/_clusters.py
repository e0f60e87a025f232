"""Interests of one user as PinnerSage finds them: Ward clusters and their medoids.

Source: A. Pal et al., PinnerSage: Multi-Modal User Embedding Framework for
Recommendations at Pinterest, KDD 2020 (https://arxiv.org/abs/2007.03634). Ward's
criterion is updated by the formula of Lance and Williams.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
MOST_ITEMS = 100
"""Newest items that are clustered: the time grows with the square of their number."""
_FORGET_PER_DAY = 0.01
_FORGET_PER_ITEM = 0.02
_DAY_S = 86_400.0


def ward(vectors: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Cluster vectors so that the squares within the clusters grow least.

    Args:
        vectors: Shape (n, d).
        count: Number of clusters, at most n.

    Returns:
        Cluster of each vector, 0 to count - 1 in the order of their first vectors,
        shape (n,).
    """
    points = np.asarray(vectors, np.float64)
    n = len(points)
    squares = (points**2).sum(1)
    distance = squares[:, None] + squares - 2 * points @ points.T  # twice the cost
    np.fill_diagonal(distance, np.inf)
    size = np.ones(n)
    label = np.arange(n)
    for _ in range(n - count):
        first, second = divmod(int(distance.argmin()), n)
        near, far = min(first, second), max(first, second)
        both = size[near] + size[far]
        merged = (
            (size[near] + size) * distance[near]
            + (size[far] + size) * distance[far]
            - size * distance[near, far]
        ) / (both + size)
        merged[near] = np.inf
        distance[near], distance[:, near] = merged, merged
        distance[far], distance[:, far] = np.inf, np.inf
        size[near] = both
        label[label == far] = near
    return np.unique(label, return_inverse=True)[1].reshape(-1)


def interests(
    vectors: NDArray[np.floating],
    weights: Sequence[float],
    ages: Sequence[float] | None,
    count: int,
) -> Float32Array:
    """Return the medoids of a history's clusters as queries, the weightiest first.

    A cluster weighs what its items weigh, less the older they are: by 1 % a day since
    the newest where times are known, else by 2 % a place.

    Args:
        vectors: Item vectors of the history, newest first, shape (L, d + 1), L > 0.
        weights: Weight of each.
        ages: Seconds since each event, -1 where unknown; None: all unknown.
        count: Most queries.

    Returns:
        Unit vectors and 1, shape (min(count, L), d + 1), float32.
    """
    vectors = np.asarray(vectors[:MOST_ITEMS], np.float64)
    n = len(vectors)
    unit = vectors[:, :-1]
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    label = ward(unit, min(count, n))
    share = np.asarray(weights[:n], np.float64) * _remembered(ages, n)
    importance = np.bincount(label, share)
    out: list[NDArray[np.float64]] = []
    for cluster in np.argsort(-importance, kind="stable"):
        members = unit[label == cluster]
        # The squares of unit vectors differ by their products alone.
        medoid = members[int((members @ members.sum(0)).argmax())]
        out.append(np.append(medoid, 1.0))
    return np.array(out, np.float32)


def _remembered(ages: Sequence[float] | None, n: int) -> NDArray[np.float64]:
    known = np.full(n, -1.0) if ages is None else np.array(ages[:n], np.float64)
    if known[0] < 0:
        return np.exp(-_FORGET_PER_ITEM * np.arange(n))
    days = np.maximum(known - known[0], 0) / _DAY_S
    # An unknown time is older than any known one.
    days[known < 0] = days.max()
    return np.exp(-_FORGET_PER_DAY * days)
