"""Rows of a fit that learns to tell the next item: windows of users' sequences.

Every place of a window is a query of what came before; its targets are what came next:
one item, or all that came at one moment, such as a basket. Nothing in a query is as
young as its targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import TrainingError
from recsys.popularity import DAY_S
from recsys.training.dataset import Dataset, latest
from recsys.training.ragged import Selection
from recsys.training.rows import QueryRows
from recsys.training.rows.history import UNKNOWN, id_order, kind_numbers
from recsys.training.settings import Settings
from recsys.training.step import Queries
from recsys.training.weights import target_weights

# Of a user with more events only the newest are learned from: so many windows.
_MOST_WINDOWS = 40
# Every query has a row of logits of its own: a step is many queries, few negatives.
_QUERIES = 1024
_NEGATIVES = 1024


@dataclass(frozen=True, slots=True)
class Sequences:
    """Positive events of all users, user after user, newest first.

    Attributes:
        user: User (0 to U) of each event, ascending, shape (n,), int64.
        item: Trained item of each, shape (n,), int64.
        time: Seconds since 1970, -1e18 when unknown, shape (n,), float64.
        weight: Greatest weight of the pair up to then, shape (n,), float32.
        worth: Weight as a target, by kind, value and age, shape (n,), float32.
        kind: Number of its kind, shape (n,), int64.
        first: Whether the user had not had the item before, and it is worth something
            as a target, shape (n,), bool.
        context: Row of the context features, shape (n,), int64, or None.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    time: NDArray[np.float64]
    weight: NDArray[np.float32]
    worth: NDArray[np.float32]
    kind: NDArray[np.int64]
    first: NDArray[np.bool_]
    context: NDArray[np.int64] | None


def sequences(
    dataset: Dataset,
    keep: NDArray[np.bool_],
    rows: QueryRows,
    kinds: tuple[str, ...],
    half_life_s: float = 0.0,
) -> Sequences:
    """Return the events that some rows were made of, in order.

    Args:
        dataset: All interactions.
        keep: Marks the interactions to learn from, shape (n,).
        rows: Made of the same.
        kinds: Kinds that an encoder tells apart.
        half_life_s: Age at which an interaction weighs half as a target; 0: no decay.
    """
    places = np.flatnonzero(keep & (dataset.weight > 0))
    item = np.searchsorted(rows.items, dataset.item[places])
    user = np.searchsorted(rows.users, dataset.user[places])
    time = dataset.time[places]
    importance = target_weights(dataset, places, latest(time), half_life_s)
    time = np.where(np.isfinite(time), time, UNKNOWN)
    kind = kind_numbers(dataset, kinds)[dataset.kind[places]]
    rank = id_order([dataset.item_ids[i] for i in rows.items.tolist()])
    # As a history is read: newest first, then by id; of one item at once, one kind.
    order = np.lexsort((kind, rank[item], -time, user))
    user, item, time = user[order], item[order], time[order]
    weight, kind, places = dataset.weight[places][order], kind[order], places[order]
    again = np.zeros(len(order), np.bool_)
    # The same item twice at one moment is one event.
    same = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    again[1:] = same & (time[1:] == time[:-1])
    first, greatest = _firsts(user, item, weight, len(rows.items))
    # Where they are one event, it is the first if one of them is.
    start = np.flatnonzero(~again)
    first = np.logical_or.reduceat(first, start) if len(start) else first
    worth = greatest[~again]
    if importance is not None and len(start):
        worth = np.maximum.reduceat(importance[order], start)
    context = None
    if dataset.context is not None:
        context = dataset.context[places][~again].astype(np.int64)
    return Sequences(
        user=user[~again],
        item=item[~again],
        time=time[~again],
        weight=greatest[~again],
        worth=worth,
        kind=kind[~again],
        first=first & (worth > 0),
        context=context,
    )


