"""The query rows of some users."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.popularity import decayed_counts
from recsys.training.dataset import Dataset
from recsys.training.own import OwnNegatives, own_negatives
from recsys.training.periods import Positives
from recsys.training.ragged import Ragged
from recsys.training.rows.history import UNKNOWN, kind_numbers, known_kinds, newest_kind
from recsys.training.rows.pairs import Pairs
from recsys.training.rows.past import Past
from recsys.training.rows.trained import Trained
from recsys.training.weights import target_weights


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of some users, counted from 0; as in ``QueryRows``."""

    users: int
    user: Tensor
    context: Tensor | None
    targets: Ragged
    history: Ragged
    seen: Ragged
    pop: Tensor
    decayed: Tensor | None
    own: OwnNegatives
    events: Positives


def block_rows(
    past: Past,
    trained: Trained,
    users: NDArray[np.int64],
    places: NDArray[np.int64],
) -> Block:
    """Return the rows of some users.

    Args:
        past: What rows are made from.
        trained: What all users have in common.
        users: Dataset index of each of these users, ascending.
        places: Where their interactions are.
    """
    width = len(trained.items)
    met = _Met.of(past.dataset, trained.items, users, places)
    liked = met.liked()
    pairs = met.pairs(width)
    # The time that orders a history is that of taste, as it is when serving.
    taste = pairs if liked is met else liked.pairs(width)
    user, context, targets, events = _targets(past, trained, met, taste)
    decayed = None
    if past.end is not None and trained.first is not None:
        decayed = torch.from_numpy(
            decayed_counts(taste.item, taste.time, width, past.end)
        )
    return Block(
        users=len(users),
        user=user,
        context=context,
        targets=targets,
        history=_histories(past, trained, liked, taste, len(users)),
        seen=pairs.ragged(len(users)),
        pop=_counts(taste.item, width),
        decayed=decayed,
        own=own_negatives(
            past.dataset, places, past.end, trained.items, users, taste.user, taste.item
        ),
        events=events,
    )


@dataclass(frozen=True, slots=True)
class _Met:
    """Interactions of some users with trained items.

    Attributes:
        place: Place among all interactions, shape (m,).
        user: Counted from 0 among these users, shape (m,).
        item: Trained item, 0 to T, shape (m,).
        weight: By kind, shape (m,).
        time: Seconds since 1970, NaN where unknown, shape (m,).
    """

    place: NDArray[np.int64]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    weight: NDArray[np.float32]
    time: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        items: NDArray[np.int64],
        users: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> _Met:
        place = places[np.isin(dataset.item[places], items)]
        return cls(
            place=place,
            user=np.searchsorted(users, dataset.user[place]),
            item=np.searchsorted(items, dataset.item[place]),
            weight=dataset.weight[place],
            time=dataset.time[place],
        )

    def liked(self) -> _Met:
        """Return those of positive weight; itself where all are."""
        some = self.weight > 0
        if some.all():
            return self
        return _Met(
            self.place[some],
            self.user[some],
            self.item[some],
            self.weight[some],
            self.time[some],
        )

    def pairs(self, width: int) -> Pairs:
        return Pairs.merge(self.user, self.item, self.weight, self.time, width)


def _histories(
    past: Past, trained: Trained, liked: _Met, taste: Pairs, users: int
) -> Ragged:
    """Return the taste of each user, latest first; with ages and kinds, if known."""
    order = np.lexsort((trained.rank[taste.item], -taste.time, taste.user))
    latest = taste.select(order).ragged(users)
    if past.end is not None:
        dataset = past.dataset
        number = kind_numbers(dataset, known_kinds(dataset))
        kind = number[dataset.kind[liked.place]]
        pair = liked.user * len(trained.items) + liked.item
        age = np.where(taste.time > UNKNOWN, np.maximum(past.end - taste.time, 0), -1)
        latest = replace(
            latest,
            age=torch.from_numpy(age[order].astype(np.float32)),
            kind=torch.from_numpy(newest_kind(pair, liked.time, kind)[order]),
        )
    return latest.head(past.history)


def _targets(
    past: Past, trained: Trained, met: _Met, taste: Pairs
) -> tuple[Tensor, Tensor | None, Ragged, Positives]:
    """Return user, context and targets of each query row, and the positive events.

    Without contexts a row is a user; with them it is a distinct (user, context).
    Without weights of their own the targets are the taste.
    """
    dataset, width = past.dataset, len(trained.items)
    users = int(taste.user.max(initial=-1)) + 1
    weight = target_weights(
        dataset, met.place, past.end, past.half_life_s, trained.undated
    )
    if weight is None:
        weight = met.weight
    positive = weight > 0
    user, item, weight = met.user[positive], met.item[positive], weight[positive]
    time = met.time[positive]
    if dataset.context is None:
        events = Positives(user, user, item, weight, time)
        return torch.arange(users), None, _merged(events, width).ragged(users), events
    context = dataset.context[met.place[positive]].astype(np.int64)
    key = user * (int(context.max(initial=0)) + 1) + context
    distinct, first, row = np.unique(key, return_index=True, return_inverse=True)
    events = Positives(row.reshape(-1), user, item, weight, time)
    return (
        torch.from_numpy(user[first]),
        torch.from_numpy(context[first]),
        _merged(events, width).ragged(len(distinct)),
        events,
    )


def _merged(events: Positives, width: int) -> Pairs:
    """Return the distinct pairs of row and item."""
    return Pairs.merge(
        events.row, events.item, events.weight, np.zeros(len(events.row)), width
    )


def _counts(item: NDArray[np.int64], items: int) -> Tensor:
    return torch.from_numpy(np.bincount(item, minlength=items).astype(np.float32))
