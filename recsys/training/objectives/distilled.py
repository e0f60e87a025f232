"""Learning from a teacher: its order of the sample is matched, with a gradient by hand.

Over a part of the sample of a step, without what u has seen and what the teacher does
not know, a teacher with queries t, vectors w and temperature theta scores y, and the
student z:

    y_uj = t_u . w_j / theta + bias_j + c_j,    z_uj = q_u . v_j / tau + bias_j + c_j

with v_j = x_j / |x_j| and c_j as in ``ranking``. With P and Q their softmaxes, the loss
is the divergence of Q from P, a query weighing what its positives a_u weigh, as in the
objective beside it:

    loss = sum_u a_u sum_j P_uj (log P_uj - log Q_uj) / sum a
    dz   = a_u (Q_uj - P_uj) / sum a

Both have the popularity that the student is trained with: what the student takes over
is taste, and popularity only says which items matter most.

Source:
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from recsys.training.objectives.batch import TINY, LossBatch, Taught
from recsys.training.objectives.unit import ByHand, through_unit, unit


def distilled(query: Tensor, rows: Tensor, batch: LossBatch, tau: float) -> Tensor:
    """Return how far a step is from what its teacher says; ``batch.taught`` is given.

    Args:
        query: Unit query vectors, shape (B, d), float32.
        rows: Item rows before normalisation, shape (R, d), float32.
        batch: The comparisons.
        tau: Temperature of the student.

    Returns:
        Scalar, float32, differentiable in ``query`` and ``rows``.
    """
    return cast(Tensor, _Distilled.apply(query, rows, batch, tau))


class _Distilled(ByHand):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, rows: Tensor, batch: LossBatch, tau: float
    ) -> Tensor:
        taught = batch.taught
        assert taught is not None
        used = batch.negatives[taught.places]
        vectors, inverse = unit(rows, used)
        fixed, seen = _fixed(batch, taught), _seen(batch, taught)
        share = _shares(batch, taught)
        left, right = query.to(batch.products), vectors.to(batch.products)
        mine = _log_softmax((left @ right.T).float() / tau, fixed, seen)
        said = taught.query.to(batch.products) @ taught.vectors.to(batch.products).T
        theirs = _log_softmax(said.float() / taught.tau, fixed, seen)
        wanted = theirs.exp()
        apart = theirs.sub_(mine)
        loss = ((wanted * apart).sum(1) * share).sum()
        slope = mine.exp_().sub_(wanted).mul_(share.unsqueeze(1) / tau)
        slope = slope.to(batch.products)
        d_query = (slope @ right).float()
        d_vectors = through_unit((slope.T @ left).float(), vectors, inverse)
        ByHand.keep(ctx, d_query, d_vectors, used, rows)
        return loss


def _shares(batch: LossBatch, taught: Taught) -> Tensor:
    """Return the weight of each query in the loss, shape (B,)."""
    mass = torch.zeros_like(taught.knows)
    mass.index_add_(0, batch.owner, batch.weight)
    return mass * taught.knows / batch.weight.sum().clamp_min(TINY)


# In place of minus infinity: what is left out of both softmaxes has no weight in
# either, and their difference there is 0 instead of no number.
_OUT = -1e9


def _fixed(batch: LossBatch, taught: Taught) -> Tensor:
    """Return what is added to both scores of each item, shape (K,)."""
    bias = batch.bias[batch.negatives[taught.places]]
    if batch.correction is None:
        return bias
    return bias + batch.correction[taught.places]


def _seen(batch: LossBatch, taught: Taught) -> tuple[Tensor, Tensor]:
    """Return the pairs of query and item that are left out."""
    at = torch.full_like(batch.negatives, -1)
    at[taught.places] = torch.arange(len(taught.places), device=at.device)
    place = at[batch.seen_place]
    return batch.seen_query[place >= 0], place[place >= 0]


def _log_softmax(score: Tensor, fixed: Tensor, seen: tuple[Tensor, Tensor]) -> Tensor:
    """Return the log of the shares of the items, shape (B, K), in place."""
    score += fixed
    score[seen] = _OUT
    return score.sub_(score.logsumexp(1, keepdim=True))
