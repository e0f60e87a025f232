"""The towers of a version, seen from the rows that may move.

An ID row enters the item tower by addition: the item vector is (row + rest) / length,
with a rest that the features make. The tower gives the unit vector only. A second call
with the row moved by a unit vector d across it gives the length: the tangent of the
angle between the two answers is 1 / length. The same goes for the query tower and the
mean of the history. So whatever computes the rest, no weights are needed here, and a
tower of another kind is noticed: its answers do not follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys._items import ItemInputs
from recsys._tower import ItemTower, QueryTower
from recsys.encoder.values import Columns
from recsys.errors import TrainingError
from recsys.updates.objective import Float32, unit

_MOST_DIFFERENCE = 2e-3
_PROBES = 64


@dataclass(frozen=True, slots=True)
class ItemRests:
    """What the item tower adds to ID rows.

    Attributes:
        served: Before the vector is made one of length 1, shape (U, d).
        history: On the history side, shape (U, d).
        bias: Popularity dimension as served, shape (U,).
    """

    served: Float32
    history: Float32
    bias: Float32


def item_rests(tower: ItemTower, given: ItemInputs, seed: int = 0) -> ItemRests:
    """Return what the tower adds to the rows of some items.

    Raises:
        TrainingError: The tower does not add them.
    """
    count, dim = given.served.shape
    nothing = np.zeros((count, dim), np.float32)
    rng = np.random.default_rng(seed)

    def encode(served: Float32) -> tuple[Float32, Float32]:
        return tower.encode(given.columns, count, served, nothing, given.bias)

    vectors, history = encode(given.served)
    direction = vectors[:, :dim]
    across = _across(direction, rng)
    length = _length(direction, encode(given.served + across)[0][:, :dim], across)
    rests = ItemRests(length * direction - given.served, history, vectors[:, dim])
    some = slice(0, _PROBES)
    moved = unit(rng.normal(size=(count, dim)).astype(np.float32))[0]
    part = ItemInputs(
        given.ids[some],
        (given.served + moved)[some],
        nothing[some],
        given.bias[some],
        {name: cells[some] for name, cells in given.columns.items()},
    )
    actual = tower.encode(
        part.columns, len(part.ids), part.served, part.history, part.bias
    )[0][:, :dim]
    expected = unit(part.served + rests.served[some])[0]
    if np.abs(actual - expected).max(initial=0.0) > _MOST_DIFFERENCE:
        raise TrainingError(
            "the item tower of this version does more with learned rows than add them",
            hint="Incremental updates cannot follow it: use full updates.",
        )
    return rests


def query_rests(
    tower: QueryTower, users: Columns, contexts: Columns, count: int, seed: int = 0
) -> Float32:
    """Return what user and context add to the mean of the history, shape (B, d)."""
    dim = tower.dim
    featured = tower.user_features or tower.context_features
    if not featured or tower.sequential:
        return np.zeros((count, dim), np.float32)
    rng = np.random.default_rng(seed)
    start = unit(rng.normal(size=(1, dim)).astype(np.float32))[0]
    ones = np.ones((count, 1), np.float32)

    def encode(mean: Float32) -> Float32:
        rows = np.broadcast_to(mean[:, None], (count, 1, dim))
        return tower.encode(rows, ones, users, contexts)[:, :dim]

    mean = np.repeat(start, count, axis=0)
    direction = encode(mean)
    across = _across(direction, rng)
    length = _length(direction, encode(mean + across), across)
    return length * direction - mean


def takes_the_mean(
    tower: QueryTower,
    queries: Float32,
    histories: Float32,
    weights: Float32,
    users: Mapping[str, list[object]],
    contexts: Mapping[str, list[object]],
) -> bool:
    """Say whether the tower makes these queries of these histories.

    Args:
        tower: The query tower.
        queries: What the mean of the history would give, shape (B, d).
        histories: History rows, shape (B, L, d).
        weights: Their weights, shape (B, L).
        users: Raw user features of length B.
        contexts: Raw context features of length B.
    """
    if tower.sequential:
        return False
    actual = tower.encode(histories, weights, users, contexts)
    if actual.ndim > 2:
        return False
    actual = actual[:, : tower.dim]
    return bool(np.abs(actual - queries).max(initial=0.0) <= _MOST_DIFFERENCE)


def _across(direction: Float32, rng: np.random.Generator) -> Float32:
    """Return unit vectors at right angles to others."""
    drawn = rng.normal(size=direction.shape).astype(np.float32)
    drawn -= direction * (direction * drawn).sum(1, keepdims=True)
    return unit(drawn)[0]


def _length(before: Float32, after: Float32, across: Float32) -> NDArray[np.float32]:
    """Return the length of x from x/|x| and (x + across)/|x + across|; shape (B, 1)."""
    along = (before * after).sum(1, keepdims=True)
    over = (across * after).sum(1, keepdims=True)
    return along / np.maximum(over, np.float32(1e-6))
