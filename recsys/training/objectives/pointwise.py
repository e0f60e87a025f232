"""Pointwise losses with a gradient by hand: every score has a term of its own.

For a query u with positives N_u and negatives M_u, the unseen ones of the shared sample
and those of u alone, in which j counts w_j:

    loss = sum_u A_u (sum_{i in N_u} a_ui f(s_ui) / A_u
                      + lambda sum_{j in M_u} w_j g(s_uj) / sum_{j in M_u} w_j) / sum a

with A_u = sum_i a_ui: positives and negatives of a query weigh 1 to lambda, however
many there are.

    logistic:  s = q . v / tau + bias,  f(s) = softplus(-s),  g(s) = softplus(s)
    cosine:    s = q . v + tau bias,    f(s) = 1 - s,         g(s) = max(0, s - m)

Without bias the latter is the cosine contrastive loss.

Source:
    Mao et al.: SimpleX: A Simple and Strong Baseline for Collaborative Filtering
    (2021), equation 1.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.training.objectives.batch import TINY, LossBatch
from recsys.training.objectives.unit import ByHand, through_unit, unit
from recsys.training.settings import Settings


class Shape(Protocol):
    """What one score costs.

    Attributes:
        scale: s = scale * q . v + lift * bias.
        lift: Likewise.
        share: lambda, the weight of the negatives of a query.
    """

    scale: float
    lift: float
    share: float

    def positive(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and its derivative."""
        ...

    def negative(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and its derivative."""
        ...


class Logistic:
    """Log loss of "chosen" against "not chosen"."""

    def __init__(self, tau: float, share: float) -> None:
        self.scale, self.lift, self.share = 1 / tau, 1.0, share

    def positive(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and its derivative."""
        return F.softplus(-score), torch.sigmoid(score) - 1

    def negative(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and its derivative."""
        return F.softplus(score), torch.sigmoid(score)


class Cosine:
    """Cosine contrastive loss."""

    def __init__(self, tau: float, share: float, margin: float) -> None:
        self.scale, self.lift, self.share = 1.0, tau, share
        self.margin = margin

    def positive(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and its derivative."""
        return 1 - score, torch.full_like(score, -1.0)

    def negative(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and its derivative."""
        over = score - self.margin
        return F.relu(over), (over > 0).to(score.dtype)


def logistic(
    query: Tensor, rows: Tensor, batch: LossBatch, settings: Settings
) -> Tensor:
    """Return the logistic loss of one step."""
    shape = Logistic(settings.tau, settings.negative_weight)
    return pointwise_loss(query, rows, batch, shape)


def cosine(query: Tensor, rows: Tensor, batch: LossBatch, settings: Settings) -> Tensor:
    """Return the cosine contrastive loss of one step."""
    shape = Cosine(settings.tau, settings.negative_weight, settings.margin)
    return pointwise_loss(query, rows, batch, shape)


def pointwise_loss(
    query: Tensor, rows: Tensor, batch: LossBatch, shape: Shape
) -> Tensor:
    """Return the loss of one step, differentiable in ``query`` and ``rows``."""
    return cast(Tensor, _Pointwise.apply(query, rows, batch, shape))


class _Pointwise(ByHand):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, rows: Tensor, batch: LossBatch, shape: Shape
    ) -> Tensor:
        used = batch.items()
        vectors, inverse = unit(rows, used)
        sampled = vectors[: len(batch.negatives)]
        single = vectors[len(batch.negatives) :]

        shares, own_shares, weight = _weights(batch, len(query), shape.share)
        shared, d_query, d_sampled = _sampled(query, sampled, batch, shape, weight)
        owner = batch.owner
        if batch.own is not None:
            owner = torch.cat([owner, batch.own.owner])
        owner_query = F.embedding(owner, query)
        score = (owner_query * single).sum(1) * shape.scale
        score += batch.bias[used[len(sampled) :]] * shape.lift
        liked, slope = shape.positive(score[: len(shares)])
        other, own_slope = shape.negative(score[len(shares) :])
        loss = shared + (liked * shares).sum() + (other * own_shares).sum()

        slope = torch.cat([slope * shares, own_slope * own_shares]) * shape.scale
        slope = slope.unsqueeze(1)
        d_query = d_query.index_add(0, owner, single * slope)
        d_vectors = torch.cat([d_sampled, owner_query * slope])
        d_vectors = through_unit(d_vectors, vectors, inverse)
        ByHand.keep(ctx, d_query, d_vectors, used, rows)
        return loss


def _sampled(
    query: Tensor, sampled: Tensor, batch: LossBatch, shape: Shape, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of the shared sample and its gradients, (B, d) and (S, d)."""
    left, right = query.to(batch.products), sampled.to(batch.products)
    score = (left @ right.T).float() * shape.scale
    score += batch.bias[batch.negatives] * shape.lift
    loss, slope = shape.negative(score)
    slope = (slope * weight * shape.scale).to(batch.products)
    return (loss * weight).sum(), (slope @ right).float(), (slope.T @ left).float()


def _weights(
    batch: LossBatch, queries: int, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight of each positive, own negative and shared negative.

    Shapes (n,), (h,) and (B, S); 0 where a negative was met. The weights of positives
    add up to 1, those of a query's negatives to ``share`` times its positives'.
    """
    shares = batch.weight / batch.weight.sum().clamp_min(TINY)
    each = batch.bias.new_ones(len(batch.negatives))
    if batch.correction is not None:
        each = batch.correction.exp()
    weight = each.repeat(queries, 1)
    weight[batch.seen_query, batch.seen_place] = 0
    mass = weight.sum(1)
    own_owner, own = batch.owner[:0], shares[:0]
    if batch.own is not None:
        own_owner = batch.own.owner
        own = (batch.own.log_weight - batch.log_share).exp()
        mass = mass.index_add(0, own_owner, own)
    per_query = torch.zeros_like(mass).index_add_(0, batch.owner, shares)
    factor = share * per_query / mass.clamp_min(TINY)
    return shares, own * factor[own_owner], weight * factor.unsqueeze(1)
