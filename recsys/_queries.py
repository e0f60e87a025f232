"""From the state of a request to its query, or to the queries of its interests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recsys import _db
from recsys._clusters import interests
from recsys._tower import QueryTower
from recsys.config import ModelConfig
from recsys.retrieval import State


def queries(
    tower: QueryTower,
    config: ModelConfig,
    state: State,
    context: Mapping[str, object] | None = None,
) -> NDArray[np.float32]:
    """Return the query vector of a state, or several.

    Args:
        tower: Query tower of the version.
        config: Its configuration.
        state: What its state function returned.
        context: Request-time features by name.

    Returns:
        Shape (d + 1,), float32; shape (Q, d + 1) of a version with interests, unless
        there is no history to find any in.

    Raises:
        SourceError: A feature value has the wrong type or length.
        ArtifactError: The tower or the rows are damaged.
    """
    if config.query.clustered and state.vectors:
        vectors = _db.unpack_halfvecs(state.vectors, tower.dim + 1)
        return interests(vectors, state.weights, state.ages, config.query.interests)
    return tower.encode_one(
        _db.unpack_halfvecs(state.history, tower.dim),
        np.asarray(state.weights, np.float32),
        state.features,
        context,
        state.ages,
        state.kinds,
    )
