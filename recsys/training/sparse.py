"""Interactions as sparse matrices, some users at a time."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.training import blocks
from recsys.training.ragged import Ragged


def matrix(
    row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Return a CSR matrix of entries whose rows ascend.

    Args:
        row: Shape (n,), int64.
        column: Shape (n,), int64.
        value: Shape (n,), float32.
        shape: Rows and columns.
    """
    counts = torch.bincount(row, minlength=shape[0])
    start = F.pad(counts.cumsum(0), (1, 0))
    with _quiet():
        return torch.sparse_csr_tensor(
            start, column, value, shape, check_invariants=False
        )


def coordinates(
    row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Return a COO matrix of distinct entries whose rows ascend."""
    return torch.sparse_coo_tensor(
        torch.stack([row, column]),
        value,
        shape,
        check_invariants=False,
        is_coalesced=True,
    )


def runs(lists: Ragged) -> Iterator[Ragged]:
    """Yield runs of lists that follow each other, of about a block of entries each.

    Entries are shared with the whole, not copied.
    """
    place = (lists.start[1:] - 1).clamp(min=0) // blocks.BLOCK
    edges = cast(list[int], (place.diff().nonzero().flatten() + 1).tolist())
    for first, last in pairwise([0, *edges, len(lists)]):
        begin, end = int(lists.start[first]), int(lists.start[last])
        yield Ragged(
            start=lists.start[first : last + 1] - begin,
            values=lists.values[begin:end],
            weight=None if lists.weight is None else lists.weight[begin:end],
        )


def entries(lists: Ragged) -> tuple[Tensor, Tensor, Tensor]:
    """Return the list, the value and the weight of each entry, shapes (n,)."""
    owner = torch.repeat_interleave(lists.start.diff())
    weight = torch.ones(len(owner)) if lists.weight is None else lists.weight
    return owner, lists.values.long(), weight


def scaled(lists: Ragged, by_item: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, column and value of the entries of Du^-1/2 R Di^-1/2.

    R is what the lists weigh, D its degrees.

    Args:
        lists: Items of each user, some users or all.
        by_item: Degree of each item over all users, shape (items,).
    """
    owner, item, weight = entries(lists)
    by_user = torch.zeros(len(lists)).index_add_(0, owner, weight)
    return owner, item, weight * (by_user[owner] * by_item[item]).rsqrt()


def product(one: Tensor, other: Tensor) -> Tensor:
    """Return the product of two matrices in COO, as COO."""
    with _quiet():  # torch goes by CSR
        return cast(Tensor, torch.sparse.mm(one, other))


@contextmanager
def _quiet() -> Generator[None]:
    """Keep from the user what torch says once: that CSR is new."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        yield
