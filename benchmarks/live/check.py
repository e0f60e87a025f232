"""Whether an answer is made of one version, told by its scores.

The score of an item is the inner product of the user's query with the item's vector,
plus a bias. For the version that a page names, the query follows from the user's
history alone, and an item has one of as many vectors as there are brands. A score that
none of them gives comes from another version's query, history or vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.live.shop import Learned, Shop

TOLERANCE = 0.02
"""Half precision, and the small part of the brands in the history rows."""
_CHUNK = 2_000


def mixed(
    shop: Shop,
    learned: Learned,
    users: NDArray[np.int64],
    ids: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Return which answers do not belong to a version.

    Args:
        shop: The common data.
        learned: The version that the answers name.
        users: Shape (A,).
        ids: Item ids, shape (A, k); 0 where a page was short.
        scores: Shape (A, k).
    """
    past = learned.served[shop.histories].sum(axis=1)
    query = past / np.linalg.norm(past, axis=1, keepdims=True)  # (users, d)
    by_brand = query @ learned.brands.T  # (users, brands)
    inner = learned.served @ learned.brands.T  # (items, brands)
    square = (learned.served**2).sum(axis=1, keepdims=True)
    length = np.sqrt(square + 2 * inner + (learned.brands**2).sum(axis=1))
    bad = np.zeros(len(users), bool)
    for start in range(0, len(users), _CHUNK):
        part = slice(start, start + _CHUNK)
        rows, user = np.maximum(ids[part], 1) - 1, users[part]
        by_id = np.einsum("akd,ad->ak", learned.served[rows], query[user])
        possible = (by_id[:, :, None] + by_brand[user][:, None]) / length[rows]
        off = np.abs(possible + learned.bias[rows][:, :, None] - scores[part, :, None])
        wrong = (off.min(axis=2) > TOLERANCE) & (ids[part] > 0)
        seen = (rows[:, :, None] == shop.histories[user][:, None]).any(axis=2)
        bad[part] = (wrong | seen).any(axis=1)
    return bad
