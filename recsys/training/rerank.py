"""Ranking the first candidates again by the single items of a history.

A mean of rows forgets which of them it is of: what is very like one of a user's items
and unlike the others scores as what is a little like all of them. So the first
candidates are heard again by every row, h_i of weight w_i, in place of their mean:

    score + t (log sum_i w_i exp(a_i / t) - sum_i w_i a_i / t),  a_i = h_i . v / |mean|

with the length of the mean, or 0.3 of the mean length of the rows where that is more.
It is the score of the mean where t is large, and follows the closest row where it is
small. What is added is never below 0. ``recsys._rerank`` is the same for a request.

Source:
    Late interaction: Khattab and Zaharia, "ColBERT: Efficient and effective passage
    search via contextualized late interaction over BERT", SIGIR 2020; the log-sum is
    the smooth form of its greatest inner product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys._query_config import RERANK_LEAD
from recsys._rerank import LEAST_MEAN
from recsys.training.ragged import Selection

TEMPERATURES = (1.0, 0.7)
"""Tried on the validation slice, beside none."""
CANDIDATES = 100
"""Candidates that are ranked again for a list of the validation slice."""


@dataclass(frozen=True, slots=True)
class Reranking:
    """Whether the first candidates are ranked again, and why.

    Attributes:
        temperature: At which; 0: they are not.
        scores: Recall@20 plus NDCG@20 by temperature, of some users of the validation
            slice; 0 is without. Empty where nothing was tried.
    """

    temperature: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict[str, float])

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable copy."""
        return {"temperature": self.temperature, "scores": dict(self.scores)}


def best_of(scores: Mapping[float, float]) -> Reranking:
    """Return the best temperature, or none where no other is worth it."""
    best = max(scores, key=lambda temperature: scores[temperature])
    worth = scores[best] > scores[0] * (1 + RERANK_LEAD)
    named = {f"{temperature:g}": score for temperature, score in scores.items()}
    return Reranking(best if worth else 0.0, named)


@dataclass(frozen=True, slots=True)
class Closeness:
    """How close the rows of B histories are to C candidates each.

    Attributes:
        inner: Inner products, divided by the length of the mean or by LEAST_MEAN of
            that of the rows, shape (B, C, L).
        weights: Share of each row in the mean, 0 for padding, shape (B, L).
    """

    inner: Tensor
    weights: Tensor

    def bonus(self, temperature: float) -> Tensor:
        """Return what is added to the scores, shape (B, C)."""
        scaled = self.inner / temperature
        logs = self.weights.log().unsqueeze(1)
        apart = torch.logsumexp(scaled + logs, dim=2)
        mean = (scaled * self.weights.unsqueeze(1)).sum(2)
        bonus = temperature * (apart - mean)
        known = self.weights.sum(1, keepdim=True) > 0
        return torch.where(known, bonus, 0.0)


def closeness(
    rows: Tensor, history: Selection, served: Tensor, place: Tensor
) -> Closeness:
    """Compare the rows of histories with candidates.

    Args:
        rows: History-side item rows, shape (T, d).
        history: B histories, by row.
        served: Unit item vectors, shape (T, d).
        place: C candidates for each history, shape (B, C).
    """
    lists, longest = len(history.start), max(1, int(history.counts.max()))
    within = torch.arange(len(history.owner)) - history.start[history.owner]
    share = rows.new_zeros(lists, longest)
    share[history.owner, within] = history.weights(rows)
    share = share / share.sum(1, keepdim=True).clamp(min=1e-12)
    item = torch.zeros(lists, longest, dtype=torch.int64)
    item[history.owner, within] = history.values.long()
    entries = F.embedding(item, rows)  # (B, L, d)
    mean = torch.bmm(share.unsqueeze(1), entries).squeeze(1)
    each = (entries.square().sum(2).sqrt() * share).sum(1)
    length = torch.maximum(mean.square().sum(1).sqrt(), LEAST_MEAN * each)
    inner = torch.bmm(F.embedding(place, served), entries.transpose(1, 2))
    return Closeness(inner / length.clamp(min=1e-12).view(-1, 1, 1), share)
