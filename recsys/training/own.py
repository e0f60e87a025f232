"""Negatives of single users and items, by the numbers of one fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.training.dataset import Dataset
from recsys.training.ragged import Ragged, group


@dataclass(frozen=True, slots=True)
class OwnNegatives:
    """See the attributes of the same names of ``QueryRows``."""

    shown: Ragged | None
    disliked: Ragged | None


def own_negatives(
    dataset: Dataset,
    places: NDArray[np.int64],
    end: float | None,
    items: NDArray[np.int64],
    users: NDArray[np.int64],
    liked_user: NDArray[np.int64],
    liked_item: NDArray[np.int64],
) -> OwnNegatives:
    """Collect what users were shown and have refused.

    Args:
        dataset: All the data.
        places: The interactions to learn from, shape (m,).
        end: Nothing from this time on is looked at.
        items: Dataset index of each trained item, ascending, shape (T,).
        users: Dataset index of each user with taste, ascending, shape (U,); others
            are left out.
        liked_user: User (0 to U) of each pair of taste, shape (p,).
        liked_item: Item (0 to T) of each pair of taste, shape (p,).
    """
    liked = liked_user * len(items) + liked_item
    shown = disliked = None
    if dataset.shown is not None:
        told = dataset.shown
        before = slice(None) if end is None else told.time < end
        pairs = _local(told.user[before], told.item[before], users, items)
        shown = _lists(pairs[~np.isin(pairs, liked)], len(users), len(items))
    if dataset.kind_dislike is not None and dataset.kind_dislike.any():
        refused = places[dataset.kind_dislike[dataset.kind[places]]]
        pairs = _local(dataset.user[refused], dataset.item[refused], users, items)
        disliked = _lists(pairs[~np.isin(pairs, liked)], len(users), len(items))
    return OwnNegatives(shown, disliked)


def neighbours_of(dataset: Dataset, items: NDArray[np.int64]) -> Tensor | None:
    """Return the neighbours of the trained items, by their places among these.

    Args:
        dataset: Knows them, or not.
        items: Dataset index of each trained item, ascending, shape (T,).
    """
    if dataset.neighbours is None:
        return None
    place = np.full(len(dataset.item_ids) + 1, -1)  # its last row is for -1
    place[items] = np.arange(len(items))
    return torch.from_numpy(place[dataset.neighbours[items]])


def _local(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    users: NDArray[np.int64],
    items: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return user * T + item of the distinct pairs of trained users and items."""
    known = np.isin(item, items) & np.isin(user, users)
    local = np.searchsorted(users, user[known]) * len(items)
    return np.unique(local + np.searchsorted(items, item[known]))


def _lists(pairs: NDArray[np.int64], users: int, width: int) -> Ragged:
    pair = torch.from_numpy(pairs)
    return group(pair // width, pair % width, users, None)
