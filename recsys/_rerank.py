"""Ranking the first candidates again by the single rows of the history.

The index finds what is near the mean of the history. Which of the first are close to
one of its items, the mean does not tell: so each of them is compared with every row.
See ``recsys.training.rerank`` for the formula and its source; the temperature stands in
the version's configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _db, retrieval
from recsys._db import Connection, Halfvec
from recsys._request_sql import Statements
from recsys.config import ModelConfig
from recsys.retrieval import Found, State
from recsys.types import ItemId

LEAST_MEAN = 0.3
"""Inner products are divided by the length of the mean row, but at least by this share
of the rows' mean length: rows that differ much have a short mean, and would count too
much."""
_FEWEST = 100
_PLACES = 5
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Rerank:
    """The rows of one history, and the temperature at which they are heard.

    Attributes:
        rows: Shape (L, d), float32, divided by the length of their mean, or LEAST_MEAN
            of their mean length, and by the temperature.
        weights: Share of each in the mean, shape (L,), float32.
        temperature: Above 0.
    """

    rows: NDArray[np.float32]
    weights: NDArray[np.float32]
    temperature: float

    def bonus(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        """Return what is added to the scores of items, each at least 0.

        Args:
            vectors: Item vectors without their popularity, shape (N, d).
        """
        inner = vectors.astype(np.float32, copy=False) @ self.rows.T  # (N, L)
        mean = inner @ self.weights
        top = inner.max(axis=1)
        apart = np.log(np.exp(inner - top[:, None]) @ self.weights) + top
        return np.maximum(self.temperature * (apart - mean), 0)


def of(
    config: ModelConfig, history: NDArray[Any], weights: Sequence[float]
) -> Rerank | None:
    """Return how the candidates of a history are ranked again.

    Args:
        config: Of the version.
        history: History rows, shape (L, d), float16 or float32.
        weights: Their weights, shape (L,).

    Returns:
        None where they are not: the version does without, there is no second row, or
        none has a length.
    """
    temperature = config.query.rerank
    if temperature <= 0 or len(weights) < 2:
        return None
    share = np.asarray(weights, np.float32)
    share = share / share.sum()
    rows = history.astype(np.float32, copy=False)
    each = float(share @ np.linalg.norm(rows, axis=1))
    length = max(float(np.linalg.norm(share @ rows)), LEAST_MEAN * each)
    if not length > 0:
        return None
    return Rerank(rows / np.float32(length * temperature), share, temperature)


def of_state(config: ModelConfig, state: State) -> Rerank | None:
    """Return the same for what the state function of a version returned."""
    if config.query.rerank <= 0:
        return None
    history = _db.unpack_halfvecs(state.history, config.train.dim)
    return of(config, history, state.weights)


def pool(k: int) -> int:
    """Return how many candidates are ranked again for a list of k."""
    return max(k, min(_MOST, max(_FEWEST, _PLACES * k)))


def nearest(
    conn: Connection,
    sql: Statements,
    query: Halfvec,
    k: int,
    exclude: Sequence[ItemId],
    ef_search: int,
    rerank: Rerank | None,
    weight: float = 0.0,
) -> Found:
    """Return what ``retrieval.search`` does; with a re-ranking the k best of a pool."""
    known = conn, sql, query
    if rerank is None:
        return retrieval.search(*known, k, exclude, ef_search, weight)
    ids, scores, packed = retrieval.pool(*known, pool(k), exclude, ef_search, weight)
    vectors = _db.unpack_halfvecs(packed, rerank.rows.shape[1] + 1)[:, :-1]
    return again(ids, scores, vectors, rerank, k)


def again(
    ids: Sequence[Any],
    scores: Sequence[float] | NDArray[Any],
    vectors: NDArray[Any],
    rerank: Rerank,
    k: int,
) -> tuple[list[Any], list[float]]:
    """Return the k best after what the rows of the history add; ties by place.

    Args:
        ids: Candidates, nearest first.
        scores: Their scores, shape (N,).
        vectors: Their vectors without popularity, shape (N, d).
        rerank: The rows.
        k: List length.
    """
    every = np.asarray(scores, np.float32)
    if len(every):
        every = every + rerank.bonus(vectors)
    order: list[int] = np.argsort(-every, kind="stable")[:k].tolist()
    return [ids[place] for place in order], [float(every[place]) for place in order]
