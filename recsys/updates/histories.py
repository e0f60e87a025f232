"""Histories of users at a moment, from their events: what a request would read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from recsys.updates.learner import Lists
from recsys.updates.objective import Float32, Places


@dataclass(frozen=True, slots=True)
class PlacedEvents:
    """Events of B users over items by place; events of unknown items are left out.

    Attributes:
        users: B.
        user: Index of the user, shape (n,).
        place: Place of the item in the catalogue, shape (n,).
        time: Seconds since 1970, NaN when unknown, shape (n,).
        weight: Weight as taste, 0: seen only, shape (n,).
        rank: Order of the catalogue's items by id, shape (N,).
        row: History-side row of each item of the catalogue, -1: none, shape (N,).
    """

    users: int
    user: Places
    place: Places
    time: NDArray[np.float64]
    weight: Float32
    rank: Places
    row: Places

    def seen(self, before: float) -> Lists:
        """Return the distinct items that each user met before a moment."""
        at = self._before(before)
        key = np.unique(self.user[at] * len(self.rank) + self.place[at])
        user, place = key // len(self.rank), key % len(self.rank)
        return _lists(user, place, np.ones(len(key), np.float32), self.users)

    def taste(self, before: float, most: int) -> Lists:
        """Return each user's history before a moment, as history-side rows.

        As ``recsys._state_<version>`` has it: the newest items with a positive weight,
        each at the time of its last such event, ties by item id.
        """
        at = self._before(before) & (self.weight > 0) & (self.row[self.place] >= 0)
        width = len(self.rank)
        key = self.user[at] * width + self.place[at]
        order = np.argsort(key, kind="stable")
        distinct, start = np.unique(key[order], return_index=True)
        if not len(distinct):
            return _lists(key, key, np.zeros(0, np.float32), self.users)
        time = np.where(np.isfinite(self.time[at]), self.time[at], -1e18)[order]
        weight = np.maximum.reduceat(self.weight[at][order], start)
        latest = np.maximum.reduceat(time, start)
        user, place = distinct // width, distinct % width
        newest = np.lexsort((self.rank[place], -latest, user))
        user = user[newest]
        first = np.searchsorted(user, user)
        kept = np.arange(len(user)) - first < most
        newest, user = newest[kept], user[kept]
        return _lists(user, self.row[place[newest]], weight[newest], self.users)

    def _before(self, before: float) -> NDArray[np.bool_]:
        return ~(self.time >= before)  # without a time: always


def rank_of(ids: Sequence[Any]) -> Places:
    """Return the place of each id in the order that serving breaks ties by."""
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=cast(Any, ids).__getitem__)] = np.arange(len(ids))
    return rank


def _lists(user: Places, place: Places, weight: Float32, users: int) -> Lists:
    counts = np.bincount(user, minlength=users)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Lists(start, place, weight)


def find_own(history: Lists, user: Places, row: Places) -> Places:
    """Return the entry of each (user, row) in the user's history; -1: none."""
    owner = np.repeat(np.arange(len(history.start) - 1), np.diff(history.start))
    width = int(max(history.place.max(initial=0), row.max(initial=0))) + 1
    key = owner * width + history.place
    order = np.argsort(key, kind="stable")
    wanted = user * width + row
    at = np.searchsorted(key[order], wanted).clip(max=max(len(key) - 1, 0))
    if not len(key):
        return np.full(len(user), -1)
    found = order[at]
    return np.where(key[found] == wanted, found, -1)


def padded(history: Lists, rows: Float32, lists: Places) -> tuple[Float32, Float32]:
    """Return some histories as a query tower takes them.

    Args:
        history: Places into ``rows``.
        rows: History-side rows, shape (M, d).
        lists: Which lists.

    Returns:
        Rows, shape (B, L, d), and weights, shape (B, L), 0 behind the last.
    """
    owner, entry = history.take(lists)
    counts = np.bincount(owner, minlength=len(lists))
    begin = np.cumsum(counts) - counts
    column = np.arange(len(owner)) - begin[owner]
    length = int(counts.max(initial=0))
    out = np.zeros((len(lists), length, rows.shape[1]), np.float32)
    weight = np.zeros((len(lists), length), np.float32)
    out[owner, column] = rows[history.place[entry]]
    weight[owner, column] = history.weight[entry]
    return out, weight
