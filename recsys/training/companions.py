"""Items that are chosen together, as further positives.

An item that half the users of a chosen item also chose is a likelier next choice than
the data of one user can say. With each positive a step also learns, at a smaller
weight, from one of the item's companions, drawn by how close it is. It is what a graph
convolution gives, without its products: one look-up per positive.

Closeness is (A' A)_ij with A = Du^-1/2 R Di^-1/2, as in the warm start; the closest
few of each item are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.training import blocks
from recsys.training.ragged import Ragged, group
from recsys.training.rows import QueryRows
from recsys.training.sparse import coordinates, entries, product, runs, scaled

CLOSEST = 50
# Of longer histories only the latest count here: they would make most of the pairs, and
# say least about each.
_LONGEST = 128
# Of an item that more users chose, as many of them, spread evenly: its companions are
# no secret.
_MOST_USERS = 8_192
_ITEMS_PER_STEP = 1_024
# The histories of this many entries' users are multiplied with at once.
_ENTRIES_PER_STEP = 32_768


@dataclass(frozen=True, slots=True)
class Companions:
    """The closest items of each of T items.

    Attributes:
        item: Shape (T, K), int64; an item without any is its own companion.
        share: Cumulative probability of each, the last one is 1; shape (T, K), float32.
    """

    item: Tensor
    share: Tensor

    def draw(self, items: Tensor, uniform: Tensor) -> Tensor:
        """Return one companion of each item.

        Args:
            items: Shape (n,), int64.
            uniform: Random numbers in [0, 1), shape (n,).
        """
        place = torch.searchsorted(self.share[items], uniform.unsqueeze(1), right=True)
        place = place.clamp(max=self.item.shape[1] - 1)
        return self.item[items, place.squeeze(1)]

    def to(self, where: torch.device) -> Companions:
        """Return the same on a device."""
        return Companions(self.item.to(where), self.share.to(where))


def closest(rows: QueryRows, most: int = CLOSEST) -> Companions:
    """Find the companions of each trained item.

    Some items at a time, and of the interactions what their users chose: what is held
    does not grow with the number of interactions.

    Args:
        rows: What a fit learns from.
        most: Companions of an item, K.
    """
    items = len(rows.items)
    most = max(1, min(most, items - 1))
    a = _Matrix(rows.history, items)
    found = torch.arange(items).unsqueeze(1).repeat(1, most)
    weight = torch.zeros(items, most)
    for part in _cut(a.counts, blocks.BLOCK):
        users = a.users(part)
        for step in _cut(users.start.diff(), _ENTRIES_PER_STEP, _ITEMS_PER_STEP):
            first = part.start + step.start
            close = a.products(users, step)
            place, column, value = _best(close, first, most)
            found[first + place[0], place[1]] = column
            weight[first + place[0], place[1]] = value
    weight[weight.sum(1) == 0, 0] = 1
    share = weight.cumsum(1)
    return Companions(found, share / share[:, -1:])


class _Matrix:
    """A, read off the histories some users at a time.

    Attributes:
        counts: Users of each item, shape (items,), int64.
    """

    def __init__(self, history: Ragged, items: int) -> None:
        self._history = history
        self._by_item = torch.zeros(items)
        self.counts = torch.zeros(items, dtype=torch.int64)
        for _, some in self._latest():
            _, item, weight = entries(some)
            self._by_item.index_add_(0, item, weight)
            self.counts += torch.bincount(item, minlength=items)

    def _latest(self) -> Iterator[tuple[int, Ragged]]:
        """Yield the latest items of runs of users, and the first user of each."""
        first = 0
        for some in runs(self._history):
            yield first, some.head(_LONGEST)
            first += len(some)

    def users(self, items: slice) -> Ragged:
        """Return the users of some items, with the entries of A.

        Of an item that more than ``_MOST_USERS`` chose, as many at even distances.
        """
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        before = torch.zeros(items.stop - items.start, dtype=torch.int64)
        for first, some in self._latest():
            user, item, value = scaled(some, self._by_item)
            mine = ((item >= items.start) & (item < items.stop)).nonzero().flatten()
            order = torch.argsort(item[mine], stable=True)
            mine, item = mine[order], item[mine[order]] - items.start
            here = torch.bincount(item, minlength=len(before))
            place = torch.arange(len(item)) + (before - here.cumsum(0) + here)[item]
            before += here
            few = (_MOST_USERS / self.counts[items][item].double()).clamp(max=1)
            kept = (place * few).floor() != ((place - 1) * few).floor()
            mine = mine[kept]
            found.append((item[kept], user[mine] + first, value[mine]))
        item, user, value = (torch.cat(column) for column in zip(*found, strict=True))
        order = torch.argsort(item, stable=True)
        return group(item[order], user[order], len(before), value[order])

    def products(self, users: Ragged, items: slice) -> Tensor:
        """Return some rows of A'A, as COO of shape (rows, items).

        Args:
            users: From ``users``.
            items: Which of these, one for a row.
        """
        begin, end = int(users.start[items.start]), int(users.start[items.stop])
        owner = torch.repeat_interleave(
            users.start[items.start : items.stop + 1].diff()
        )
        distinct, place = cast(
            tuple[Tensor, Tensor],
            torch.unique(users.values[begin:end], return_inverse=True),
        )
        assert users.weight is not None
        shape = (items.stop - items.start, len(distinct))
        chosen = coordinates(owner, place, users.weight[begin:end], shape)
        found = self._history.take(distinct)
        start = F.pad(found.counts.cumsum(0), (1, 0))
        theirs = Ragged(start, found.values, found.weight).head(_LONGEST)
        shape = (len(distinct), len(self.counts))
        other = coordinates(*scaled(theirs, self._by_item), shape)
        # Not as CSR: of that product torch 2.13 never frees the result of MKL.
        return product(chosen, other)


def _cut(counts: Tensor, most: int, longest: int | None = None) -> Iterator[slice]:
    """Yield runs of places with up to ``most`` together, or of one place."""
    ends = counts.cumsum(0)
    first, before = 0, 0
    while first < len(counts):
        last = int(torch.searchsorted(ends, before + most, right=True))
        last = max(first + 1, min(last, first + (longest or len(counts))))
        yield slice(first, last)
        first, before = last, int(ends[last - 1])


def _best(
    product: Tensor, first: int, most: int
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Return the greatest entries of each row, without the diagonal.

    Returns:
        Row and rank of each, its column, and its value.
    """
    (row, column), value = product.indices(), product.values()
    other = column != row + first
    row, column, value = row[other], column[other], value[other]
    order = torch.argsort(value, descending=True)
    order = order[torch.argsort(row[order], stable=True)]
    row, column, value = row[order], column[order], value[order]
    counts = torch.bincount(row, minlength=product.shape[0])
    rank = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    kept = rank < most
    return (row[kept], rank[kept]), column[kept], value[kept]
