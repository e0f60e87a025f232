"""Learn vocabularies and scales from streamed columns."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.config import Feature
from recsys.encoder.values import SEPARATOR, Columns, prepare_column
from recsys.errors import ConfigError

logger = logging.getLogger(__name__)

DAY_S = 86_400.0
# Distinct values that are counted exactly, whatever max_size is.
_LEAST_COUNTED = 1_000_000
# Rows 0 and 1 of every embedding table: missing (always zero) and unknown.
FIRST_ROW = 2


@dataclass(frozen=True, slots=True)
class FittedFeature:
    """One feature and what was learned about it.

    Attributes:
        feature: The declaration.
        vocabulary: ``category``/``categories``: known values, most frequent first;
            value i has table row i + 2.
        mean: ``number`` (after its scale) and ``time`` (log1p of the age in days).
        std: Standard deviation of the same; 1 when there is no spread.
    """

    feature: Feature
    vocabulary: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def table_rows(self) -> int:
        """Rows of the embedding table, with rows 0 and 1; 0 for a dense feature."""
        if self.feature.is_vector:
            return 0
        if self.feature.type == "text":
            return self.feature.buckets + FIRST_ROW
        if self.feature.type in ("category", "categories"):
            return len(self.vocabulary) + FIRST_ROW
        return 0

    @property
    def dense_width(self) -> int:
        """Columns of the dense tensor that this feature fills."""
        if self.feature.is_vector:
            return self.feature.dim
        match self.feature.type:
            case "number":
                return 2
            case "time":
                cyclic = sum(part != "age" for part in self.feature.parts)
                return 2 * cyclic + ("age" in self.feature.parts) + 1
            case _:
                return 0


@dataclass(frozen=True, slots=True)
class FittedSide:
    """The fitted features of one side: item, user or context.

    Attributes:
        features: In declared order.
        reference: Epoch seconds from which ages are counted: the end of the training
            data.
    """

    features: tuple[FittedFeature, ...] = ()
    reference: float = 0.0

    @property
    def declared(self) -> tuple[Feature, ...]:
        """The declarations, in order."""
        return tuple(fitted.feature for fitted in self.features)

    @property
    def table_sizes(self) -> dict[str, int]:
        """Rows of each embedding table by feature name."""
        return {f.feature.name: f.table_rows for f in self.features if f.table_rows}

    @property
    def dense_width(self) -> int:
        """Columns M of the dense tensor; 0 when no feature is dense."""
        return sum(f.dense_width for f in self.features)

    @property
    def vector_columns(self) -> dict[str, slice]:
        """Columns of the dense tensor that each vector fills, by feature name."""
        vectors = [f.feature for f in self.features if f.feature.is_vector]
        first = self.dense_width - sum(feature.dim for feature in vectors)
        columns: dict[str, slice] = {}
        for feature in vectors:
            columns[feature.name] = slice(first, first + feature.dim)
            first += feature.dim
        return columns

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable copy; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FittedSide:
        """Rebuild what ``to_dict`` wrote, also after JSON."""
        return cls(
            features=tuple(_feature_from_dict(f) for f in data["features"]),
            reference=float(data["reference"]),
        )


def _feature_from_dict(data: Mapping[str, Any]) -> FittedFeature:
    declared: dict[str, Any] = dict(data["feature"])
    declared["parts"] = tuple(declared["parts"])
    return FittedFeature(
        feature=Feature(**declared),
        vocabulary=tuple(data["vocabulary"]),
        mean=float(data["mean"]),
        std=float(data["std"]),
    )


def fit(
    features: Sequence[Feature],
    batches: Iterable[Columns],
    *,
    reference: float = 0.0,
) -> FittedSide:
    """Learn vocabularies and scales in one pass.

    Args:
        features: Declared features of one side.
        batches: Raw columns in any number of batches; see ``values``.
        reference: Epoch seconds from which ages are counted.

    Returns:
        The fitted side. Without any row every value is unknown and scales are 1.

    Raises:
        ConfigError: A feature has a name that the encoder needs itself.
        SourceError: A value has the wrong type.
    """
    learners = [_Learner(feature, reference) for feature in features]
    for learner in learners:
        if learner.feature.name == "dense" and learner.counts is not None:
            raise ConfigError(
                "feature name 'dense' is taken by the encoder",
                hint="Rename the column in the source SQL.",
            )
    if learners:
        for columns in batches:
            for learner in learners:
                learner.see(columns)
    return FittedSide(tuple(learner.fitted() for learner in learners), reference)


class _Learner:
    """Counts, or running mean and spread, of one feature."""

    def __init__(self, feature: Feature, reference: float) -> None:
        self.feature = feature
        self.reference = reference
        listed = feature.type in ("category", "categories", "text")
        listed = listed and not feature.is_vector
        self.counts: Counter[str] | None = Counter() if listed else None
        self.n = 0
        self.mean = 0.0
        self.floor = 0  # how much too low a count may be
        self.squares = 0.0  # sum of squared distances from the mean

    def see(self, columns: Columns) -> None:
        values = columns.get(self.feature.name)
        if values is None or self.feature.type in ("text", "vector"):
            return
        cells = prepare_column(self.feature, values, len(values))
        if self.feature.type == "category":
            self._count(cells.tolist())
        elif self.feature.type == "categories":
            self._count(key for cell in cells for key in cell.split(SEPARATOR))
        else:
            self._spread(scaled(self.feature, cells[:, 0], self.reference))

    def _count(self, keys: Iterable[str]) -> None:
        if self.counts is None:
            return
        self.counts.update(keys)
        most = max(_LEAST_COUNTED, 4 * self.feature.max_size)
        if len(self.counts) > most:
            self._forget_rare(most // 2)

    def _forget_rare(self, keep: int) -> None:
        """Bound the memory: drop the rarest values so far (lossy counting).

        A value's count may then be too low, by at most ``self.floor``: it is one that
        came late and seldom. What is dropped is what would share the unknown row.
        """
        counts = self.counts or Counter[str]()
        ordered = np.fromiter(counts.values(), np.int64)
        floor = int(np.partition(ordered, len(ordered) - keep)[len(ordered) - keep])
        if not self.floor:
            logger.warning(
                "feature %r has more than %d distinct values: rare ones are no longer"
                " counted",
                self.feature.name, len(ordered),
            )  # fmt: skip
        # All of the least count go where they tie: they are as rare as each other.
        self.floor += floor
        self.counts = Counter({k: n for k, n in counts.items() if n > floor})

    def _spread(self, values: NDArray[np.float64]) -> None:
        """Merge a batch into the running moments (Chan's update)."""
        values = values[~np.isnan(values)]
        if not len(values):
            return
        mean, total = float(values.mean()), self.n + len(values)
        shift = mean - self.mean
        self.squares += float(((values - mean) ** 2).sum())
        self.squares += shift * shift * self.n * len(values) / total
        self.mean += shift * len(values) / total
        self.n = total

    def fitted(self) -> FittedFeature:
        if self.counts is not None:
            return FittedFeature(self.feature, vocabulary=self._vocabulary())
        std = math.sqrt(self.squares / self.n) if self.n else 0.0
        # Rounding alone leaves a tiny spread in a constant column.
        constant = std <= 1e-14 * abs(self.mean) or std < 1e-30
        return FittedFeature(self.feature, mean=self.mean, std=1.0 if constant else std)

    def _vocabulary(self) -> tuple[str, ...]:
        counts = self.counts or {}
        known = [
            (key, count)
            for key, count in counts.items()
            if key and count >= self.feature.min_count
        ]
        known.sort(key=lambda pair: (-pair[1], pair[0]))
        return tuple(key for key, _ in known[: self.feature.max_size])


def scaled(
    feature: Feature, values: NDArray[np.float64], reference: float
) -> NDArray[np.float64]:
    """Return what the graph standardises: log1p numbers, log1p ages in days."""
    if feature.type == "time":
        return np.log1p(np.maximum(0.0, (reference - values) / DAY_S))
    if feature.scale == "log":
        return np.sign(values) * np.log1p(np.abs(values))
    return values
