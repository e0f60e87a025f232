"""The two towers as ONNX: raw features in, vectors out.

d is the model's ``dim``, B the batch, L the history length. Weights are numpy arrays
by name, so that nothing here knows the training library:

    <side>.<feature>.table    (rows, d)  side is item, user or context; row 0 is zero
    <side>.dense.weight       (M, d)     only when the side has a dense feature
    <side>.dense.bias         (d,)
    <side>.hidden.w1, b1, w2  (d, h), (h,), (h, d)
    item.history.weight       (d, d)     only when items have features
    cold_bias                 ()
    default_query             (d,)

The keys of a side are absent when it declares no features. Content of a side:

    x = sum over features of pool(table[rows]) + dense @ weight + bias
    content = x + relu(x @ w1 + b1) @ w2

where pool is the sum over the tokens divided by the square root of their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from recsys.config import Feature
from recsys.encoder.fit import FittedSide
from recsys.encoder.graph import Graph, add_encoder
from recsys.encoder.values import Side, longest
from recsys.errors import ArtifactError

Weights: TypeAlias = Mapping[str, NDArray[np.float32]]
ItemTowerWeights: TypeAlias = Weights
QueryTowerWeights: TypeAlias = Weights


def item_tower(dim: int, items: FittedSide, weights: ItemTowerWeights) -> bytes:
    """Return the item tower.

    Args:
        dim: d.
        items: Fitted item features.
        weights: See the module; other keys are ignored.

    Returns:
        A model with inputs "item.<feature>", "id_served" (B, d), "id_history" (B, d)
        and "bias" (B,), NaN for an item without a learned row, and outputs "vector"
        (B, d + 1), the unit vector and the bias, and "history" (B, d).

    Raises:
        ArtifactError: A weight is missing, not finite or of the wrong shape.
    """
    net = _Net(Graph(), dim, weights)
    graph = net.graph
    served = graph.input("id_served", TensorProto.FLOAT, ["B", dim])
    history = graph.input("id_history", TensorProto.FLOAT, ["B", dim])
    bias = graph.input("bias", TensorProto.FLOAT, ["B"])
    content = net.content("item", items)
    if content:
        served = graph.add("Add", [served, content], "served/sum")
        project = net.weight("item.history.weight", (dim, dim))
        projected = graph.add("MatMul", [content, project], "history/content")
        graph.add("Add", [history, projected], "history")
    else:
        graph.add("Identity", [history], "history")
    unit = graph.add("LpNormalization", [served], "served/unit", axis=-1, p=2)
    cold = graph.add("IsNaN", [bias], "bias/is_cold")
    known = graph.add("Where", [cold, net.weight("cold_bias", ()), bias], "bias/known")
    column = graph.add("Unsqueeze", [known, net.axis(1)], "bias/column")
    graph.add("Concat", [unit, column], "vector", axis=1)
    return graph.model(
        "item tower",
        [
            ("vector", TensorProto.FLOAT, ["B", dim + 1]),
            ("history", TensorProto.FLOAT, ["B", dim]),
        ],
    )


def query_tower(
    dim: int, users: FittedSide, context: FittedSide, weights: QueryTowerWeights
) -> bytes:
    """Return the query tower.

    Args:
        dim: d.
        users: Fitted user features.
        context: Fitted request-time features.
        weights: See the module; other keys are ignored.

    Returns:
        A model with inputs "history" (B, L, d), "weights" (B, L), 0 for padding,
        "user.<feature>" and "context.<feature>", and output "query" (B, d + 1): the
        unit query and 1. A row whose weights sum to 0 starts from the learned default.

    Raises:
        ArtifactError: A weight is missing, not finite or of the wrong shape.
    """
    net = _Net(Graph(), dim, weights)
    graph = net.graph
    query = net.history_mean()
    sides: tuple[tuple[Side, FittedSide], ...] = (("user", users), ("context", context))
    for side, fitted in sides:
        content = net.content(side, fitted)
        if content:
            query = graph.add("Add", [query, content], f"query/with_{side}")
    unit = graph.add("LpNormalization", [query], "query/unit", axis=-1, p=2)
    one = graph.constant("/one_f", np.array(1.0, np.float32))
    after = graph.constant("/one_column", np.array([0, 0, 0, 1]))
    graph.add("Pad", [unit, after, one], "query")
    return graph.model("query tower", [("query", TensorProto.FLOAT, ["B", dim + 1])])


class _Net:
    """Appends the layers of a tower to a graph."""

    def __init__(self, graph: Graph, dim: int, weights: Weights) -> None:
        self.graph = graph
        self.dim = dim
        self.weights = weights

    def weight(self, name: str, shape: Sequence[int | None]) -> str:
        """Store a weight under its own name; None in the shape fits any size."""
        if name not in self.weights:
            raise ArtifactError(f"weight {name!r} is missing")
        value = np.asarray(self.weights[name], dtype=np.float32)
        fits = len(value.shape) == len(shape) and all(
            wanted in (None, actual)
            for wanted, actual in zip(shape, value.shape, strict=True)
        )
        if not fits:
            raise ArtifactError(
                f"weight {name!r} has shape {value.shape}, expected {tuple(shape)}"
            )
        if not np.isfinite(value).all():
            raise ArtifactError(
                f"weight {name!r} is not finite", hint="Train with a lower train.lr."
            )
        return self.graph.constant(name, value)

    def axis(self, number: int) -> str:
        return self.graph.constant(f"/axis_{number}", np.array([number]))

    def history_mean(self) -> str:
        """Weighted mean of the history rows, or the default query."""
        graph = self.graph
        rows = graph.input("history", TensorProto.FLOAT, ["B", "L", self.dim])
        weights = graph.input("weights", TensorProto.FLOAT, ["B", "L"])
        total = graph.add(
            "ReduceSum", [weights, self.axis(1)], "history/total", keepdims=1
        )  # (B, 1)
        row = graph.add("Unsqueeze", [weights, self.axis(1)], "history/row")
        product = graph.add("MatMul", [row, rows], "history/product")  # (B, 1, d)
        flat = graph.add("Squeeze", [product, self.axis(1)], "history/sum")
        mean = graph.add("Div", [flat, total], "history/mean")
        # Equal, not Greater: a NaN weight must spoil the query, not hide in a default.
        zero = graph.constant("/zero_f", np.array(0.0, np.float32))
        empty = graph.add("Equal", [total, zero], "history/is_empty")
        default = self.weight("default_query", (self.dim,))
        return graph.add("Where", [empty, default, mean], "history/query")

    def content(self, side: Side, fitted: FittedSide) -> str | None:
        """Append the encoder and the content block of a side, if it has features."""
        if not fitted.features:
            return None
        graph, dim = self.graph, self.dim
        encoded = add_encoder(graph, side, fitted)
        parts = [
            self._pooled(
                side,
                f,
                fitted.table_sizes[f.name],
                encoded.rows[f.name],
                encoded.counts.get(f.name),
            )
            for f in fitted.declared
            if f.name in encoded.rows
        ]
        bias = self.weight(f"{side}.dense.bias", (dim,))
        if encoded.dense:
            weight = self.weight(f"{side}.dense.weight", (fitted.dense_width, dim))
            parts.append(
                graph.add("Gemm", [encoded.dense, weight, bias], f"{side}/projected")
            )
        else:
            parts.append(bias)
        total = parts[0]
        if len(parts) > 1:
            total = graph.add("Sum", parts, f"{side}/sum")
        return self._residual(side, total)

    def _pooled(
        self, side: Side, feature: Feature, size: int, rows: str, count: str | None
    ) -> str:
        """Table rows, (B,) or (B, T), to (B, d)."""
        graph, at = self.graph, f"{side}/{feature.name}"
        key = f"{side}.{feature.name}.table"
        table = self.weight(key, (size, self.dim))
        if np.any(self.weights[key][0]):
            raise ArtifactError(f"row 0 of {key!r} stands for missing and must be zero")
        found = graph.add("Gather", [table, rows], f"{at}/found")
        if count is None:
            return found
        total = graph.add("ReduceSum", [found, self.axis(1)], f"{at}/total", keepdims=0)
        # One look-up instead of Cast, Max, Sqrt, Unsqueeze: nodes are what costs time.
        counts = np.maximum(np.arange(longest(feature) + 1, dtype=np.float32), 1)
        scales = graph.constant(f"{at}/scales", 1 / np.sqrt(counts)[:, None])
        scale = graph.add("Gather", [scales, count], f"{at}/scale")  # (B, 1)
        return graph.add("Mul", [total, scale], f"{at}/pooled")

    def _residual(self, side: Side, value: str) -> str:
        """Append x + relu(x @ w1 + b1) @ w2."""
        graph, dim = self.graph, self.dim
        w1 = self.weight(f"{side}.hidden.w1", (dim, None))
        width = self.weights[f"{side}.hidden.w1"].shape[1]
        b1 = self.weight(f"{side}.hidden.b1", (width,))
        w2 = self.weight(f"{side}.hidden.w2", (width, dim))
        hidden = graph.add("Gemm", [value, w1, b1], f"{side}/hidden")
        active = graph.add("Relu", [hidden], f"{side}/active")
        # One Gemm: the residual is its third operand.
        return graph.add("Gemm", [active, w2, value], f"{side}/content")
