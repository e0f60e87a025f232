"""Sampled ranking losses with a gradient by hand.

For a query u with positives N_u and a shared sample S of the catalogue, in which j
stands for exp c_j items (for a uniform one log(|items| / |S|)):

    z_ui = q_u . v_i / tau + bias_i,      v_i = x_i / |x_i|
    L_u  = log sum_{j in S, not seen by u} exp(z_uj + c_j)
    loss = sum_u sum_{i in N_u} a_ui softplus(L_u - z_ui) / sum a

Each positive competes with non-positives only. The negatives of a query alone are more
terms of its sum. With g_ui = a_ui sigmoid(L_u - z_ui) / (tau sum a), w_u = sum_i g_ui
and P the softmax over the unseen sample:

    dq_u = w_u sum_j P_uj v_j - sum_i g_ui v_i
    dv_j = sum_u (w_u P_uj - [j in N_u] g_uj) q_u
    dx   = (dv - v (v . dv)) / |x|

Where positives compete with each other as well (``together``), M_u is the log of the
sum over both, the loss of a positive is a_ui (M_u - z_ui), and with p_ui =
exp(z_ui - M_u), g_ui = (a_ui - p_ui sum_i a_ui) / (tau sum a) and
w_u = sum_i a_ui / (tau sum a), over exp M_u instead of exp L_u.

No graph is kept over the (B, S) matrix, which is only ever multiplied, exponentiated
and multiplied again: in bfloat16 where the processor has units for it. The bias and
the constant shift -1/tau ride along as two extra columns of that product, and the sum
of its exponentials as extra columns of the next one, so no pass over it is for them.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.training.objectives.batch import TINY, LossBatch
from recsys.training.objectives.unit import ByHand, through_unit, unit
from recsys.training.settings import Settings

# The row sums come out of a bfloat16 product, rounded to 8 bits: summed in this many
# blocks, the roundings average out.
_SUM_BLOCKS = 16


def ranking(
    query: Tensor, rows: Tensor, batch: LossBatch, settings: Settings
) -> Tensor:
    """Return the loss of one step; see ``ranking_loss``."""
    return ranking_loss(query, rows, batch, settings.tau, batch.products)


def ranking_loss(
    query: Tensor,
    rows: Tensor,
    batch: LossBatch,
    tau: float,
    dtype: torch.dtype,
    *,
    together: bool = False,
) -> Tensor:
    """Return the loss of one step, differentiable in ``query`` and ``rows``.

    Args:
        query: Unit query vectors, shape (B, d), float32.
        rows: Item rows before normalisation, shape (R, d), float32.
        batch: The comparisons.
        tau: Temperature.
        dtype: Type of the (B, S) products, see ``Device.products``.
        together: Whether the positives of a query compete with each other.

    Returns:
        Scalar, float32.
    """
    return cast(Tensor, _RankingLoss.apply(query, rows, batch, tau, dtype, together))


class _RankingLoss(ByHand):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        rows: Tensor,
        batch: LossBatch,
        tau: float,
        dtype: torch.dtype,
        together: bool,
    ) -> Tensor:
        sample, own = len(batch.negatives), batch.own
        used = batch.items()
        vectors, inverse = unit(rows, used)
        sampled = vectors[:sample]
        chosen = vectors[sample : sample + len(batch.positives)]

        mass, flow, sums = _sample_mass(query, sampled, batch, tau, dtype)
        own_query, own_mass = query, sums
        if own is not None:
            hard = vectors[sample + len(batch.positives) :]
            own_query = F.embedding(own.owner, query)
            own_mass = (own_query * hard).sum(1) / tau + batch.bias[own.items]
            own_mass = (own_mass + own.log_weight - (1 / tau + batch.log_share)).exp()
            sums = sums.index_add(0, own.owner, own_mass)
            flow = flow.index_add(0, own.owner, own_mass.unsqueeze(1) * hard)
        shift = 1 / tau + batch.log_share
        owner_query = F.embedding(batch.owner, query)  # (n, d)
        score = (owner_query * chosen).sum(1) / tau + batch.bias[batch.positives]
        loss, pull, push = (_listwise if together else _softplus)(
            score, sums, batch, shift
        )
        pull, push = pull / tau, (push / tau).unsqueeze(1)
        d_query = flow * push - _weighted_sum(chosen, batch.start, pull)
        d_vectors: Tensor = torch.empty_like(vectors)
        d_vectors[:sample] = mass.T @ (query * push).to(dtype)
        torch.mul(
            owner_query,
            -pull.unsqueeze(1),
            out=d_vectors[sample : sample + len(chosen)],
        )
        if own is not None:
            weight = own_mass.unsqueeze(1) * push[own.owner]
            d_vectors[sample + len(chosen) :] = own_query * weight
        d_vectors = through_unit(d_vectors, vectors, inverse)
        ByHand.keep(ctx, d_query, d_vectors, used, rows)
        return loss


def _softplus(
    score: Tensor, sums: Tensor, batch: LossBatch, shift: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss where each positive competes with non-positives only.

    Args:
        score: z of each positive, shape (n,).
        sums: exp(L - shift) of each query, shape (B,).
        batch: The comparisons.
        shift: What was taken from the logits.

    Returns:
        The loss; g of each positive and w / sum of each query, both times tau.
    """
    level = sums.log() + shift  # L_u, (B,)
    margin = level[batch.owner] - score
    total = batch.weight.sum().clamp_min(TINY)
    pull = torch.sigmoid(margin) * batch.weight / total  # g_ui, (n,)
    push = torch.zeros_like(sums).index_add_(0, batch.owner, pull) / sums
    return (F.softplus(margin) * batch.weight).sum() / total, pull, push


