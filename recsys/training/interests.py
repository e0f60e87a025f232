"""Learning several queries per user: each positive teaches the nearest one alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.training.objectives.batch import LossBatch, Own, Pairs


def nearest_interest(
    query: Tensor, items: Tensor, batch: LossBatch
) -> tuple[Tensor, LossBatch]:
    """Return the interests as queries of their own, each with its positives.

    Args:
        query: Unit queries, shape (B, K, d).
        items: Item rows before normalisation, shape (R, d).
        batch: What B queries are compared with.

    Returns:
        Queries, shape (B K, d), and the comparisons: a positive belongs to the interest
        with the greatest inner product, and what a user has seen is no negative of any.
    """
    count, every = query.shape[1], query.shape[0] * query.shape[1]
    with torch.no_grad():
        vectors = F.normalize(items[batch.positives], dim=1, eps=1e-12)
        dots = (query[batch.owner] * vectors.unsqueeze(1)).sum(2)  # (n, K)
        owner, order = (batch.owner * count + dots.argmax(1)).sort(stable=True)
    counts = torch.bincount(owner, minlength=every)
    interest = torch.arange(count, device=query.device)
    seen = (batch.seen_query.unsqueeze(1) * count + interest).flatten()
    own, pairs = batch.own, batch.pairs
    if own is not None:
        own = Own(
            own.items.repeat_interleave(count),
            (own.owner.unsqueeze(1) * count + interest).flatten(),
            own.log_weight.repeat_interleave(count),
        )
    if pairs is not None:
        pairs = Pairs(pairs.items[order], pairs.weight[order])
    return query.flatten(0, 1), replace(
        batch,
        own=own,
        pairs=pairs,
        positives=batch.positives[order],
        owner=owner,
        start=counts.cumsum(0) - counts,
        weight=batch.weight[order],
        seen_query=seen,
        seen_place=batch.seen_place.repeat_interleave(count),
    )
