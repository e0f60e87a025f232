"""The view of the interactions that a fit works on: query rows over trained items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import TrainingError
from recsys.popularity import decayed_counts
from recsys.training.dataset import Dataset
from recsys.training.own import own_negatives
from recsys.training.periods import Periods, Positives, cut
from recsys.training.ragged import Ragged, group
from recsys.training.weights import target_weights

UNKNOWN = -1e18
"""In place of an unknown time: older than any known one."""
_MOST_KINDS = 64


@dataclass(frozen=True, slots=True)
class QueryRows:
    """Training data of one fit. Items are counted among the trained ones: 0 to T.

    Attributes:
        items: Dataset index of each trained item, ascending, shape (T,).
        users: Dataset index of each user with taste, ascending, shape (U,).
        user: User (0 to U) of each query row, shape (R,), int64.
        context: Dataset context of each query row, shape (R,); None without contexts.
        targets: Positives of each query row, with weights.
        history: Positives of each user, with weights: latest first, then by item id,
            as ``recsys._state_<version>`` has them; capped.
        seen: Every trained item each user has met, also with weight 0.
        pop: Users with taste for each item, at least 1, shape (T,), float32.
        decayed: The same, older ones counting less: one row per half-life of
            ``popularity.HALF_LIVES_D``, shape (H, T), float32; None without times.
        shown: Items each user was shown, for negatives; None where not wanted.
        disliked: Items each user has refused and not liked, likewise.
        neighbours: Items an earlier version holds for similar to each trained item,
            -1 where there is none, shape (T, k), int64; None where not wanted.
        periods: The query rows, cut by time; None without times.
        keep: Marks the interactions that the rows are made of; None: not known.
    """

    items: NDArray[np.int64]
    users: NDArray[np.int64]
    user: Tensor
    context: Tensor | None
    targets: Ragged
    history: Ragged
    seen: Ragged
    pop: Tensor
    decayed: Tensor | None
    shown: Ragged | None = None
    disliked: Ragged | None = None
    neighbours: Tensor | None = None
    periods: Periods | None = None
    keep: NDArray[np.bool_] | None = None

    @property
    def pairs(self) -> int:
        """Positives of all rows together."""
        return len(self.targets.values)

    def to(self, where: torch.device) -> QueryRows:
        """Return the same rows with every tensor on a device."""
        if where == self.pop.device:
            return self
        return QueryRows(
            items=self.items,
            users=self.users,
            user=self.user.to(where),
            context=None if self.context is None else self.context.to(where),
            targets=self.targets.to(where),
            history=self.history.to(where),
            seen=self.seen.to(where),
            pop=self.pop.to(where),
            decayed=None if self.decayed is None else self.decayed.to(where),
            shown=None if self.shown is None else self.shown.to(where),
            disliked=None if self.disliked is None else self.disliked.to(where),
            neighbours=None if self.neighbours is None else self.neighbours.to(where),
            periods=None if self.periods is None else self.periods.to(where),
            keep=self.keep,
        )


def query_rows(
    dataset: Dataset,
    keep: NDArray[np.bool_],
    end: float | None,
    history: int,
    half_life_s: float = 0.0,
    items: NDArray[np.int64] | None = None,
) -> QueryRows:
    """Build the training view of some of the interactions.

    Args:
        dataset: All interactions.
        keep: Marks the interactions to learn from, shape (n,).
        end: The end of that part in seconds since 1970, None without times.
        history: Most items of a user that make the query.
        half_life_s: Age at which an interaction weighs half as a target; 0: no decay.
        items: The trained items, ascending; by default those of positive weight.

    Raises:
        TrainingError: No interaction of positive weight is among them.
    """
    places = np.flatnonzero(keep)
    weight = dataset.weight[places]
    positive = weight > 0
    if not positive.any():
        raise TrainingError(
            "there is no interaction of positive weight to learn from",
            hint="Check interactions.sql and interactions.weights, and that item ids "
            "of the interactions occur in items.sql.",
        )
    item, user = dataset.item[places], dataset.user[places]
    if items is None:
        items = np.unique(item[positive]).astype(np.int64)
    users = np.unique(user[positive]).astype(np.int64)
    usable = np.isin(item, items) & np.isin(user, users)
    places, weight = places[usable], weight[usable]
    local_item = np.searchsorted(items, item[usable])
    local_user = np.searchsorted(users, user[usable])
    time = dataset.time[places]
    liked = weight > 0
    pairs = _Pairs.merge(local_user, local_item, weight, time, len(items))
    taste = pairs
    if not liked.all():
        # The time that orders a history is that of taste, as it is when serving.
        taste = _Pairs.merge(
            local_user[liked], local_item[liked], weight[liked], time[liked], len(items)
        )
    importance = target_weights(dataset, places, end, half_life_s)
    rows = _targets(
        dataset, places, local_user, local_item, importance, taste, len(items)
    )
    own = own_negatives(dataset, keep, end, items, users, taste.user, taste.item)
    decayed = periods = None
    if end is not None:
        periods = cut(rows[3], len(items), end)
        decayed = torch.from_numpy(
            decayed_counts(taste.item, taste.time, len(items), end)
        )
    rank = id_order([dataset.item_ids[i] for i in items.tolist()])
    order = np.lexsort((rank[taste.item], -taste.time, taste.user))
    latest = taste.select(order).ragged(len(users))
    if end is not None:
        number = kind_numbers(dataset, known_kinds(dataset))
        kind = number[dataset.kind[places[liked]]]
        pair = local_user[liked] * len(items) + local_item[liked]
        age = np.where(taste.time > UNKNOWN, np.maximum(end - taste.time, 0), -1)
        latest = replace(
            latest,
            age=torch.from_numpy(age[order].astype(np.float32)),
            kind=torch.from_numpy(_newest_kind(pair, time[liked], kind)[order]),
        )
    return QueryRows(
        items=items,
        users=users,
        user=rows[0],
        context=rows[1],
        targets=rows[2],
        history=latest.head(history),
        seen=pairs.ragged(len(users)),
        pop=_counts(taste.item, len(items)),
        decayed=decayed,
        shown=own.shown,
        disliked=own.disliked,
        neighbours=own.neighbours,
        periods=periods,
        keep=keep,
    )


def known_kinds(dataset: Dataset) -> tuple[str, ...]:
    """Return the kinds of positive weight, by name, where there are several."""
    pairs = zip(dataset.kinds, dataset.kind_weight.tolist(), strict=True)
    kinds = sorted(name for name, weight in pairs if weight > 0)
    return tuple(kinds[:_MOST_KINDS]) if len(kinds) > 1 else ()


def kind_numbers(dataset: Dataset, kinds: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the number of each kind of the data among some: from 1, 0 for others."""
    number = {name: place for place, name in enumerate(kinds, start=1)}
    return np.array([number.get(name, 0) for name in dataset.kinds], np.int64)


