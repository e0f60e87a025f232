"""The two towers as ONNX: raw features in, vectors out.

d is the model's ``dim``, B the batch, L the history length. Weights are numpy arrays
by name, so that nothing here knows the training library:

    <side>.<feature>.table    (rows, d)  side is item, user or context; row 0 is zero
    <side>.dense.weight       (M, d)     only when the side has a dense feature
    <side>.dense.bias         (d,)
    <side>.hidden.w1, b1, w2  (d, h), (h,), (h, d)
    <side>.cross.*            see ``content``; only with cross layers
    item.history.weight       (d, d)     only when items have features
    cold_bias                 ()
    default_query             (d,)

The keys of a side are absent when it declares no features. The content of a
side is defined in ``content``.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from onnx import TensorProto

from recsys.encoder.content import content_of
from recsys.encoder.fit import FittedSide
from recsys.encoder.graph import Graph
from recsys.encoder.net import Net, Weights
from recsys.encoder.values import Side

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
    content = content_of(net, "item", items)
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
        content = content_of(net, side, fitted)
        if content:
            query = graph.add("Add", [query, content], f"query/with_{side}")
    unit = graph.add("LpNormalization", [query], "query/unit", axis=-1, p=2)
    one = graph.constant("/one_f", np.array(1.0, np.float32))
    after = graph.constant("/one_column", np.array([0, 0, 0, 1]))
    graph.add("Pad", [unit, after, one], "query")
    return graph.model("query tower", [("query", TensorProto.FLOAT, ["B", dim + 1])])


class _Net(Net):
    """Appends the layers of a tower to a graph."""

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
