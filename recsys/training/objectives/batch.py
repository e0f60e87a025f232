"""What one step compares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Own:
    """Negatives of one query each, such as what was shown and not chosen.

    Attributes:
        items: Their rows among the item rows given to the loss, shape (h,), int64.
        owner: Query of each, ascending, shape (h,), int64.
        log_weight: Log of how many items of the catalogue each counts as, shape (h,).
    """

    items: Tensor
    owner: Tensor
    log_weight: Tensor


@dataclass(frozen=True, slots=True)
class Pairs:
    """Negatives of one positive each.

    Attributes:
        items: Their rows among the item rows given to the loss, shape (n, K), int64.
        weight: 0 for one that the query has met, shape (n, K), float32.
    """

    items: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Taught:
    """What a teacher holds of the queries and of some of the shared sample of a step.

    Attributes:
        query: Its unit queries, shape (B, D), float32; 0 where it knows nothing of the
            history.
        places: Places in ``LossBatch.negatives`` of items that it knows, shape (K,).
        vectors: Its unit vectors of those, shape (K, D), float32.
        knows: 1 where it knows the query, else 0, shape (B,), float32.
        tau: Its temperature.
        weight: Of what it says, where the objective weighs 1.
    """

    query: Tensor
    places: Tensor
    vectors: Tensor
    knows: Tensor
    tau: float
    weight: float


@dataclass(frozen=True, slots=True)
class LossBatch:
    """What one step compares; indices point into the item rows given to the loss.

    Attributes:
        negatives: Shared sample without repeats, shape (S,), int64.
        positives: Positives of all queries, grouped by query, shape (n,), int64.
        owner: Query of each positive, ascending, shape (n,), int64.
        start: First positive of each query, shape (B,), int64.
        weight: Weight a of each positive, shape (n,), float32.
        seen_query: Query of each (query, seen negative) pair, shape (m,), int64.
        seen_place: Its place in ``negatives``, shape (m,), int64.
        bias: Additive bias of each item row, shape (R,), float32.
        log_share: log(|items| / |S|).
        correction: What is added to ``log_share`` for each negative, so that the sum
            is the log of how many items it stands for: its sampling probability is
            corrected. Shape (S,), float32; None where all are alike.
        own: Negatives of single queries, or None.
        pairs: Negatives of single positives, where the objective asks for them.
        taught: What a teacher holds of the same, where there is one.
        products: Type of the (B, S) products: bfloat16 where the device is fast at it.
    """

    negatives: Tensor
    positives: Tensor
    owner: Tensor
    start: Tensor
    weight: Tensor
    seen_query: Tensor
    seen_place: Tensor
    bias: Tensor
    log_share: float
    correction: Tensor | None = None
    own: Own | None = None
    pairs: Pairs | None = None
    taught: Taught | None = None
    products: torch.dtype = torch.float32

    def items(self) -> Tensor:
        """Return the rows of negatives, positives and own negatives; (S + n + h,)."""
        own = [self.own.items] if self.own is not None else []
        return torch.cat([self.negatives, self.positives, *own])


def log_share(items: int, sample: int) -> float:
    """Return log(|items| / |sample|), the correction for sampling uniformly."""
    return math.log(items / sample)
