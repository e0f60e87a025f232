"""Which popularity dimensions a training tries.

A count that halves every few days forgets without a window's edge. Several half-lives
together say how an item's popularity moves: what is falling has a smaller count under
the short ones. All of it is one number per item, so it is one more dimension of its
vector, and costs a search nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.popularity import Trend

# How the weight is shared: the users of all time, then the half-lives.
# A fast and a slow one together know both what is new and what lasts.
_SHAPES = (
    (1.0, (0.0, 0.0, 0.0, 0.0)),
    (0.0, (1.0, 0.0, 0.0, 0.0)),
    (0.0, (0.0, 1.0, 0.0, 0.0)),
    (0.0, (0.0, 0.0, 1.0, 0.0)),
    (0.0, (0.0, 0.0, 0.0, 1.0)),
    (0.4, (0.6, 0.0, 0.0, 0.0)),
    (0.4, (0.0, 0.0, 0.6, 0.0)),
    (0.4, (0.3, 0.0, 0.0, 0.3)),
    (0.0, (0.5, 0.0, 0.0, 0.5)),
    (0.0, (0.5, 0.0, 0.5, 0.0)),
    (0.0, (0.0, 0.5, 0.0, 0.5)),
    (0.0, (0.25, 0.25, 0.25, 0.25)),
)
# The whole weight, as multiples of tau: scores are cosines, and tau says how much of a
# cosine one unit of log popularity is worth inside the loss.
_SCALES = (0.5, 1.0, 1.5, 2.2, 3.2)
_DEFAULT = (0.0, 0.0, 1.0, 0.0)
# Scores that differ by less say little about which is better.
_ALIKE = 0.005


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


def blend(trends: Sequence[Trend], scores: Sequence[float]) -> Trend:
    """Return the mean of popularity dimensions, each by how near it is to the best.

    The best of many on one slice is partly luck, and the next weeks are another slice:
    the mean of those that are as good as the best is as good there, and later better.

    Args:
        trends: What was tried.
        scores: Recall plus NDCG of each.
    """
    share = np.exp((np.array(scores) - max(scores)) / _ALIKE)
    share /= share.sum()
    length = max(len(trend.recent) for trend in trends)
    recent = np.zeros((len(trends), length))
    for row, trend in zip(recent, trends, strict=True):
        row[: len(trend.recent)] = trend.recent
    long_run = np.array([trend.long_run for trend in trends])
    weights: list[float] = (share @ recent).tolist()
    return Trend(float(share @ long_run), tuple(weights))


def bias(trend: Trend, pop: Tensor, decayed: Tensor | None) -> Tensor:
    """Return the popularity dimension of T items as a tensor, shape (T,)."""
    counts = None if decayed is None else decayed.numpy()
    return torch.from_numpy(trend.bias(pop.numpy(), counts))
