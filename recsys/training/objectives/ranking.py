"""Sampled softplus ranking loss with a gradient by hand.

For a query u with positives N_u and a shared uniform sample S of the catalogue:

    z_ui = q_u . v_i / tau + bias_i,      v_i = x_i / |x_i|
    L_u  = log sum_{j in S, not seen by u} exp z_uj + log(|items| / |S|)
    loss = sum_u sum_{i in N_u} a_ui softplus(L_u - z_ui) / sum a

Each positive competes with non-positives only. With g_ui = a_ui sigmoid(L_u - z_ui) /
(tau sum a), w_u = sum_i g_ui and P the softmax over the unseen sample:

    dq_u = w_u sum_j P_uj v_j - sum_i g_ui v_i
    dv_j = sum_u (w_u P_uj - [j in N_u] g_uj) q_u
    dx   = (dv - v (v . dv)) / |x|

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

from recsys.training.objectives.batch import LossBatch
from recsys.training.settings import Settings

# The row sums come out of a bfloat16 product, rounded to 8 bits: summed in this many
# blocks, the roundings average out.
_SUM_BLOCKS = 16
_TINY = 1e-30


def ranking(
    query: Tensor, rows: Tensor, batch: LossBatch, settings: Settings
) -> Tensor:
    """Return the loss of one step; see ``ranking_loss``."""
    return ranking_loss(query, rows, batch, settings.tau, batch.products)


def ranking_loss(
    query: Tensor, rows: Tensor, batch: LossBatch, tau: float, dtype: torch.dtype
) -> Tensor:
    """Return the loss of one step, differentiable in ``query`` and ``rows``.

    Args:
        query: Unit query vectors, shape (B, d), float32.
        rows: Item rows before normalisation, shape (R, d), float32.
        batch: The comparisons.
        tau: Temperature.
        dtype: Type of the (B, S) products, see ``Device.products``.

    Returns:
        Scalar, float32.
    """
    return cast(Tensor, _RankingLoss.apply(query, rows, batch, tau, dtype))


class _RankingLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        rows: Tensor,
        batch: LossBatch,
        tau: float,
        dtype: torch.dtype,
    ) -> Tensor:
        used = torch.cat([batch.negatives, batch.positives])  # (S + n,)
        vectors = F.embedding(used, rows)  # (S + n, d)
        length = vectors.square().sum(1, keepdim=True).sqrt_()
        inverse = length.clamp_min_(1e-12).reciprocal_()
        vectors.mul_(inverse)
        sampled = vectors[: len(batch.negatives)]
        chosen = vectors[len(batch.negatives) :]

        mass, flow, sums = _sample_mass(query, sampled, batch, tau, dtype)
        level = sums.log() + (1 / tau + batch.log_share)  # L_u, (B,)
        owner_query = F.embedding(batch.owner, query)  # (n, d)
        score = (owner_query * chosen).sum(1) / tau + batch.bias[batch.positives]
        margin = level[batch.owner] - score
        total = batch.weight.sum()
        loss = (F.softplus(margin) * batch.weight).sum() / total

        pull = torch.sigmoid(margin) * batch.weight / (tau * total)  # g_ui, (n,)
        push = torch.zeros_like(sums).index_add_(0, batch.owner, pull) / sums
        push = push.unsqueeze(1)  # w_u / sum, (B, 1)
        d_query = flow * push - _weighted_sum(chosen, batch.start, pull)
        d_vectors: Tensor = torch.empty_like(vectors)
        d_vectors[: len(sampled)] = mass.T @ (query * push).to(dtype)
        torch.mul(owner_query, -pull.unsqueeze(1), out=d_vectors[len(sampled) :])
        # Through the normalisation, in place: these are the largest float32 arrays.
        d_vectors -= vectors * (vectors * d_vectors).sum(1, keepdim=True)
        d_vectors *= inverse
        ctx.save_for_backward(d_query, d_vectors, used)
        ctx.rows = len(rows)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        d_query, d_vectors, used = ctx.saved_tensors
        d_rows = torch.ops.aten.embedding_dense_backward(
            d_vectors * grad_outputs[0], used, ctx.rows, -1, False
        )
        return d_query * grad_outputs[0], d_rows, None, None, None


def _sample_mass(
    query: Tensor, sampled: Tensor, batch: LossBatch, tau: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return exp(z - 1/tau) of the sample, its product with the vectors, its sums.

    z - 1/tau is at most the bias, so nothing overflows whatever the temperature.
    Shapes (B, S) in ``dtype``, (B, d) and (B,) in float32.
    """
    size, dim = sampled.shape
    shifted = batch.bias[batch.negatives] - 1 / tau
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
    return mass, out[:, :dim], out[:, dim:].sum(1).clamp_min_(_TINY)


def _weighted_sum(vectors: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """Sum consecutive groups of weighted vectors; shape (B, d)."""
    every = torch.arange(len(vectors), device=vectors.device)
    return F.embedding_bag(every, vectors, start, mode="sum", per_sample_weights=weight)
