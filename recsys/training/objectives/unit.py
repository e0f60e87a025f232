"""Unit vectors of item rows, and the way of a gradient by hand back to the rows."""

from __future__ import annotations

from typing import Any, cast

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


class ByHand(torch.autograd.Function):
    """A loss of (query, rows, ...) that knows both gradients when it is computed."""

    @staticmethod
    def keep(
        ctx: Any, d_query: Tensor, d_vectors: Tensor, used: Tensor, rows: Tensor
    ) -> None:
        """Keep the gradients of queries and of ``used`` rows, as before ``unit``."""
        ctx.save_for_backward(d_query, d_vectors, used)
        ctx.rows = len(rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query and rows, and None for all other arguments."""
        d_query, d_vectors, used = ctx.saved_tensors
        d_rows = to_rows(d_vectors * grad_outputs[0], used, ctx.rows)
        others = (None,) * (len(ctx.needs_input_grad) - 2)
        return d_query * grad_outputs[0], d_rows, *others
