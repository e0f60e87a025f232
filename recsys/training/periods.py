"""Learning with the popularity that held at the time of each interaction.

What a user chose in spring competed with what was popular in spring. With the
popularity of all time in the loss, the vectors must explain every wave by taste; with
the counts of that time they need not. So a query row is cut into periods, and all rows
of a step are of one period: its popularity is one bias for all of them, as ever.

The counts of a period are those at its beginning, from what happened strictly before:
no interaction is among the counts that it is learned with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.popularity import DAY_S, HALF_LIVES_D, PRIOR
from recsys.training.columns import Column, Lists
from recsys.training.ragged import Ragged, group
from recsys.training.step import Queries, RowSource

_LONGEST_D = 14.0
_FEWEST = 8
_MOST = 32
# Counts of all periods together, so that memory does not grow with the catalogue.
_MOST_COUNTS = 50_000_000
# Where a period is so much longer than a half-life, its beginning says nothing.
_STALE = 14.0
# Less data than this has no past to speak of.
_LEAST_SPAN_D = 2.0


@dataclass(frozen=True, slots=True)
class Periods:
    """Query rows, cut by time.

    Attributes:
        row: Query row that each is a part of, shape (R,), int64.
        period: Period of each, shape (R,), int64, ascending.
        targets: Positives of each, with weights.
        popularity: Mean over the half-lives of ln(count + 1/2) at the beginning of
            each period, less its mean over the items, shape (P, T), float32.
    """

    row: Tensor
    period: Tensor
    targets: Ragged
    popularity: Tensor

    def to(self, where: torch.device) -> Periods:
        """Return the same on a device."""
        return Periods(
            self.row.to(where),
            self.period.to(where),
            self.targets.to(where),
            self.popularity.to(where),
        )


@dataclass(frozen=True, slots=True)
class Positives:
    """Interactions of positive weight.

    Attributes:
        row: Query row of each, shape (n,), int64.
        user: Shape (n,), int64.
        item: Shape (n,), int64.
        weight: Shape (n,), float32.
        time: Seconds since 1970, NaN where unknown, shape (n,), float64.
    """

    row: NDArray[np.int64]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    weight: NDArray[np.float32]
    time: NDArray[np.float64]


def beginnings(first: float, end: float, items: int) -> NDArray[np.float64] | None:
    """Return when each period begins; None where there is too little time to cut.

    Args:
        first: The first known time in seconds since 1970.
        end: End of the data in seconds since 1970.
        items: Number of items, T.
    """
    span = end - first
    if span < _LEAST_SPAN_D * DAY_S:
        return None
    length = min(_LONGEST_D * DAY_S, span / _FEWEST)
    most = min(_MOST, max(1, _MOST_COUNTS // items))
    number = min(most, int(np.ceil(span / length)))
    return end - span / number * np.arange(number, 0, -1, dtype=np.float64)


class Cutter:
    """Cuts query rows by time, some at once.

    Args:
        starts: From ``beginnings``.
        end: End of the data in seconds since 1970.
        items: Number of items, T.
    """

    def __init__(self, starts: NDArray[np.float64], end: float, items: int) -> None:
        self._starts = starts
        self._length = (end - float(starts[0])) / len(starts)
        self._items = items
        self._counts: NDArray[np.float64] | None = None
        self._parts: list[tuple[NDArray[np.int64], Ragged]] = []
        self._rows = Column(np.int64)

    def add(self, events: Positives, first: int) -> None:
        """Cut more rows, whose numbers begin at ``first``.

        Args:
            events: All of the rows' events, in any order; rows counted from 0.
            first: What is to be added to the numbers of the rows.
        """
        # What has no time is taken for the oldest, and learned without any popularity.
        time = np.where(np.isfinite(events.time), events.time, -np.inf)
        row, period, targets = _rows(events, time, self._starts, self._items)
        counts = counts_at(events.user, events.item, time, self._items, self._starts)
        self._counts = counts if self._counts is None else self._counts + counts
        edges = np.searchsorted(period, np.arange(len(self._starts) + 1))
        edges += len(self._rows)
        self._rows.add(row + first)
        lists = Lists()
        lists.add(targets)
        self._parts.append((edges, lists.ragged()))

    def periods(self) -> Periods:
        """Return all rows, period by period."""
        assert self._counts is not None
        lives = np.array(HALF_LIVES_D)
        fresh = lives * _STALE * DAY_S >= self._length
        fresh[-1] = True
        logs = np.log(self._counts[:, fresh] + PRIOR).mean(1)
        logs -= logs.mean(1, keepdims=True)
        row, period, targets = self._by_period()
        return Periods(
            torch.from_numpy(row.array()),
            torch.from_numpy(period.array()),
            targets.ragged(),
            torch.from_numpy(logs.astype(np.float32)),
        )

    def _by_period(self) -> tuple[Column[np.int64], Column[np.int64], Lists]:
        """Return rows, their periods and their targets, and forget the parts."""
        rows, parts = self._rows.array(), self._parts
        row, period, lists = Column(np.int64), Column(np.int64), Lists()
        for number in range(len(self._starts)):
            for edges, targets in parts:
                first, last = int(edges[number]), int(edges[number + 1])
                row.add(rows[first:last])
                period.add(np.full(last - first, number))
                before = int(edges[0])
                lists.add(targets, first - before, last - before)
        parts.clear()
        return row, period, lists


def _rows(
    events: Positives,
    time: NDArray[np.float64],
    starts: NDArray[np.float64],
    items: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Ragged]:
    """Return row and period of each part, and its items: each at its first time."""
    pair = events.row * items + events.item
    order = np.lexsort((time, pair))
    distinct, first = np.unique(pair[order], return_index=True)
    weight = np.maximum.reduceat(events.weight[order], first)
    at = np.searchsorted(starts, time[order][first], "right") - 1
    at = np.maximum(at, 0)
    rows = int(events.row.max(initial=0)) + 1
    key = at * rows + distinct // items
    order = np.argsort(key, kind="stable")
    parts, owner = np.unique(key[order], return_inverse=True)
    targets = group(
        torch.from_numpy(owner.reshape(-1)),
        torch.from_numpy(distinct[order] % items),
        len(parts),
        torch.from_numpy(weight[order]),
    )
    return parts % rows, parts // rows, targets


def counts_at(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    time: NDArray[np.float64],
    items: int,
    starts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Count at several times what happened strictly before, older events less.

    A user counts once per item: as of the latest time before.

    Args:
        user: Of each event, shape (n,).
        item: Of each event, shape (n,).
        time: Of each event in seconds, -inf where unknown, shape (n,).
        items: Number of items, T.
        starts: When to count, ascending, shape (P,).

    Returns:
        Shape (P, H, T), 0 or more.
    """
    order = np.lexsort((time, item, user))
    user, item, time = user[order], item[order], time[order]
    again = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    # An event is taken back when the user's next one with the item takes its place.
    since = np.concatenate([time, time[1:][again]])
    of = np.concatenate([time, time[:-1][again]])
    which = np.concatenate([item, item[1:][again]])
    sign = np.concatenate([np.ones(len(time)), -np.ones(int(again.sum()))])
    place = np.searchsorted(starts, since, "right")  # the first start after it
    out = np.zeros((len(starts), len(HALF_LIVES_D), items))
    for row, half_life in enumerate(HALF_LIVES_D):
        half_s = half_life * DAY_S
        for number, start in enumerate(starts):
            chosen = place == number
            value = sign[chosen] * np.exp2((of[chosen] - start) / half_s)
            out[number, row] = np.bincount(which[chosen], value, minlength=items)
            if number:
                faded = np.exp2((starts[number - 1] - start) / half_s)
                out[number, row] += out[number - 1, row] * faded
    return np.maximum(out, 0.0, out=out)


