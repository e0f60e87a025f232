"""Pairwise loss: each positive against some negatives of its own (BPR).

    loss = sum_u sum_{i in N_u} a_ui mean_j softplus(z_uj - z_ui) / sum a

with z as in ``ranking``, and the mean over the pairs of the positive that its query has
not met, weighted like they are.

Source:
    Rendle et al.: BPR: Bayesian Personalized Ranking from Implicit Feedback (2009).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from recsys.training.objectives.batch import TINY, LossBatch
from recsys.training.settings import Settings


def bpr(query: Tensor, rows: Tensor, batch: LossBatch, settings: Settings) -> Tensor:
    """Return the loss of one step; ``batch.pairs`` are given."""
    pairs = batch.pairs
    assert pairs is not None
    mine = F.embedding(batch.owner, query) / settings.tau  # (n, d)
    liked = F.normalize(F.embedding(batch.positives, rows), dim=1, eps=1e-12)
    other = F.normalize(F.embedding(pairs.items, rows), dim=2, eps=1e-12)  # (n, K, d)
    score = (mine * liked).sum(1) + batch.bias[batch.positives]
    against = (other @ mine.unsqueeze(2)).squeeze(2) + batch.bias[pairs.items]
    each = F.softplus(against - score.unsqueeze(1)) * pairs.weight
    mean = each.sum(1) / pairs.weight.sum(1).clamp_min(TINY)
    return (mean * batch.weight).sum() / batch.weight.sum().clamp_min(TINY)
