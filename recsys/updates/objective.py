"""The ranking loss of the trainer with its gradient, in numpy.

The same objective as ``recsys.training.loss``, where a query has one positive:

    z_j  = (q . v_j + b_j) / tau,     q = f / |f|,  v = x / |x|
    L    = log sum_{j in S, not seen} exp z_j + log(|items| / |S|)
    loss = sum a softplus(L - z_i)

S is a uniform sample that the queries share. b is the popularity dimension that is
served, so that the rows learn what popularity does not say. With g = a sigmoid(L - z_i)
/ tau and P the softmax over the sample:

    dq = g (sum_j P_j v_j - v_i),  dv_j = sum g P_j q,  dv_i = -g q
    df = (dq - q (q . dq)) / |f|,  dx likewise
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Places = NDArray[np.int64]

_TINY = np.float32(1e-30)


@dataclass(frozen=True, slots=True)
class Sample:
    """Items that every query of a step competes with.

    Attributes:
        vectors: Unit item vectors, shape (S, d), float32.
        bias: Their popularity dimension, shape (S,), float32.
        log_share: log(|items| / |S|).
    """

    vectors: Float32
    bias: Float32
    log_share: float


@dataclass(frozen=True, slots=True)
class Gradient:
    """Loss of a step and its derivatives.

    Attributes:
        loss: Sum over the queries.
        query: By the unit queries, shape (B, d).
        chosen: By the unit vectors of the positives, shape (B, d).
        sample: By the unit vectors of the sample, shape (S, d).
    """

    loss: float
    query: Float32
    chosen: Float32
    sample: Float32


def ranking_gradient(
    query: Float32,
    chosen: Float32,
    chosen_bias: Float32,
    weight: Float32,
    sample: Sample,
    seen: tuple[Places, Places],
    tau: float,
) -> Gradient:
    """Return the loss of B queries with one positive each, and its gradient.

    Args:
        query: Unit query vectors, shape (B, d).
        chosen: Unit vectors of the positives, shape (B, d).
        chosen_bias: Their popularity dimension, shape (B,).
        weight: Weight a of each positive, shape (B,).
        sample: What they compete with.
        seen: Query and place in the sample of each pair that is no negative.
        tau: Temperature.
    """
    logits = query @ sample.vectors.T  # (B, S)
    logits += sample.bias
    logits /= np.float32(tau)
    logits[seen] = -np.inf
    score = ((query * chosen).sum(1) + chosen_bias) / np.float32(tau)
    highest = np.maximum(logits.max(1), -80 + score)  # who has seen all: mass 0
    mass = np.exp(logits - highest[:, None], out=logits)
    sums = np.maximum(mass.sum(1), _TINY)
    level = np.log(sums) + highest + np.float32(sample.log_share)
    margin = level - score
    loss = float((np.logaddexp(np.float32(0), margin) * weight).sum())
    pull = weight / (1 + np.exp(-np.clip(margin, -80, 80))) / np.float32(tau)
    push = (pull / sums)[:, None]  # g / sum of the masses
    d_query = (mass @ sample.vectors) * push - chosen * pull[:, None]
    return Gradient(
        loss=loss,
        query=d_query,
        chosen=-pull[:, None] * query,
        sample=mass.T @ (query * push),
    )


def unit(rows: Float32) -> tuple[Float32, Float32]:
    """Return rows of length 1, and their lengths before, shape (n, 1)."""
    length = np.sqrt(np.square(rows).sum(1, keepdims=True))
    np.maximum(length, np.float32(1e-12), out=length)
    return rows / length, length


def through_unit(gradient: Float32, vectors: Float32, length: Float32) -> Float32:
    """Return the gradient by rows from that by their unit vectors."""
    inner = (gradient * vectors).sum(1, keepdims=True)
    return (gradient - vectors * inner) / length
