"""What a version has learned, in the order and by the numbers of other data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys._parent import Parent
from recsys.encoder.fit import FIRST_ROW
from recsys.training.dataset import Dataset
from recsys.training.model import Towers
from recsys.types import ItemId


def learned_rows(
    parent: Parent, ids: Sequence[ItemId]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return the served and the history-side rows of some items, and which it has.

    Shapes (T, d), (T, d) and (T,); rows that it has not are 0.
    """
    place = {item: n for n, item in enumerate(parent.item_ids)}
    at = np.array([place.get(item, -1) for item in ids], np.int64)
    known = at >= 0
    out = np.zeros((2, len(at), parent.served.shape[1]), np.float32)
    out[0, known] = parent.served[at[known]]
    out[1, known] = parent.history[at[known]]
    return out[0], out[1], known


def carried_weights(
    parent: Parent, towers: Towers, dataset: Dataset
) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Return the weights of a version that other towers can take over.

    Args:
        parent: The version.
        towers: Of the features of the data.
        dataset: The data.

    Returns:
        Weights by published name, and the names of those that the version has not, or
        not in this shape.
    """
    found: dict[str, NDArray[np.float32]] = {}
    fresh: list[str] = []
    for name, value in towers.weights().items():
        old = parent.weights.get(name)
        if old is not None and name.endswith(".table"):
            old = _by_value(name, old, value, dataset, parent)
        if old is None or old.shape != value.shape:
            fresh.append(name)
            continue
        found[name] = old
    return found, fresh


def _by_value(
    name: str,
    old: NDArray[np.float32],
    fresh: NDArray[np.float32],
    dataset: Dataset,
    parent: Parent,
) -> NDArray[np.float32]:
    """Return a table whose rows stand for the same values as before.

    A new value starts where it has been all the while: at the row of the unknown.
    """
    side, feature = name.removesuffix(".table").split(".", 1)
    encoded = {
        "item": dataset.items,
        "user": dataset.users,
        "context": dataset.contexts,
    }
    fitted = encoded[side]
    key = f"{side}.{feature}"
    if fitted is None or key not in parent.vocabularies:
        return old
    values = next(
        f.vocabulary for f in fitted.fitted.features if f.feature.name == feature
    )
    row = {value: n for n, value in enumerate(parent.vocabularies[key], FIRST_ROW)}
    out = np.zeros_like(fresh)
    out[1] = old[1]
    for place, value in enumerate(values, FIRST_ROW):
        out[place] = old[row.get(value, 1)]
    return out
