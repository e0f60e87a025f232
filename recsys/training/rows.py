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
from recsys.training.blocks import by_user, slices
from recsys.training.columns import Column, Lists
from recsys.training.dataset import Dataset
from recsys.training.own import OwnNegatives, own_negatives
from recsys.training.periods import Cutter, Periods, Positives, beginnings
from recsys.training.ragged import Ragged, group
from recsys.training.weights import decay_at, target_weights

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
    *,
    counted: bool = True,
) -> QueryRows:
    """Build the training view of some of the interactions.

    Args:
        dataset: All interactions.
        keep: Marks the interactions to learn from, shape (n,).
        end: The end of that part in seconds since 1970, None without times.
        history: Most items of a user that make the query.
        half_life_s: Age at which an interaction weighs half as a target; 0: no decay.
        items: The trained items, ascending; by default those of positive weight.
        counted: Whether to count by time; otherwise ``decayed`` and ``periods`` are
            None, which only a fit and popularity need.

    Raises:
        TrainingError: No interaction of positive weight is among them.
    """
    trained = _Trained.of(dataset, keep, end, half_life_s, items)
    if not counted:
        trained = replace(trained, first=None)
    made = _Collector(trained, end)
    for users, places in by_user(dataset, keep, trained.users):
        made.add(_block(dataset, places, end, history, half_life_s, trained, users))
    return made.rows(keep)


@dataclass(frozen=True, slots=True)
class _Trained:
    """What all users have in common.

    Attributes:
        items: Dataset index of each trained item, ascending, shape (T,).
        users: Dataset index of each user with taste, ascending, shape (U,).
        rank: Place of each trained item in the order of ids, shape (T,).
        first: First known time of a target, None where nothing is counted by time.
        undated: What an interaction of unknown age weighs.
    """

    items: NDArray[np.int64]
    users: NDArray[np.int64]
    rank: NDArray[np.int64]
    first: float | None
    undated: float

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        keep: NDArray[np.bool_],
        end: float | None,
        half_life_s: float,
        given: NDArray[np.int64] | None,
    ) -> _Trained:
        """Look through the interactions, some at once; ``given`` are the items."""
        items = np.zeros(len(dataset.item_ids), np.bool_)
        if given is not None:
            items[given] = True
        users = np.zeros(len(dataset.user_ids), np.bool_)
        first, worth = np.inf, False
        for part in slices(len(dataset)):
            positive = keep[part] & (dataset.kind_weight > 0)[dataset.kind[part]]
            users[dataset.user[part][positive]] = True
            if given is None:
                items[dataset.item[part][positive]] = True
            positive &= items[dataset.item[part]]
            if dataset.value is not None:
                positive &= dataset.value[part] > 0
            worth = worth or bool(positive.any())
            time = dataset.time[part][positive]
            first = min(first, float(time[np.isfinite(time)].min(initial=np.inf)))
        _check(liked=bool(users.any()), worth=worth)
        trained = np.flatnonzero(items)
        rank = id_order([dataset.item_ids[i] for i in trained.tolist()])
        known = None if end is None else min(first, end)
        undated = 1.0
        if half_life_s and end is not None:
            undated = _mean_decay(dataset, keep, (users, items), end, half_life_s)
        return cls(trained, np.flatnonzero(users), rank, known, undated)


