"""Matryoshka training: the first dimensions of the vectors rank by themselves.

The loss of a step is the mean of the objective's loss over the whole vectors and over
each declared prefix of them. A prefix is what an index over it orders by: the inner
product of the first p numbers of two unit vectors, without a norm of its own.
Objectives normalise item rows, so the rest of a row is folded into one more number that
the query has no use for:

    x -> (x_1 .. x_p, |x_(p+1) .. x_d|),    q -> (q_1 .. q_p, 0)

Source: Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022; there each
prefix is normalised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.training.objectives import Objective
from recsys.training.objectives.batch import LossBatch
from recsys.training.settings import Settings

_TINY = 1e-12


def nested(
    objective: Objective,
    query: Tensor,
    rows: Tensor,
    batch: LossBatch,
    settings: Settings,
) -> Tensor:
    """Return the mean loss over the whole vectors and ``settings.prefixes``.

    Args:
        objective: Of one length.
        query: Unit query vectors, shape (B, d).
        rows: Item rows before normalisation, shape (R, d).
        batch: What is compared.
        settings: Of the fit.
    """
    losses = [objective(query, rows, batch, settings)]
    for length in settings.prefixes:
        short_query, short_rows = shortened(query, rows, length)
        losses.append(objective(short_query, short_rows, batch, settings))
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def shortened(query: Tensor, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return queries and rows of ``length + 1`` numbers that score as the prefix does.

    Shapes (B, length + 1) and (R, length + 1).
    """
    rest = rows[:, length:].square().sum(1, keepdim=True)
    folded = torch.cat([rows[:, :length], rest.clamp_min(_TINY).sqrt()], 1)
    return F.pad(query[:, :length], (0, 1)), folded


def fitting(prefixes: Sequence[int], dim: int) -> tuple[int, ...]:
    """Return the prefixes that are shorter than the vectors, the longest first."""
    return tuple(sorted({p for p in prefixes if 0 < p < dim}, reverse=True))