def _newest_kind(
    pair: NDArray[np.int64], time: NDArray[np.float64], kind: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the kind of the newest event of each pair, by ascending pair.

    Of events at one time the one with the smallest number decides, as when serving.
    """
    known = np.where(np.isfinite(time), time, UNKNOWN)
    order = np.lexsort((kind, -known, pair))
    _, first = np.unique(pair[order], return_index=True)
    return kind[order][first]


def id_order(ids: list[Any]) -> NDArray[np.int64]:
    """Return the place of each id in the order that serving breaks ties by.

    Python compares text by code point, which is the byte order of UTF-8 and so the
    order of ``collate "C"``; numbers and UUIDs compare as in Postgres.
    """
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return rank


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Distinct (user, item) pairs: greatest weight, latest time."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    weight: NDArray[np.float32]
    time: NDArray[np.float64]

    @classmethod
    def merge(
        cls,
        user: NDArray[np.int64],
        item: NDArray[np.int64],
        weight: NDArray[np.float32],
        time: NDArray[np.float64],
        width: int,
    ) -> _Pairs:
        key = user * width + item
        order = np.argsort(key, kind="stable")
        distinct, start = np.unique(key[order], return_index=True)
        # An unknown time is older than any known one.
        known = np.where(np.isfinite(time), time, UNKNOWN)[order]
        return cls(
            user=distinct // width,
            item=distinct % width,
            weight=np.maximum.reduceat(weight[order], start),
            time=np.maximum.reduceat(known, start),
        )

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> _Pairs:
        return _Pairs(
            self.user[chosen], self.item[chosen], self.weight[chosen], self.time[chosen]
        )

    def ragged(self, lists: int) -> Ragged:
        return group(
            torch.from_numpy(self.user),
            torch.from_numpy(self.item),
            lists,
            torch.from_numpy(self.weight),
        )


def _targets(
    dataset: Dataset,
    places: NDArray[np.int64],
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    weight: NDArray[np.float32] | None,
    taste: _Pairs,
    width: int,
) -> tuple[Tensor, Tensor | None, Ragged, Positives]:
    """Return user, context and targets of each query row, and the positive events.

    Without contexts a row is a user; with them it is a distinct (user, context).
    Without weights of their own the targets are the taste.
    """
    users = int(taste.user.max()) + 1
    if weight is None:
        weight = dataset.weight[places]
    positive = weight > 0
    if not positive.any():
        raise TrainingError(
            "no interaction has a value above 0 to learn from",
            hint="Check the column 'value' of interactions.sql.",
        )
    time = dataset.time[places[positive]]
    user, item, weight = user[positive], item[positive], weight[positive]
    if dataset.context is None:
        events = Positives(user, user, item, weight, time)
        return torch.arange(users), None, _merged(events, width).ragged(users), events
    context = dataset.context[places[positive]].astype(np.int64)
    key = user * (int(context.max()) + 1) + context
    distinct, first, row = np.unique(key, return_index=True, return_inverse=True)
    events = Positives(row.reshape(-1), user, item, weight, time)
    return (
        torch.from_numpy(user[first]),
        torch.from_numpy(context[first]),
        _merged(events, width).ragged(len(distinct)),
        events,
    )


def _merged(events: Positives, width: int) -> _Pairs:
    """Return the distinct pairs of row and item."""
    return _Pairs.merge(
        events.row, events.item, events.weight, np.zeros(len(events.row)), width
    )


def _counts(item: NDArray[np.int64], items: int) -> Tensor:
    return torch.from_numpy(np.bincount(item, minlength=items).astype(np.float32))
