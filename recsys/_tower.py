"""The towers at run time: numpy and onnxruntime, nothing else.

A session is made at the first call in each process, never before a fork, with one
thread and no spinning: see ``_onnx``. Encoding is thread-safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys._onnx import Session
from recsys.config import Feature, ModelConfig
from recsys.encoder.values import (
    Columns,
    Feeds,
    Side,
    input_name,
    longest,
    prepare,
    prepare_row,
)
from recsys.errors import ArtifactError

Float32Array = NDArray[np.float32]
_CHUNK_VALUES = 2**24  # floats of the largest intermediate tensor: 64 MB


class ItemTower:
    """Item features and ID rows to item vectors and history rows.

    Args:
        model: The ONNX model, as ``encoder.towers.item_tower`` writes it.
        features: Declared item features.
        dim: d.
    """

    def __init__(self, model: bytes, features: Sequence[Feature], dim: int) -> None:
        self.features = tuple(features)
        self.dim = dim
        names = {input_name("item", f) for f in self.features}
        self._session = Session(
            model,
            {"id_served", "id_history", "bias", *names},
            {"vector": dim + 1, "history": dim},
        )

    def encode(
        self,
        columns: Columns,
        n: int,
        id_served: NDArray[Any],
        id_history: NDArray[Any],
        bias: NDArray[Any],
    ) -> tuple[Float32Array, Float32Array]:
        """Encode n items.

        Args:
            columns: Raw feature columns, each of length n.
            n: Number of items.
            id_served: Served ID rows, shape (n, d), 0 without one.
            id_history: History ID rows, shape (n, d), 0 without one.
            bias: Popularity, shape (n,), NaN for an item without a learned row.

        Returns:
            Item vectors, shape (n, d + 1), float32: a unit vector and the bias; and
            history rows, shape (n, d), float32.

        Raises:
            SourceError: A feature value has the wrong type or length.
            ArtifactError: The tower is damaged, does not fit, or gives no finite
                vectors.
        """
        vectors = np.empty((n, self.dim + 1), np.float32)
        history = np.empty((n, self.dim), np.float32)
        feeds = {
            "id_served": _fit(id_served, (n, self.dim)),
            "id_history": _fit(id_history, (n, self.dim)),
            "bias": _fit(bias, (n,)),
        }
        for rows in _chunks(n, self.features, self.dim):
            part = {name: value[rows] for name, value in feeds.items()}
            part.update(_prepared("item", self.features, columns, rows, n))
            vectors[rows], history[rows] = self._session.run(part)
        if not (np.isfinite(vectors).all() and np.isfinite(history).all()):
            raise _not_finite("an item vector")
        return vectors, history


class QueryTower:
    """A user's history, features and context to a query vector, or several.

    Args:
        model: The ONNX model, as ``encoder.towers.query_tower`` writes it.
        user_features: Declared user features.
        context_features: Declared request-time features.
        dim: d.
        sequential: It also takes the ages and kinds of the history.
    """

    def __init__(
        self,
        model: bytes,
        user_features: Sequence[Feature],
        context_features: Sequence[Feature],
        dim: int,
        *,
        sequential: bool = False,
    ) -> None:
        self.user_features = tuple(user_features)
        self.context_features = tuple(context_features)
        self.dim = dim
        self.sequential = sequential
        names = {input_name("user", f) for f in self.user_features}
        names |= {input_name("context", f) for f in self.context_features}
        if sequential:
            names |= {"gaps", "recency", "kinds"}
        self._session = Session(
            model, {"history", "weights", *names}, {"query": dim + 1}
        )
        self._no_history = np.zeros((1, 1, dim), np.float32)
        self._no_weights = np.zeros((1, 1), np.float32)

    @classmethod
    def of(cls, model: bytes, config: ModelConfig) -> QueryTower:
        """Return the query tower of a version with this configuration."""
        return cls(
            model,
            config.users.features,
            config.context.features,
            config.train.dim,
            sequential=config.query.sequential,
        )

    def encode_one(
        self,
        history: NDArray[Any],
        weights: NDArray[Any],
        user: Mapping[str, object] | None = None,
        context: Mapping[str, object] | None = None,
        ages: Sequence[float] | None = None,
        kinds: Sequence[int] | None = None,
    ) -> Float32Array:
        """Encode one request.

        Args:
            history: History rows, shape (L, d), float16 or float32; L may be 0.
            weights: Their weights, shape (L,).
            user: Raw user features by name; absent ones are missing.
            context: Raw context features by name; absent ones are missing.
            ages: Seconds since each event, newest first, -1 where unknown; only a
                sequential tower reads them.
            kinds: Number of the kind of each event, 0 where unknown; likewise.

        Returns:
            Query vector, shape (d + 1,), float32: a unit vector and what popularity
            counts, about 1. Shape (K, d + 1) from a tower of K interests.

        Raises:
            SourceError: A feature value has the wrong type or length.
            ArtifactError: The tower is damaged, does not fit the history rows, or
                gives no finite vector.
        """
        length = len(weights)
        if history.shape != (length, self.dim):
            raise _misfit(history.shape, (length, self.dim))
        if length:
            feeds: Feeds = {
                "history": history.astype(np.float32, copy=False)[None],
                "weights": weights.astype(np.float32, copy=False)[None],
            }
        else:
            # Not every onnxruntime multiplies matrices of inner size 0.
            feeds = {"history": self._no_history, "weights": self._no_weights}
        if self.sequential:
            feeds.update(_moments(_row(ages, length, -1), _row(kinds, length, 0)))
        if self.user_features:
            feeds.update(prepare_row("user", self.user_features, user or {}))
        if self.context_features:
            feeds.update(prepare_row("context", self.context_features, context or {}))
        query: Float32Array = self._session.run(feeds)[0][0]
        if not math.isfinite(query.ravel().dot(query.ravel())):
            raise _not_finite("the query vector")
        return query

    def encode(
        self,
        history: NDArray[Any],
        weights: NDArray[Any],
        user_columns: Columns | None = None,
        context_columns: Columns | None = None,
        ages: NDArray[Any] | None = None,
        kinds: NDArray[Any] | None = None,
    ) -> Float32Array:
        """Encode B requests.

        Args:
            history: History rows, shape (B, L, d), padded where the weight is 0.
            weights: Shape (B, L).
            user_columns: Raw user feature columns of length B.
            context_columns: Raw context feature columns of length B.
            ages: As in ``encode_one``, shape (B, L).
            kinds: Likewise.

        Returns:
            Query vectors, shape (B, d + 1), float32, or (B, K, d + 1).

        Raises:
            SourceError: A feature value has the wrong type or length.
            ArtifactError: As ``encode_one``.
        """
        n, length = weights.shape
        history = _fit(history, (n, length, self.dim))
        weights = _fit(weights, (n, length))
        if not length:
            length = 1
            history = np.zeros((n, 1, self.dim), np.float32)
            weights = np.zeros((n, 1), np.float32)
            ages = kinds = None
        moments: Feeds = {}
        if self.sequential:
            unknown = np.full((n, length), -1.0)
            none = np.zeros((n, length), np.int64)
            moments = _moments(
                unknown if ages is None else ages, none if kinds is None else kinds
            )
        out = [np.empty((0, self.dim + 1), np.float32)] if not n else []
        users, contexts = self.user_features, self.context_features
        # Encoders of sequences hold a few numbers for each pair of places.
        tokens = length * length * 8 // self.dim if self.sequential else 1
        for rows in _chunks(n, (*users, *contexts), self.dim, tokens):
            feeds: Feeds = {"history": history[rows], "weights": weights[rows]}
            feeds.update({name: value[rows] for name, value in moments.items()})
            feeds.update(_prepared("user", users, user_columns or {}, rows, n))
            feeds.update(_prepared("context", contexts, context_columns or {}, rows, n))
            out.append(self._session.run(feeds)[0])
        found = np.concatenate(out)
        if not np.isfinite(found).all():
            raise _not_finite("a query vector")
        return found


def _row(values: Sequence[float] | None, length: int, unknown: float) -> NDArray[Any]:
    """Return what is known of each event, shape (1, L), padded to one event."""
    if values is None or not length:
        return np.full((1, max(length, 1)), unknown)
    return np.array(values, np.float64)[None]


def _moments(ages: NDArray[Any], kinds: NDArray[Any]) -> Feeds:
    """Return ages and kinds as the tower takes them.

    Ages are counted from the newest event, in float64: float32 cannot tell the seconds
    of a session apart that was years ago.
    """
    ages = np.asarray(ages, np.float64)
    newest = ages[:, :1]
    known = (ages >= 0) & (newest >= 0)
    return {
        "gaps": np.where(known, np.maximum(ages - newest, 0), -1).astype(np.float32),
        "recency": newest[:, 0].astype(np.float32),
        "kinds": np.asarray(kinds).astype(np.int64),
    }


def _prepared(
    side: Side, features: Sequence[Feature], columns: Columns, rows: slice, n: int
) -> Feeds:
    for feature in features:
        values = columns.get(feature.name)
        if values is not None and len(values) != n:
            raise ValueError(f"column {feature.name!r} has {len(values)} of {n} rows")
    part = {f.name: columns[f.name][rows] for f in features if f.name in columns}
    return prepare(side, features, part, rows.stop - rows.start)


def _chunks(
    n: int, features: Sequence[Feature], dim: int, tokens: int = 1
) -> Iterator[slice]:
    """Cut n rows so that no gathered tensor (rows, T, d) takes more than 64 MB."""
    tokens = max([tokens, 1, *map(longest, features)])
    step = max(16, min(8192, _CHUNK_VALUES // (tokens * dim)))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def _fit(array: NDArray[Any], shape: tuple[int, ...]) -> Float32Array:
    if array.shape != shape:
        raise _misfit(array.shape, shape)
    return array.astype(np.float32, copy=False)


def _misfit(actual: tuple[int, ...], expected: tuple[int, ...]) -> ArtifactError:
    return ArtifactError(
        f"the tower takes rows of shape {expected}, the table gave {actual}",
        hint="Run 'recsys doctor'; towers and tables must be of one version.",
    )


def _not_finite(what: str) -> ArtifactError:
    return ArtifactError(
        f"{what} is not finite",
        hint="Run 'recsys doctor'; the ID embeddings or the tower are damaged.",
    )
