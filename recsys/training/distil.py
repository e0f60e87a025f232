"""Distillation: a model learns from its data and from a larger version of itself.

The search on the validation slice does without the teacher, which was trained on that
slice as well and would give it away. The final fit has both.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys._parent import Parent
from recsys.config import ModelConfig
from recsys.errors import TrainingError
from recsys.training.carried import carried_weights, learned_rows
from recsys.training.content import Content
from recsys.training.dataset import Dataset
from recsys.training.evaluation import item_vectors, nearest, queries
from recsys.training.features import EncodedSide
from recsys.training.model import AFTER_THE_FIT, Towers
from recsys.training.ragged import Selection
from recsys.training.rows import QueryRows
from recsys.training.sampler import UserRows
from recsys.training.teacher import Teacher

logger = logging.getLogger(__name__)

_USUAL_TAU = 0.1
_ROWS_AT_ONCE = 8_192
# Fewer known items than this share are worth a warning.
_MOST = 0.5
_AGREE_ON = 20
_AGREE_ROWS = 512


def teacher_of(parent: Parent, dataset: Dataset, rows: QueryRows) -> Teacher:
    """Return what a version holds of the items, users and contexts of a fit.

    Args:
        parent: The version, whose queries are means of histories.
        dataset: What the student learns from.
        rows: The same, as the fit sees it.

    Raises:
        TrainingError: It has learned none of the items, or had other features.
    """
    places: list[int] = rows.items.tolist()
    ids = [dataset.item_ids[place] for place in places]
    served, history, known = learned_rows(parent, ids)
    if not known.any():
        raise TrainingError(
            f"version {parent.number} has learned none of the items to train on",
            hint="Distil from a version of the same items.",
        )
    if known.mean() < _MOST:
        logger.warning(
            "version %d has learned only %d of the %d items to train on",
            parent.number, known.sum(), len(known),
        )  # fmt: skip
    towers = _towers(parent, dataset, served)
    towers.set_weights({"served": served, "history": history})
    vectors = item_vectors(towers, rows)
    has = torch.from_numpy(known)
    return Teacher(
        tau=float(parent.settings.get("tau", _USUAL_TAU)),
        history=vectors.history * has.unsqueeze(1),
        served=vectors.served * has.unsqueeze(1),
        known=has,
        user=_every(towers.user, dataset.users),
        context=_every(towers.context, dataset.contexts),
    )


def _towers(parent: Parent, dataset: Dataset, served: NDArray[np.float32]) -> Towers:
    """Return the towers of a version over the features of the data."""
    sides = (dataset.items, dataset.users, dataset.contexts)
    generator = torch.Generator().manual_seed(0)
    towers = Towers(torch.from_numpy(served), *sides, generator, parent.content)
    weights, absent = carried_weights(parent, towers, dataset)
    gone = parent.weights.keys() - towers.weights().keys()
    odd = sorted({*absent, *gone} - set(AFTER_THE_FIT))
    if odd:
        raise TrainingError(
            f"version {parent.number} was trained with other features than those of"
            f" recsys.toml: {', '.join(odd)}",
            hint="Train the teacher and the student with the same features.",
        )
    towers.set_weights(weights)
    return towers


@torch.no_grad()
def _every(content: Content | None, side: EncodedSide | None) -> Tensor | None:
    """Return the content of every row of a side, shape (N, D)."""
    if content is None or side is None:
        return None
    count = len(side)
    parts = [
        content(torch.arange(first, min(first + _ROWS_AT_ONCE, count)))
        for first in range(0, count, _ROWS_AT_ONCE)
    ]
    return torch.cat(parts)


def student_of(config: ModelConfig) -> ModelConfig:
    """Return the configuration of a student: its queries are means of histories."""
    if config.query.encoder != "auto":
        return config
    return replace(config, query=replace(config.query, encoder="mean"))


@torch.no_grad()
def agreement(
    teacher: Teacher, towers: Towers, rows: QueryRows, seed: int
) -> float | None:
    """Return the share of the teacher's best items that are the student's best.

    By taste alone, of the items that the teacher knows and the user has not met.

    Args:
        teacher: By the numbers of ``rows``.
        towers: The student.
        rows: What it was fitted to.
        seed: Of the choice of query rows.

    Returns:
        In [0, 1]; None where the teacher knows none of the histories.
    """
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(rows.user), generator=generator)[:_AGREE_ROWS]
    asked = UserRows(rows).take(some)
    theirs, knows = teacher.queries(asked)
    if not knows.any():
        return None
    user = rows.user[some]
    vectors = item_vectors(towers, rows)
    mine = queries(towers, rows, vectors, user, asked.context)
    lists = [
        _best(nearest(query, served), asked.seen, teacher.known)[knows]
        for query, served in ((theirs, teacher.served), (mine, vectors.served))
    ]
    same = (lists[0].unsqueeze(2) == lists[1].unsqueeze(1)).any(2)
    return float(same.float().mean())


def _best(score: Tensor, seen: Selection, known: Tensor) -> Tensor:
    """Return the best unseen items that are known, shape (B, k)."""
    score[seen.owner, seen.values] = -torch.inf
    score[:, ~known] = -torch.inf
    return score.topk(min(_AGREE_ON, score.shape[1]), dim=1).indices
