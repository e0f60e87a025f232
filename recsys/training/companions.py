"""Items that are chosen together, as further positives.

An item that half the users of a chosen item also chose is a likelier next choice than
the data of one user can say. With each positive a step also learns, at a smaller
weight, from one of the item's companions, drawn by how close it is. It is what a graph
convolution gives, without its products: one look-up per positive.

Closeness is (A' A)_ij with A = Du^-1/2 R Di^-1/2, as in the warm start; the closest
few of each item are kept.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.training.ragged import Ragged
from recsys.training.rows import QueryRows

CLOSEST = 50
# Of longer histories only the latest count here: they would make most of the pairs, and
# say least about each.
_LONGEST = 128
_ITEMS_PER_STEP = 1024


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

    Args:
        rows: What a fit learns from.
        most: Companions of an item, K.
    """
    items = len(rows.items)
    most = max(1, min(most, items - 1))
    owner, item, value = _entries(rows.history.head(_LONGEST), items)
    forward = _csr(owner, item, value, (len(rows.history), items))
    order = torch.argsort(item, stable=True)
    by_item = torch.stack([item[order], owner[order]])
    ends = torch.bincount(item, minlength=items).cumsum(0)
    found = torch.arange(items).unsqueeze(1).repeat(1, most)
    weight = torch.zeros(items, most)
    for first in range(0, items, _ITEMS_PER_STEP):
        last = min(first + _ITEMS_PER_STEP, items)
        part = slice(int(ends[first - 1]) if first else 0, int(ends[last - 1]))
        some = _csr(
            by_item[0, part] - first,
            by_item[1, part],
            value[order[part]],
            (last - first, len(rows.history)),
        )
        place, column, close = _best(some @ forward, first, most)
        found[first + place[0], place[1]] = column
        weight[first + place[0], place[1]] = close
    weight[weight.sum(1) == 0, 0] = 1
    share = weight.cumsum(1)
    return Companions(found, share / share[:, -1:])


def _entries(history: Ragged, items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, column and value of the entries of A."""
    owner = torch.repeat_interleave(history.start.diff())
    item = history.values.long()
    weight = torch.ones(len(item)) if history.weight is None else history.weight
    by_user = torch.zeros(len(history)).index_add_(0, owner, weight)
    by_item = torch.zeros(items).index_add_(0, item, weight)
    return owner, item, weight * (by_user[owner] * by_item[item]).rsqrt()


def _best(
    product: Tensor, first: int, most: int
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Return the greatest entries of each row, without the diagonal.

    Returns:
        Row and rank of each, its column, and its value.
    """
    row = torch.repeat_interleave(product.crow_indices().diff())
    column, value = product.col_indices(), product.values()
    other = column != row + first
    row, column, value = row[other], column[other], value[other]
    order = torch.argsort(value, descending=True)
    order = order[torch.argsort(row[order], stable=True)]
    row, column, value = row[order], column[order], value[order]
    counts = torch.bincount(row, minlength=product.shape[0])
    rank = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    kept = rank < most
    return (row[kept], rank[kept]), column[kept], value[kept]


def _csr(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a sparse matrix of entries whose rows ascend."""
    counts = torch.bincount(row, minlength=shape[0])
    start = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(
            start, column, value, shape, check_invariants=False
        )
