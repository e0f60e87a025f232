"""The rows and weights that a full update starts from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.training.carried import carried_weights, learned_rows
from recsys.training.full.basis import Basis
from recsys.training.rows import QueryRows
from recsys.training.sparse import entries

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """What is carried over.

    Attributes:
        weights: By the names of ``Towers.weights``, and the item rows as "served" and
            "history", shape (T, d).
        admitted: How many items are new.
        fresh: Names of the weights that start anew.
    """

    weights: Mapping[str, NDArray[np.float32]]
    admitted: int
    fresh: list[str]


def start_of(basis: Basis, rows: QueryRows) -> Start:
    """Return what a fit to some rows starts from."""
    dataset, parent = basis.dataset, basis.parent
    served, history, known = learned_rows(parent, basis.ids(rows))
    if dataset.items is None and not known.all():
        direction = _direction(rows, history, known)
        served[~known] = direction[~known] * _usual(served[known])
        history[~known] = direction[~known] * _usual(history[known])
    weights, fresh = carried_weights(parent, basis.towers(served), dataset)
    if fresh:
        logger.warning("weights that start anew: %s", ", ".join(fresh))
    carried = {"served": served, "history": history, **weights}
    return Start(carried, int((~known).sum()), fresh)


def _direction(
    rows: QueryRows, history: NDArray[np.float32], known: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return where those who met each item look, as unit vectors, shape (T, d)."""
    owner, item, weight = entries(rows.history)
    table = torch.from_numpy(history)
    weight = weight * torch.from_numpy(known)[item]
    taste = torch.zeros(len(rows.users), table.shape[1])
    taste.index_add_(0, owner, table[item] * weight.unsqueeze(1))
    taste = torch.nn.functional.normalize(taste, dim=1, eps=1e-12)
    out = torch.zeros(len(rows.items), table.shape[1])
    out.index_add_(0, item, taste[owner])
    return _array(torch.nn.functional.normalize(out, dim=1, eps=1e-12))


def _array(value: Tensor) -> NDArray[np.float32]:
    return value.numpy()


def _usual(some: NDArray[np.float32]) -> float:
    return float(np.median(np.linalg.norm(some, axis=1))) if len(some) else 1.0