class PeriodRows:
    """Query rows by period: a step is of one period and has its popularity.

    Args:
        rows: Makes the queries of whole rows.
        periods: Their parts, on the same device.
        weight: What one unit of log popularity counts in the loss.
    """

    def __init__(self, rows: RowSource, periods: Periods, weight: float) -> None:
        self._rows = rows
        self._periods = periods
        self._bias = weight * periods.popularity
        counts = torch.bincount(periods.period).cpu()
        self._sizes: list[int] = counts.tolist()

    def __len__(self) -> int:
        return len(self._periods.row)

    def take(self, chosen: Tensor) -> Queries:
        """Return the queries of some rows of one period."""
        periods = self._periods
        return replace(
            self._rows.take(periods.row[chosen]),
            targets=periods.targets.take(chosen),
            bias=self._bias[periods.period[chosen[0]]],
        )

    def batches(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Return the rows of an epoch, at most ``size`` at once, in random order."""
        where, first = generator.device, 0
        parts: list[Tensor] = []
        for count in self._sizes:
            order = torch.randperm(count, generator=generator, device=where) + first
            first += count
            if count:
                parts += torch.tensor_split(order, -(-count // size))
        order = torch.randperm(len(parts), generator=generator, device=where)
        return [parts[int(i)] for i in order]
