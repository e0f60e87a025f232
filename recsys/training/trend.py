"""Which popularity dimensions a training tries.

A count that halves every few days forgets without a window's edge. Several half-lives
together say how an item's popularity moves: what is falling has a smaller count under
the short ones. All of it is one number per item, so it is one more dimension of its
vector, and costs a search nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.popularity import Trend

# How the weight is shared: the users of all time, then the half-lives.
_SHAPES = (
    (1.0, (0.0, 0.0, 0.0, 0.0)),
    (0.4, (0.0, 0.0, 0.6, 0.0)),
    (0.0, (0.0, 0.0, 0.0, 1.0)),
    (0.0, (0.0, 0.0, 1.0, 0.0)),
    (0.0, (0.0, 1.0, 0.0, 0.0)),
    (0.0, (1.0, 0.0, 0.0, 0.0)),
    (0.0, (0.5, 0.0, 0.5, 0.0)),
    (0.0, (0.25, 0.25, 0.25, 0.25)),
)
# The whole weight, as multiples of tau: scores are cosines, and tau says how much of a
# cosine one unit of log popularity is worth inside the loss.
_SCALES = (0.3, 0.6, 1.0, 1.5, 2.2, 3.2)
_DEFAULT = (0.0, 0.0, 1.0, 0.0)


def grid(tau: float, beta: float, *, timed: bool) -> list[Trend]:
    """Return the popularity dimensions to try; the last one is the default.

    Args:
        tau: Temperature of the fit.
        beta: Weight of log popularity inside its loss.
        timed: Whether the interactions have times.
    """
    if not timed:
        return [Trend((beta + 0.1) * tau)]
    tried = [
        Trend(scale * tau * long_run, tuple(scale * tau * part for part in recent))
        for long_run, recent in _SHAPES
        for scale in _SCALES
    ]
    return [Trend(0.0), *tried, Trend(0.0, tuple(tau * part for part in _DEFAULT))]


def bias(trend: Trend, pop: Tensor, decayed: Tensor | None) -> Tensor:
    """Return the popularity dimension of T items as a tensor, shape (T,)."""
    counts = None if decayed is None else decayed.numpy()
    return torch.from_numpy(trend.bias(pop.numpy(), counts))