def _listwise(
    score: Tensor, sums: Tensor, batch: LossBatch, shift: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss where all compete with all; see ``_softplus``."""
    owner = batch.owner
    mine = (score - shift).exp()
    every = sums.index_add(0, owner, mine)
    level = every.log() + shift
    share = batch.weight / batch.weight.sum().clamp_min(TINY)  # (n,)
    push = torch.zeros_like(sums).index_add_(0, owner, share) / every
    loss = ((level[owner] - score) * share).sum()
    return loss, share - push[owner] * mine, push


def _sample_mass(
    query: Tensor, sampled: Tensor, batch: LossBatch, tau: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return exp(z - 1/tau) of the sample, its product with the vectors, its sums.

    z - 1/tau is at most the bias, so nothing overflows whatever the temperature.
    z is without log(|items| / |S|), which is the same for all.
    Shapes (B, S) in ``dtype``, (B, d) and (B,) in float32.
    """
    size, dim = sampled.shape
    shifted = batch.bias[batch.negatives] - 1 / tau
    if batch.correction is not None:
        shifted = shifted + batch.correction
    high = shifted.to(dtype)
    low = (shifted - high.float()).to(dtype)
    vectors = sampled.to(dtype)
    right = torch.cat([vectors, high.unsqueeze(1), low.unsqueeze(1)], 1)
    ones = query.new_ones(len(query), 2)
    left = torch.cat([query / tau, ones], 1).to(dtype)
    mass = (left @ right.T).exp_()  # (B, S)
    mass[batch.seen_query, batch.seen_place] = 0

    place = torch.arange(size, device=query.device)
    block = vectors.new_zeros(size, _SUM_BLOCKS)
    block[place, place * _SUM_BLOCKS // size] = 1
    out = (mass @ torch.cat([vectors, block], 1)).float()  # (B, d + blocks)
    # A user who has seen the whole sample has mass 0: no pull, no push, no NaN.
    return mass, out[:, :dim], out[:, dim:].sum(1).clamp_min_(TINY)


def _weighted_sum(vectors: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """Sum consecutive groups of weighted vectors; shape (B, d)."""
    every = torch.arange(len(vectors), device=vectors.device)
    return F.embedding_bag(every, vectors, start, mode="sum", per_sample_weights=weight)
