"""Interactions some at a time: what is made of them on the way fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.training.dataset import Dataset

# Interactions that are looked at together: what is made of each on the way takes 250
# bytes.
BLOCK = 1_000_000


def slices(count: int) -> list[slice]:
    """Return runs of the numbers below ``count``."""
    return [slice(first, first + BLOCK) for first in range(0, count, BLOCK)]


def _user_blocks(
    dataset: Dataset, keep: NDArray[np.bool_], users: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Return runs of users who have about ``BLOCK`` interactions together."""
    counts = np.zeros(len(dataset.user_ids), np.int64)
    for part in slices(len(dataset)):
        counts += np.bincount(dataset.user[part][keep[part]], minlength=len(counts))
    run = (counts[users].cumsum() - 1) // BLOCK
    edges = [0, *(np.flatnonzero(np.diff(run)) + 1).tolist(), len(users)]
    return list(pairwise(edges))


def _places_of(
    dataset: Dataset, keep: NDArray[np.bool_], users: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return where the interactions of some users are, ascending."""
    mine = marked(len(dataset.user_ids), users)
    found = [
        np.flatnonzero(keep[part] & mine[dataset.user[part]]) + part.start
        for part in slices(len(dataset))
    ]
    return np.concatenate([np.zeros(0, np.int64), *found])


def by_user(
    dataset: Dataset, keep: NDArray[np.bool_], users: NDArray[np.int64] | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield runs of users, and where their interactions are.

    Args:
        dataset: The interactions.
        keep: Marks those that count, shape (n,).
        users: Whose, ascending; None is everybody's.
    """
    if users is None:
        users = np.arange(len(dataset.user_ids))
    for first, last in _user_blocks(dataset, keep, users):
        some = users[first:last]
        yield some, _places_of(dataset, keep, some)


def pair_keys(dataset: Dataset, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one integer per (user, item) of some interactions, in their order."""
    width = max(len(dataset.item_ids), 1)
    return dataset.user[places].astype(np.int64) * width + dataset.item[places]


def users_per_item(dataset: Dataset, keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return by how many users each item was chosen, shape (N,).

    Args:
        dataset: The interactions.
        keep: Marks those that count, shape (n,).
    """
    items = len(dataset.item_ids)
    counts = np.zeros(items, np.int64)
    for _, places in by_user(dataset, keep):
        distinct = np.unique(pair_keys(dataset, places))
        counts += np.bincount(distinct % max(items, 1), minlength=items)
    return counts


def marked(count: int, numbers: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which of the numbers below ``count`` are among some, shape (count,)."""
    out = np.zeros(count, np.bool_)
    out[numbers] = True
    return out
