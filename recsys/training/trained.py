"""What a training makes: everything that a version consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys._query_config import QueryConfig
from recsys.encoder.fit import FittedSide
from recsys.popularity import Counts, Trend
from recsys.types import ItemId

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """Everything a version consists of.

    Attributes:
        item_ids: Every item of the source, N ids.
        id_served: Served ID rows, 0 where not trained, shape (N, d), float32.
        id_history: History-side ID rows, likewise, shape (N, d), float32.
        bias: Popularity dimension, NaN where not trained, shape (N,), float32.
        trained: Marks the items with taste, which have an ID row, shape (N,), bool.
        weights: All other weights, by the names in ``recsys.encoder.towers``.
        items: Fitted item features; empty when none are declared.
        users: Fitted user features, likewise.
        contexts: Fitted context features, likewise.
        item_tower: ONNX.
        query_tower: ONNX.
        report: JSON-serialisable: settings, validation, curves, data, timing, parity.
        trend: Weights of the popularity dimension; None where it does not age.
        counts: What it was computed from; None where it does not age.
        query: How its queries are made.
    """

    item_ids: Sequence[ItemId]
    id_served: Float32Array
    id_history: Float32Array
    bias: Float32Array
    trained: NDArray[np.bool_]
    weights: Mapping[str, Float32Array]
    items: FittedSide
    users: FittedSide
    contexts: FittedSide
    item_tower: bytes
    query_tower: bytes
    report: dict[str, Any]
    trend: Trend | None = None
    counts: Counts | None = None
    query: QueryConfig = field(default_factory=lambda: QueryConfig(encoder="mean"))

    @property
    def dim(self) -> int:
        """Length of the unit vectors."""
        return self.id_served.shape[1]


def warm_start_artifact(model: TrainedModel) -> bytes:
    """Return the towers' weights in float32 as safetensors.

    With the rows of the embeddings artifact a next fit can start from them.
    """
    from safetensors.numpy import save

    tensors = {name: np.asarray(v, order="C") for name, v in model.weights.items()}
    return save(tensors)
