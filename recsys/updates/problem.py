"""Everything that one update computes with, in arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys._tower import QueryTower
from recsys.types import ItemId
from recsys.updates.histories import PlacedEvents
from recsys.updates.learner import Catalogue, Moving
from recsys.updates.objective import Float32, Places
from recsys.versions import ModelVersion

Features = tuple[dict[str, list[object]], dict[str, list[object]]]
"""Raw columns of users and of contexts, by name of the feature."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a version is, and what is new to it. Items are counted by place, 0 to N.

    Attributes:
        version: The version.
        tower: Its query tower.
        items: Id of each item, shape (N,).
        ids: Id of each item that may move, shape (U,).
        known: Whether it has an ID row yet, shape (U,).
        moving: The rows that may move.
        catalogue: Every item as it is searched.
        listed: Whether each has a vector yet, shape (N,).
        rise: What today adds to the popularity of each, shape (N,). Counted with the
            news, it has no place in an examination by them.
        past: History-side rows of the items that somebody met, shape (M, d).
        past_moving: Which row of ``moving`` each is, -1: it stands still, shape (M,).
        events: Everything the users of the news did.
        user: User of each of the news, shape (n,).
        place: Item of each of the news, -1: in no list, shape (n,).
        columns: Raw user and context features, by asker.
        askers: User of each asker: a user in a context, shape (B,).
        asker: Asker of each of the news, shape (n,).
        rest: What user and context add to a query, shape (B, d).
        empty: Query of who has no history, shape (d,).
        left_out: Interactions that nothing can be learned from, by reason.
    """

    version: ModelVersion
    tower: QueryTower
    items: list[ItemId]
    ids: list[ItemId]
    known: NDArray[np.bool_]
    moving: Moving
    catalogue: Catalogue
    listed: NDArray[np.bool_]
    rise: Float32
    past: Float32
    past_moving: Places
    events: PlacedEvents
    user: Places
    place: Places
    columns: Features
    askers: Places
    asker: Places
    rest: Float32
    empty: Float32
    left_out: dict[str, int]


def columns_of_users(problem: Problem) -> Features:
    """Return raw user and context features by user, in each one's first context."""
    _, first = np.unique(problem.askers, return_index=True)
    return some(problem.columns, first)


def some(columns: Features, rows: Places) -> Features:
    """Return some rows of the features."""
    user, context = (
        {name: [cells[r] for r in rows.tolist()] for name, cells in side.items()}
        for side in columns
    )
    return user, context
