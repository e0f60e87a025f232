"""Warm start of the item rows: a randomised SVD of the interaction matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from recsys.training import blocks
from recsys.training.ragged import Ragged
from recsys.training.rows import QueryRows
from recsys.training.sparse import entries, matrix, runs, scaled

_OVERSAMPLING = 16
_POWER_ITERATIONS = 4
_SCALE = 0.1


def first_rows(rows: QueryRows, dim: int, seed: int) -> Tensor:
    """Return the warm start of the item rows, shape (T, dim)."""
    generator = torch.Generator().manual_seed(seed)
    return warm_start(rows.targets, len(rows.items), dim, generator)


def warm_start(
    lists: Ragged, items: int, dim: int, generator: torch.Generator
) -> Tensor:
    """Return first item rows: scaled right singular vectors times singular values.

    The matrix is A = Du^-1/2 R Di^-1/2 with R the weighted interactions and D its
    degrees. Only products with A'A are taken, some users at a time, so that what is
    held grows with the items alone. That squares the singular values; those worth
    keeping are far from the rounding of single precision all the same.

    Where the catalogue is smaller than ``dim`` the remaining columns are small noise:
    two columns of zeros would never get a gradient apart.

    Args:
        lists: The items of each query row, with positive weights.
        items: How many there are.
        dim: Columns to return.
        generator: Source of every random number.

    Returns:
        Shape (items, dim), float32.

    Source:
        Halko, Martinsson, Tropp: Finding structure with randomness (2011), algorithms
        4.4 and 5.3.
    """
    gram = _Gram(lists, items)
    width = min(dim + _OVERSAMPLING, len(lists), items)
    basis = _normal((items, width), generator)
    for _ in range(_POWER_ITERATIONS):
        basis = _orthonormal(gram @ basis)
    small = basis.T @ (gram @ basis)
    value, turn = cast(tuple[Tensor, Tensor], torch.linalg.eigh((small + small.T) / 2))
    kept = min(dim, width)
    # Ascending; the square of a singular value that is 0 may come out below it.
    size = value.flip(0)[:kept].clamp(min=0).sqrt()
    right = basis @ turn.flip(1)[:, :kept]
    out = _normal((items, dim), generator) * (0.01 / math.sqrt(dim))
    out[:, :kept] += _SCALE * math.sqrt(items) * right * size
    return out


class _Gram:
    """A'A, to be multiplied with."""

    def __init__(self, lists: Ragged, items: int) -> None:
        self._lists = lists
        self._items = items
        self._by_item = torch.zeros(items)
        for some in runs(lists):
            _, item, weight = entries(some)
            self._by_item.index_add_(0, item, weight)
        # Of few interactions the matrices are made once.
        few = len(lists.values) <= blocks.BLOCK
        self._kept = list(self._made()) if few else None

    def __matmul__(self, dense: Tensor) -> Tensor:
        total = torch.zeros_like(dense)
        for forward, backward in self._kept or self._made():
            total += backward @ (forward @ dense)
        return total

    def _made(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield A and its transpose, some users at a time."""
        for some in runs(self._lists):
            row, item, value = scaled(some, self._by_item)
            order = torch.argsort(item, stable=True)
            yield (
                matrix(row, item, value, (len(some), self._items)),
                matrix(item[order], row[order], value[order], (self._items, len(some))),
            )


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _orthonormal(matrix: Tensor) -> Tensor:
    return cast(tuple[Tensor, Tensor], torch.linalg.qr(matrix))[0]
