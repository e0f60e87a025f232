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
    query.*                   of encoders other than the mean: see ``sequence``
    query.interests           (d, K)   only of towers that give K queries
    lean.weight, constant     (d,), ()   absent: the last coordinate of a query is 1

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
from recsys.encoder.sequence import Sequence
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
        unit query and what popularity counts for it, 1 or 1 + query . lean.weight +
        lean.constant; (B, K, d + 1) of K interests. A row whose weights sum to 0
        starts from the learned default. Encoders of sequences take "gaps" (B, L),
        seconds from each event to the newest, "recency" (B,), seconds since that, both
        -1 where unknown, and "kinds" (B, L), too.

    Raises:
        ArtifactError: A weight is missing, not finite or of the wrong shape.
    """
    net = _Net(Graph(), dim, weights)
    graph = net.graph
    query = net.history()
    several = "query.interests" in weights
    sides: tuple[tuple[Side, FittedSide], ...] = (("user", users), ("context", context))
    for side, fitted in sides:
        content = content_of(net, side, fitted)
        if content:
            if several:
                content = graph.add("Unsqueeze", [content, net.axis(1)], f"{side}/each")
            query = graph.add("Add", [query, content], f"query/with_{side}")
    unit = graph.add("LpNormalization", [query], "query/unit", axis=-1, p=2)
    shape = ["B", "K", dim + 1] if several else ["B", dim + 1]
    net.with_popularity(unit, len(shape))
    return graph.model("query tower", [("query", TensorProto.FLOAT, shape)])


class _Net(Net):
    """Appends the layers of a tower to a graph."""

    def with_popularity(self, unit: str, rank: int) -> None:
        """Append what popularity counts for unit queries, a tensor of some rank."""
        graph = self.graph
        one = graph.constant("/one_f", np.array(1.0, np.float32))
        if "lean.weight" not in self.weights:
            widths = [0] * (2 * rank - 1) + [1]
            after = graph.constant("/one_column", np.array(widths))
            graph.add("Pad", [unit, after, one], "query")
            return
        weight = self.weight("lean.weight", (self.dim,))
        column = graph.add("Unsqueeze", [weight, self.axis(1)], "lean/column")
        along = graph.add("MatMul", [unit, column], "lean/along")  # (..., 1)
        constant = self.weight("lean.constant", ())
        average = graph.add("Add", [one, constant], "lean/average")
        counts = graph.add("Add", [along, average], "lean/counts")
        graph.add("Concat", [unit, counts], "query", axis=-1)

    def history(self) -> str:
        """What the history makes of itself, or the default query."""
        graph = self.graph
        rows = graph.input("history", TensorProto.FLOAT, ["B", "L", self.dim])
        weights = graph.input("weights", TensorProto.FLOAT, ["B", "L"])
        total = graph.add(
            "ReduceSum", [weights, self.axis(1)], "history/total", keepdims=1
        )  # (B, 1)
        if "query.interests" in self.weights:
            found = self._interests(rows, weights)
            total = graph.add("Unsqueeze", [total, self.axis(1)], "history/every")
        elif "query.pool.position" in self.weights:
            found = Sequence(self, rows, weights).query()
        else:
            found = self._mean(rows, weights, total)
        # Equal, not Greater: a NaN weight must spoil the query, not hide in a default.
        zero = graph.constant("/zero_f", np.array(0.0, np.float32))
        empty = graph.add("Equal", [total, zero], "history/is_empty")
        default = self.weight("default_query", (self.dim,))
        return graph.add("Where", [empty, default, found], "history/query")

    def _interests(self, rows: str, weights: str) -> str:
        """K weighted means, each with attention of its own, (B, K, d)."""
        graph = self.graph
        attention = self.weight("query.interests", (self.dim, None))
        logits = graph.add("MatMul", [rows, attention], "interests/rows")  # (B, L, K)
        # Padding has weight 0, and log of this is as good as none.
        tiny = graph.constant("/tiny_f", np.array(1e-30, np.float32))
        some = graph.add("Add", [weights, tiny], "interests/weight")
        logs = graph.add("Log", [some], "interests/log")
        column = graph.add("Unsqueeze", [logs, self.axis(2)], "interests/column")
        logits = graph.add("Add", [logits, column], "interests/logits")
        share = graph.add("Softmax", [logits], "interests/share", axis=1)
        turned = graph.add("Transpose", [share], "interests/turned", perm=[0, 2, 1])
        return graph.add("MatMul", [turned, rows], "interests/means")

    def _mean(self, rows: str, weights: str, total: str) -> str:
        """Weighted mean of the history rows."""
        graph = self.graph
        row = graph.add("Unsqueeze", [weights, self.axis(1)], "history/row")
        product = graph.add("MatMul", [row, rows], "history/product")  # (B, 1, d)
        flat = graph.add("Squeeze", [product, self.axis(1)], "history/sum")
        return graph.add("Div", [flat, total], "history/mean")
