"""Warm start of the item rows: a randomised SVD of the interaction matrix."""

from __future__ import annotations

import math
import warnings
from typing import cast

import torch
from torch import Tensor

from recsys.training.rows import QueryRows

_OVERSAMPLING = 16
_POWER_ITERATIONS = 4
_SCALE = 0.1


def first_rows(rows: QueryRows, dim: int, seed: int) -> Tensor:
    """Return the warm start of the item rows, shape (T, dim)."""
    pairs = rows.targets
    owner = torch.repeat_interleave(pairs.start.diff())
    weight = pairs.weight if pairs.weight is not None else torch.ones(len(owner))
    shape = (len(pairs), len(rows.items))
    generator = torch.Generator().manual_seed(seed)
    return warm_start(owner, pairs.values, weight, shape, dim, generator)


def warm_start(
    row: Tensor,
    item: Tensor,
    weight: Tensor,
    shape: tuple[int, int],
    dim: int,
    generator: torch.Generator,
) -> Tensor:
    """Return first item rows: scaled right singular vectors times singular values.

    The matrix is Du^-1/2 R Di^-1/2 with R the weighted interactions and D its degrees.
    Where the catalogue is smaller than ``dim`` the remaining columns are small noise:
    two columns of zeros would never get a gradient apart.

    Args:
        row: Query row of each interaction, sorted, shape (n,), int64.
        item: Item of each interaction, shape (n,), int64.
        weight: Positive weights, shape (n,), float32.
        shape: Query rows and items.
        dim: Columns to return.
        generator: Source of every random number.

    Returns:
        Shape (items, dim), float32.

    Source:
        Halko, Martinsson, Tropp: Finding structure with randomness (2011), algorithm
        4.4.
    """
    rows, items = shape
    by_user = torch.zeros(rows).index_add_(0, row, weight)
    by_item = torch.zeros(items).index_add_(0, item, weight)
    value = weight * (by_user[row] * by_item[item]).rsqrt()
    forward = _csr(row, item, value, shape)
    backward = _csr(item, row, value, (items, rows))
    width = min(dim + _OVERSAMPLING, rows, items)
    basis = _orthonormal(forward @ _normal((items, width), generator))
    for _ in range(_POWER_ITERATIONS):
        basis = _orthonormal(backward @ basis)
        basis = _orthonormal(forward @ basis)
    small = backward @ basis  # (items, width): A' Q = W S U'
    right, size, _ = cast(
        tuple[Tensor, Tensor, Tensor], torch.linalg.svd(small, full_matrices=False)
    )
    kept = min(dim, width)
    out = _normal((items, dim), generator) * (0.01 / math.sqrt(dim))
    out[:, :kept] += _SCALE * math.sqrt(items) * right[:, :kept] * size[:kept]
    return out


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _orthonormal(matrix: Tensor) -> Tensor:
    return cast(tuple[Tensor, Tensor], torch.linalg.qr(matrix))[0]


def _csr(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    order = torch.argsort(row, stable=True)
    counts = torch.bincount(row, minlength=shape[0])
    start = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(
            start, column[order], value[order], shape, check_invariants=False
        )
