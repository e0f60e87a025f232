"""What one step of a fit sees, as data: queries, items and comparisons.

A source of rows makes ``Queries``; the sampler adds negatives and hides what the towers
must do without, which gives a ``Step``; ``Towers`` turn it into vectors, and an
objective compares those as ``Step.batch`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from recsys.training.objectives.batch import LossBatch
from recsys.training.ragged import Selection


@dataclass(frozen=True, slots=True)
class Queries:
    """B queries with what they are made of and what they should find.

    Items are counted among the trained ones: 0 to T.

    Attributes:
        user: Row of the user features of each query, shape (B,), int64.
        context: Row of the context features, shape (B,), int64, or None.
        history: Items that make the query, latest first, with weights.
        targets: Items that the query should find, with weights.
        seen: Items that must never be negatives of the query.
        places: Where ``history`` holds fewer lists than there are queries: the entry
            from which on it is the history of each query, shape (B,), int64.
        shown: Items the user was shown and did not choose, or None.
        disliked: Items the user has refused, or None. They may be among ``seen``.
        bias: What the loss adds to each trained item, the same for all queries, shape
            (T,); None for the popularity of all time.
    """

    user: Tensor
    context: Tensor | None
    history: Selection
    targets: Selection
    seen: Selection
    places: Tensor | None = None
    shown: Selection | None = None
    disliked: Selection | None = None
    bias: Tensor | None = None


class RowSource(Protocol):
    """Makes the queries of a step: one per user, or one per place in a sequence."""

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""
        ...

    def take(self, chosen: Tensor) -> Queries:
        """Return the queries of some rows, of shape (B,), int64."""
        ...


@runtime_checkable
class Batched(Protocol):
    """A source of rows that says itself which rows may be in one step."""

    def batches(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Return the rows of an epoch, at most ``size`` at once, in random order."""
        ...


@dataclass(frozen=True, slots=True)
class Content:
    """What is computed from the features of the items of a step.

    Attributes:
        rows: Their rows in the item features, shape (R,), int64.
        known: 0 where content must do without the ID row, else 1; shape (R, 1).
    """

    rows: Tensor
    known: Tensor


@dataclass(frozen=True, slots=True)
class Used:
    """The items of a step, where others are left out.

    Attributes:
        rows: Their rows in the item tables, ascending, shape (R,), int64.
        content: None where items have no features.
    """

    rows: Tensor
    content: Content | None


@dataclass(frozen=True, slots=True)
class Step:
    """Everything one step needs.

    Attributes:
        user: Row of the user features of each query, shape (B,), int64.
        context: Row of the context features, shape (B,), int64, or None.
        history: What is left of each history. Its values, like the items of ``batch``,
            are places in ``used`` where that is given, else rows of the item tables.
        used: The items of the step; None where all of the tables take part.
        batch: What is compared.
        places: As in ``Queries``; -1 where nothing is left of a history.
        masks: What dropout inside an encoder makes of each entry of ``history``: 0, or
            more than 1 for what is left, shape (n, S, d); None without dropout.
    """

    user: Tensor
    context: Tensor | None
    history: Selection
    used: Used | None
    batch: LossBatch
    places: Tensor | None = None
    masks: Tensor | None = None