def _check(*, liked: bool, worth: bool) -> None:
    """Refuse interactions that nothing can be learned from."""
    if not liked:
        raise TrainingError(
            "there is no interaction of positive weight to learn from",
            hint="Check that interactions.sql has the column 'kind' with the kinds of "
            "interactions.weights, and that its item ids occur in items.sql.",
        )
    if not worth:
        raise TrainingError(
            "no interaction has a value above 0 to learn from",
            hint="Check the column 'value' of interactions.sql.",
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """The rows of some users, counted from 0; as in ``QueryRows``."""

    users: int
    user: Tensor
    context: Tensor | None
    targets: Ragged
    history: Ragged
    seen: Ragged
    pop: Tensor
    decayed: Tensor | None
    own: OwnNegatives
    events: Positives


def _block(
    dataset: Dataset,
    places: NDArray[np.int64],
    end: float | None,
    history: int,
    half_life_s: float,
    trained: _Trained,
    users: NDArray[np.int64],
) -> _Block:
    """Return the rows of some users, from the places of their interactions."""
    items, every = trained.items, places
    usable = np.isin(dataset.item[places], items)
    places = places[usable]
    weight = dataset.weight[places]
    local_item = np.searchsorted(items, dataset.item[places])
    local_user = np.searchsorted(users, dataset.user[places])
    time = dataset.time[places]
    liked = weight > 0
    pairs = _Pairs.merge(local_user, local_item, weight, time, len(items))
    taste = pairs
    if not liked.all():
        # The time that orders a history is that of taste, as it is when serving.
        taste = _Pairs.merge(
            local_user[liked], local_item[liked], weight[liked], time[liked], len(items)
        )
    importance = target_weights(dataset, places, end, half_life_s, trained.undated)
    user, context, targets, events = _targets(
        dataset, places, local_user, local_item, importance, taste, len(items)
    )
    decayed = None
    if end is not None and trained.first is not None:
        decayed = torch.from_numpy(
            decayed_counts(taste.item, taste.time, len(items), end)
        )
    order = np.lexsort((trained.rank[taste.item], -taste.time, taste.user))
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
    return _Block(
        users=len(users),
        user=user,
        context=context,
        targets=targets,
        history=latest.head(history),
        seen=pairs.ragged(len(users)),
        pop=_counts(taste.item, len(items)),
        decayed=decayed,
        own=own_negatives(dataset, every, end, items, users, taste.user, taste.item),
        events=events,
    )


class _Collector:
    """Puts the rows of blocks of users together."""

    def __init__(self, trained: _Trained, end: float | None) -> None:
        self._trained = trained
        items = len(trained.items)
        starts = None
        if end is not None and trained.first is not None:
            starts = beginnings(trained.first, end, items)
        self._cutter = None
        if starts is not None and end is not None:
            self._cutter = Cutter(starts, end, items)
        self._users = 0
        self._user, self._context = Column(np.int64), Column(np.int64)
        self._lists: dict[str, Lists] = {}
        self._sums: dict[str, Tensor] = {}
        self._neighbours: Tensor | None = None

    def add(self, block: _Block) -> None:
        """Take the rows of the users that come next."""
        if self._cutter is not None:
            events = block.events
            self._cutter.add(events, len(self._user))
        self._user.add(block.user.numpy() + self._users)
        if block.context is not None:
            self._context.add(block.context.numpy())
        self._users += block.users
        lists = {
            "targets": block.targets,
            "history": block.history,
            "seen": block.seen,
            "shown": block.own.shown,
            "disliked": block.own.disliked,
        }
        for name, part in lists.items():
            if part is not None:
                self._lists.setdefault(name, Lists()).add(part)
        for name, counts in (("pop", block.pop), ("decayed", block.decayed)):
            if counts is not None:
                before = self._sums.get(name)
                self._sums[name] = counts if before is None else before + counts
        self._neighbours = block.own.neighbours

    def rows(self, keep: NDArray[np.bool_]) -> QueryRows:
        """Return all rows, and forget them."""

        def lists(name: str) -> Ragged | None:
            found = self._lists.pop(name, None)
            return None if found is None else found.ragged()

        targets, history, seen = lists("targets"), lists("history"), lists("seen")
        assert targets is not None
        assert history is not None
        assert seen is not None
        context = (
            torch.from_numpy(self._context.array()) if len(self._context) else None
        )
        return QueryRows(
            items=self._trained.items,
            users=self._trained.users,
            user=torch.from_numpy(self._user.array()),
            context=context,
            targets=targets,
            history=history,
            seen=seen,
            pop=self._sums["pop"],
            decayed=self._sums.get("decayed"),
            shown=lists("shown"),
            disliked=lists("disliked"),
            neighbours=self._neighbours,
            periods=None if self._cutter is None else self._cutter.periods(),
            keep=keep,
        )


def _mean_decay(
    dataset: Dataset,
    keep: NDArray[np.bool_],
    trained: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    end: float,
    half_life_s: float,
) -> float:
    """Return the mean weight by age of what trained users did with trained items."""
    users, items = trained
    total, count = 0.0, 0
    for part in slices(len(dataset)):
        mine = keep[part] & users[dataset.user[part]] & items[dataset.item[part]]
        decay = decay_at(dataset.time[part][mine], end, half_life_s)
        total += float(np.nansum(decay))
        count += int(np.isfinite(decay).sum())
    return total / count if count else 1.0


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
    users = int(taste.user.max(initial=-1)) + 1
    if weight is None:
        weight = dataset.weight[places]
    positive = weight > 0
    time = dataset.time[places[positive]]
    user, item, weight = user[positive], item[positive], weight[positive]
    if dataset.context is None:
        events = Positives(user, user, item, weight, time)
        return torch.arange(users), None, _merged(events, width).ragged(users), events
    context = dataset.context[places[positive]].astype(np.int64)
    key = user * (int(context.max(initial=0)) + 1) + context
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
