"""Lists of different lengths in one array, and the selection of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """N lists of integers, with an optional weight per entry.

    Attributes:
        start: Where each list starts and the last one ends, shape (N + 1,), int64.
        values: The entries, list after list, shape (n,), int32 or int64.
        weight: Weight of each entry, shape (n,), float32, or None.
        age: Seconds between each entry and its query, shape (n,), float32, or None.
        kind: Kind of each entry, shape (n,), int64, or None.
    """

    start: Tensor
    values: Tensor
    weight: Tensor | None = None
    age: Tensor | None = None
    kind: Tensor | None = None

    def __len__(self) -> int:
        return len(self.start) - 1

    def take(self, lists: Tensor) -> Selection:
        """Return the entries of some lists, in the order of ``lists``."""
        first = self.start[lists]
        counts = self.start[lists + 1] - first
        begin = counts.cumsum(0) - counts
        owner = torch.repeat_interleave(counts)
        place = torch.arange(len(owner), device=owner.device)
        place += (first - begin)[owner]
        return Selection(
            values=self.values[place],
            weight=_at(self.weight, place),
            owner=owner,
            start=begin,
            counts=counts,
            age=_at(self.age, place),
            kind=_at(self.kind, place),
        )

    def to(self, where: torch.device) -> Ragged:
        """Return the same lists on a device."""
        weight, age, kind = (
            None if part is None else part.to(where)
            for part in (self.weight, self.age, self.kind)
        )
        return Ragged(self.start.to(where), self.values.to(where), weight, age, kind)

    def entries(self, place: int) -> tuple[Tensor, Tensor]:
        """Return the entries of one list and their weights."""
        part = slice(int(self.start[place]), int(self.start[place + 1]))
        values = self.values[part]
        weight = torch.ones(len(values)) if self.weight is None else self.weight[part]
        return values, weight

    def head(self, most: int) -> Ragged:
        """Return the same lists, each cut to its first entries."""
        counts = self.start.diff()
        owner = torch.repeat_interleave(counts)
        every = torch.arange(len(owner), device=owner.device)
        keep = every - self.start[:-1][owner] < most
        return Ragged(
            start=torch.nn.functional.pad(counts.clamp(max=most).cumsum(0), (1, 0)),
            values=self.values[keep],
            weight=_at(self.weight, keep),
            age=_at(self.age, keep),
            kind=_at(self.kind, keep),
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Entries of B selected lists.

    Attributes:
        values: The entries, shape (n,).
        weight: Their weights, shape (n,), or None.
        owner: Which of the B lists each belongs to, ascending, shape (n,), int64.
        start: First entry of each list, shape (B,), int64.
        counts: Entries of each list, shape (B,), int64.
        age: Seconds between each entry and its query, shape (n,), float32, or None.
        kind: Kind of each entry, shape (n,), int64, or None.
    """

    values: Tensor
    weight: Tensor | None
    owner: Tensor
    start: Tensor
    counts: Tensor
    age: Tensor | None = None
    kind: Tensor | None = None

    def weights(self, like: Tensor) -> Tensor:
        """Return the weights, 1 where none are given, in the type of a tensor."""
        if self.weight is None:
            return like.new_ones(len(self.values))
        return self.weight

    def where(self, keep: Tensor) -> Selection:
        """Return only the marked entries; the number of lists stays."""
        owner = self.owner[keep]
        counts = torch.bincount(owner, minlength=len(self.start))
        return Selection(
            values=self.values[keep],
            weight=_at(self.weight, keep),
            owner=owner,
            start=counts.cumsum(0) - counts,
            counts=counts,
            age=_at(self.age, keep),
            kind=_at(self.kind, keep),
        )

    def sample(self, most: int, generator: torch.Generator) -> Selection:
        """Return the same lists, the longer ones cut to ``most`` entries at random."""
        if not len(self.counts) or int(self.counts.max()) <= most:
            return self
        where = self.owner.device
        draw = torch.rand(
            len(self.owner), generator=generator, device=where, dtype=torch.float64
        )
        order = torch.argsort(self.owner + draw)
        rank = torch.arange(len(order), device=where) - self.start[self.owner]
        keep = torch.empty_like(order, dtype=torch.bool)
        keep[order] = rank < most
        return self.where(keep)


def join(lists: Sequence[tuple[Tensor, Tensor]]) -> Selection:
    """Return lists given as entries and weights."""
    counts = torch.tensor([len(values) for values, _ in lists])
    return Selection(
        values=torch.cat([values for values, _ in lists]),
        weight=torch.cat([weight for _, weight in lists]),
        owner=torch.repeat_interleave(counts),
        start=counts.cumsum(0) - counts,
        counts=counts,
    )


def group(owner: Tensor, values: Tensor, lists: int, weight: Tensor | None) -> Ragged:
    """Make lists of entries whose owners ascend."""
    counts = torch.bincount(owner, minlength=lists)
    start = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return Ragged(start=start, values=values, weight=weight)


def _at(part: Tensor | None, place: Tensor) -> Tensor | None:
    return None if part is None else part[place]
