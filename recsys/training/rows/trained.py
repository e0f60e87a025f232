"""The items and users that query rows are about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.errors import TrainingError
from recsys.training.blocks import slices
from recsys.training.rows.history import id_order
from recsys.training.rows.past import Past
from recsys.training.weights import decay_at


@dataclass(frozen=True, slots=True)
class Trained:
    """What all users have in common.

    Attributes:
        items: Dataset index of each trained item, ascending, shape (T,).
        users: Dataset index of each user with taste, ascending, shape (U,).
        rank: Place of each trained item in the order of ids, shape (T,).
        first: First known time of a target, None where nothing is counted by time.
        undated: What an interaction of unknown age weighs.
    """

    items: NDArray[np.int64]
    users: NDArray[np.int64]
    rank: NDArray[np.int64]
    first: float | None
    undated: float

    @classmethod
    def of(cls, past: Past, given: NDArray[np.int64] | None) -> Trained:
        """Look through the interactions, some at once; ``given`` are the items."""
        dataset, keep, end = past.dataset, past.keep, past.end
        items = np.zeros(len(dataset.item_ids), np.bool_)
        if given is not None:
            items[given] = True
        users = np.zeros(len(dataset.user_ids), np.bool_)
        first, worth = np.inf, False
        for part in slices(len(dataset)):
            positive = keep[part] & (dataset.kind_weight > 0)[dataset.kind[part]]
            users[dataset.user[part][positive]] = True
            if given is None:
                items[dataset.item[part][positive]] = True
            positive &= items[dataset.item[part]]
            if dataset.value is not None:
                positive &= dataset.value[part] > 0
            worth = worth or bool(positive.any())
            time = dataset.time[part][positive]
            first = min(first, float(time[np.isfinite(time)].min(initial=np.inf)))
        _check(liked=bool(users.any()), worth=worth)
        trained = np.flatnonzero(items)
        rank = id_order([dataset.item_ids[i] for i in trained.tolist()])
        known = None if end is None else min(first, end)
        undated = _mean_decay(past, users, items)
        return cls(trained, np.flatnonzero(users), rank, known, undated)


def _check(*, liked: bool, worth: bool) -> None:
    """Refuse interactions that nothing can be learned from."""
    if not liked:
        raise TrainingError(
            "there is no interaction of positive weight to learn from",
            hint="Check that interactions.sql has the column 'kind' with the kinds of "
            "interactions.weights, and that its item ids occur in items.sql.",
        )
    if not worth:
        raise TrainingError(
            "no interaction has a value above 0 to learn from",
            hint="Check the column 'value' of interactions.sql.",
        )


def _mean_decay(
    past: Past, users: NDArray[np.bool_], items: NDArray[np.bool_]
) -> float:
    """Return the mean weight by age of what trained users did with trained items."""
    if not past.half_life_s or past.end is None:
        return 1.0
    dataset = past.dataset
    total, count = 0.0, 0
    for part in slices(len(dataset)):
        mine = past.keep[part] & users[dataset.user[part]] & items[dataset.item[part]]
        decay = decay_at(dataset.time[part][mine], past.end, past.half_life_s)
        total += float(np.nansum(decay))
        count += int(np.isfinite(decay).sum())
    return total / count if count else 1.0
