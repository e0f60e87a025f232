"""What one step compares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
    products: torch.dtype = torch.float32


def log_share(items: int, sample: int) -> float:
    """Return log(|items| / |sample|), the correction for sampling uniformly."""
    return math.log(items / sample)
