"""One epoch over some of the interactions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.training.full.basis import Basis
from recsys.training.full.start import Start
from recsys.training.loop import Epoch, fit
from recsys.training.model import Towers
from recsys.training.ragged import Ragged
from recsys.training.rows import QueryRows


@dataclass(frozen=True, slots=True)
class Lesson:
    """What has learned, and the loss of its epoch."""

    towers: Towers
    loss: float


def learn(
    basis: Basis,
    rows: QueryRows,
    chosen: NDArray[np.bool_],
    share: float,
    start: Start,
) -> Lesson:
    """Learn once from some of the interactions.

    Args:
        basis: The parent and the data.
        rows: Items and histories.
        chosen: Marks what is learned from, shape (n,).
        share: Of the parent's peak learning rate.
        start: What is started from.
    """
    losses: list[float] = []

    def after(epoch: Epoch, _: Towers) -> bool:
        losses.append(epoch.loss)
        return False

    towers = fit(
        basis.dataset,
        only(basis, rows, chosen),
        replace(basis.settings, lr=basis.settings.lr * share),
        1,
        basis.config.train.seed,
        torch.from_numpy(start.weights["served"]),
        after,
        initial=start.weights,
    )
    return Lesson(towers, losses[0])


def only(basis: Basis, rows: QueryRows, chosen: NDArray[np.bool_]) -> QueryRows:
    """Return the rows with some of the interactions as targets, all as history."""
    part = basis.rows(chosen, basis.dataset.until)
    item = torch.from_numpy(np.searchsorted(rows.items, part.items))
    user = torch.from_numpy(np.searchsorted(rows.users, part.users))
    targets = part.targets
    return replace(
        rows,
        user=user[part.user],
        context=part.context,
        # One bias for all of them: the news are of one time.
        periods=None,
        targets=Ragged(targets.start, item[targets.values], targets.weight),
    )
