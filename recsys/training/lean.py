"""How much popularity counts for a query, read off its direction.

Some users choose what everybody chooses, others never do, and the direction of a query
tells which: it predicts most of the popularity that a history has. So the last
coordinate of a query, which the popularity dimension of the items is multiplied by, is

    1 + query . weight + constant

and 1 on average. It is a least-squares fit after training. Inside training it would be
learned by heart: the targets are part of the history there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from recsys.training.ragged import Selection

STRENGTHS = (0.1, 0.2)
"""Tried on the validation slice, beside none: spread of the coordinate over users."""
# Relative ridge: a direction that no query uses could get any weight.
_RIDGE = 1e-4
# Differences below are rounding, not taste.
_FLAT = 1e-5


@dataclass(frozen=True, slots=True)
class Lean:
    """The readout of unit queries.

    Attributes:
        weight: Shape (d,), float32.
        constant: Scalar, float32.
    """

    weight: Tensor
    constant: Tensor

    def coordinate(self, queries: Tensor) -> Tensor:
        """Return the last coordinate of unit queries (..., d); shape (...)."""
        return 1 + queries @ self.weight + self.constant


def no_lean(like: Tensor) -> Lean:
    """Return the readout that is 1 for every query of shape (..., d)."""
    return Lean(like.new_zeros(like.shape[-1]), like.new_zeros(()))


def fit_lean(
    queries: Tensor, history: Selection, bias: Tensor, strength: float
) -> Lean:
    """Fit the readout to the mean popularity of histories.

    Args:
        queries: Unit queries, shape (n, d); several for a history, (n, K, d), all
            count popularity alike.
        history: The history of each.
        bias: Popularity dimension of each item, shape (T,).
        strength: Standard deviation of the coordinate over these queries.
    """
    known = history.counts > 0
    if strength == 0 or queries.dim() > 2 or int(known.sum()) <= 1:
        return no_lean(queries)
    popularity = _mean(bias, history)[known]
    mean = queries[known].mean(0)
    centred = queries[known] - mean
    square = centred.T @ centred  # (d, d)
    ridge = (_RIDGE * square.diagonal().mean()).clamp(min=1e-9)
    square.diagonal().add_(ridge)
    moment = centred.T @ (popularity - popularity.mean())  # (d,)
    weight = cast(Tensor, torch.linalg.solve(square, moment))
    spread = float((centred @ weight).std())
    if not spread > _FLAT:
        return no_lean(queries)
    weight = weight * (strength / spread)
    return Lean(weight, -(mean @ weight))


def _mean(bias: Tensor, history: Selection) -> Tensor:
    """Return the weighted mean popularity of each history, shape (B,); 0 if empty."""
    weight = history.weights(bias)
    sums = bias.new_zeros(2, len(history.start))
    sums[0].index_add_(0, history.owner, weight * bias[history.values])
    sums[1].index_add_(0, history.owner, weight)
    return sums[0] / sums[1].clamp(min=1e-12)