def _firsts(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    weight: NDArray[np.float32],
    width: int,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return which events are their pair's oldest, and the greatest weights so far."""
    key = user * width + item
    # Oldest first within a pair: the events come newest first.
    order = np.lexsort((-np.arange(len(key)), key))
    starts = np.ones(len(key), np.bool_)
    starts[1:] = key[order][1:] != key[order][:-1]
    first = np.zeros(len(key), np.bool_)
    first[order] = starts
    # A running maximum within groups: the groups' numbers keep them apart.
    group = np.cumsum(starts).astype(np.float64)
    ceiling = float(weight.max(initial=1.0)) + 1
    running = np.maximum.accumulate(weight[order] + group * ceiling) - group * ceiling
    greatest = np.empty(len(key), np.float32)
    greatest[order] = running
    return first, greatest


def sequence_rows(
    dataset: Dataset, rows: QueryRows, settings: Settings
) -> SequenceRows:
    """Return the windows that an encoder of sequences learns from.

    Raises:
        TrainingError: Nobody has anything before anything else.
    """
    if rows.keep is None:
        raise TrainingError("sequences need the interactions that the rows are made of")
    half_life_s = settings.half_life_days * DAY_S
    events = sequences(dataset, rows.keep, rows, settings.query.kinds, half_life_s)
    source = SequenceRows(events, rows, settings.query.length)
    if not len(source):
        raise TrainingError(
            "no user has one interaction after another: there is no order to learn",
            hint='Give occurred_at in interactions.sql, or set query.encoder = "mean".',
        )
    return source


class SequenceRows:
    """Windows of sequences as rows of a fit.

    A window is up to ``length`` events that serve as input. Where a user has more, the
    windows overlap by half, and a place is asked in the window that shows more of what
    came before it.

    Args:
        events: The sequences.
        rows: The same data as sets.
        length: Most events of a window.

    Attributes:
        queries: Queries of all windows together.
        most_recency: Pauses beyond are rare enough to count as unknown, seconds.
    """

    def __init__(self, events: Sequences, rows: QueryRows, length: int) -> None:
        self._rows = rows
        self._where = rows.pop.device
        self._events = events
        # The history of query e are the events from e on, its targets those of the
        # moment before, the next one in time: they end at e - 1 and begin at _next[e].
        user, time = events.user, events.time
        moved = np.ones(len(user), np.bool_)
        moved[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
        begin = np.maximum.accumulate(np.where(moved, np.arange(len(user)), 0))
        firsts = np.concatenate([[0], np.cumsum(events.first)])
        asked = moved.copy()
        asked[:1] = False
        asked[1:] &= user[1:] == user[:-1]
        self._next = np.zeros(len(user), np.int64)
        self._next[1:] = begin[:-1]
        asked &= firsts[np.arange(len(user))] > firsts[self._next]
        self._asked = asked
        start, end, asks = _windows(events.user, length)
        some = np.array(
            [asked[s : s + n].any() for s, n in zip(start, asks, strict=True)], np.bool_
        )
        self._start, self._end, self._asks = start[some], end[some], asks[some]
        counted = np.concatenate([[0], np.cumsum(asked)])
        self.queries = int(
            (counted[self._start + self._asks] - counted[self._start]).sum()
        )
        pause = time[:-1] - time[1:]
        known = asked[1:] & (time[1:] > UNKNOWN)
        self.most_recency = 0.0
        if known.any():
            self.most_recency = float(np.quantile(pause[known], 0.99))
        self._users = torch.from_numpy(rows.users).to(self._where)

    def __len__(self) -> int:
        return len(self._start)

    def paced(self, settings: Settings) -> Settings:
        """Return settings whose steps are as large as those of users are."""
        each = max(1.0, self.queries / max(1, len(self)))
        return replace(
            settings,
            batch=max(1, min(settings.batch, round(_QUERIES / each))),
            negatives=min(settings.negatives, _NEGATIVES),
        )

    def take(self, chosen: Tensor) -> Queries:
        """Return the queries of some windows."""
        window = chosen.cpu().numpy()
        start, counts = self._start[window], (self._end - self._start)[window]
        owner = np.repeat(np.arange(len(window)), counts)
        begin = np.cumsum(counts) - counts
        event = np.arange(len(owner)) - begin[owner] + start[owner]
        within = event - start[owner]
        asked = self._asked[event] & (within < self._asks[window][owner])
        history = self._history(event, owner, begin, counts)
        where, rows = self._where, self._rows
        asks = np.flatnonzero(asked)
        place = event[asks]
        user = torch.from_numpy(self._events.user[place]).to(where)
        context = self._events.context
        return Queries(
            user=self._users[user],
            context=None
            if context is None
            else torch.from_numpy(context[place - 1]).to(where),
            history=history,
            targets=self._targets(place),
            seen=rows.seen.take(user),
            shown=None if rows.shown is None else rows.shown.take(user),
            disliked=None if rows.disliked is None else rows.disliked.take(user),
            places=torch.from_numpy(asks).to(where),
        )

    def _targets(self, place: NDArray[np.int64]) -> Selection:
        """Return what came next, and was new to the user, at some places."""
        events = self._events
        counts = place - self._next[place]
        owner = np.repeat(np.arange(len(place)), counts)
        begin = np.cumsum(counts) - counts
        event = np.arange(len(owner)) - begin[owner] + self._next[place][owner]
        every = Selection(
            values=torch.from_numpy(events.item[event]).to(self._where),
            weight=torch.from_numpy(events.worth[event]).to(self._where),
            owner=torch.from_numpy(owner).to(self._where),
            start=torch.from_numpy(begin).to(self._where),
            counts=torch.from_numpy(counts).to(self._where),
        )
        return every.where(torch.from_numpy(events.first[event]).to(self._where))

    def _history(
        self,
        event: NDArray[np.int64],
        owner: NDArray[np.int64],
        begin: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> Selection:
        """Return the inputs of windows, aged at the moment of their newest target."""
        events = self._events
        newest = event[begin] - 1
        # The oldest user's newest event has nothing after it; it is never asked.
        moment = np.where(newest >= 0, events.time[newest], 0.0)
        age = np.maximum(moment[owner] - events.time[event], 0.0)
        unknown = (events.time[event] <= UNKNOWN) | (moment[owner] <= UNKNOWN)
        age = np.where(unknown, -1.0, age)
        where = self._where
        return Selection(
            values=torch.from_numpy(events.item[event]).to(where),
            weight=torch.from_numpy(events.weight[event]).to(where),
            owner=torch.from_numpy(owner).to(where),
            start=torch.from_numpy(begin).to(where),
            counts=torch.from_numpy(counts).to(where),
            age=torch.from_numpy(age.astype(np.float32)).to(where),
            kind=torch.from_numpy(events.kind[event]).to(where),
        )


def _windows(
    user: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return where windows start and end, and how many of their places are asked.

    The newest event of a user is never an input: nothing comes after it.
    """
    first = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]]))
    last = np.append(first[1:], len(user))
    stride = max(1, length // 2)
    inputs = last - first - 1
    # One window where everything fits, else one more for each stride beyond.
    count = np.where(inputs > length, -(-(inputs - length) // stride) + 1, inputs > 0)
    count = np.minimum(count, _MOST_WINDOWS)
    owner = np.repeat(np.arange(len(first)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    start = first[owner] + 1 + number * stride
    end = np.minimum(start + length, last[owner])
    # The oldest window of a user is asked everywhere.
    asks = np.where(number == count[owner] - 1, end - start, stride)
    return start, end, asks
