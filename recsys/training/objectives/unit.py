"""Unit vectors of item rows, and the way of a gradient back to the rows."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F


def unit(rows: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Return v = x / |x| of some rows, shape (n, d), and 1 / |x|, shape (n, 1)."""
    vectors = F.embedding(used, rows)
    length = vectors.square().sum(1, keepdim=True).sqrt_()
    inverse = length.clamp_min_(1e-12).reciprocal_()
    return vectors.mul_(inverse), inverse


def through_unit(d_vectors: Tensor, vectors: Tensor, inverse: Tensor) -> Tensor:
    """Turn dv into dx = (dv - v (v . dv)) / |x|, in place; shape (n, d)."""
    # In place, because these are the largest float32 arrays of a step.
    d_vectors -= vectors * (vectors * d_vectors).sum(1, keepdim=True)
    d_vectors *= inverse
    return d_vectors


def to_rows(gradient: Tensor, used: Tensor, rows: int) -> Tensor:
    """Add up the gradients of repeated rows; shape (rows, d)."""
    found = torch.ops.aten.embedding_dense_backward(gradient, used, rows, -1, False)
    return cast(Tensor, found)
