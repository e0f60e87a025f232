"""Sampled softmax over the list of a query: its positives and the sample together.

    M_u  = log(sum_{k in N_u} exp z_uk + exp L_u)
    loss = sum_u sum_{i in N_u} a_ui (M_u - z_ui) / sum a

with z and L_u as in ``ranking``, whose gradient by hand this shares. L_u is corrected
for how the negatives were sampled (logQ).

Source:
    Jean, Cho, Memisevic, Bengio: On Using Very Large Target Vocabulary for Neural
    Machine Translation (2015). Yi et al.: Sampling-bias-corrected neural modeling for
    large corpus item recommendations (2019).
"""

from __future__ import annotations

from torch import Tensor

from recsys.training.objectives.batch import LossBatch
from recsys.training.objectives.ranking import ranking_loss
from recsys.training.settings import Settings


def softmax(
    query: Tensor, rows: Tensor, batch: LossBatch, settings: Settings
) -> Tensor:
    """Return the loss of one step."""
    return ranking_loss(query, rows, batch, settings.tau, batch.products, together=True)
