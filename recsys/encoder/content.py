"""The content of a side as ONNX: raw features to one vector per row.

A field is what one feature with a table, or all dense features together, say as a
vector of length d; F is their number, n = F d.

    field_f = pool(table_f[rows]),  pool: sum over the tokens / root of their number
    field_dense = dense @ weight + bias (+ relu(v @ w1 + b1) @ w2 of each vector v that
        has an adapter)
    x = sum of the fields (+ bias, without a dense feature)
    content = x + relu(x @ w1 + b1) @ w2 + y_L @ out
    y_0 = the fields side by side, y_{l+1} = y_0 * (y_l @ W_l + b_l) + y_l

Weights beside those named in ``towers``, for each vector with ``fine_tune`` and each
cross layer l from 0:

    <side>.<feature>.adapter.w1, b1, w2    (feature's dim, h), (h,), (h, d)

    <side>.cross.<l>.weight     (n, n)           or, of low rank r,
    <side>.cross.<l>.down, up   (n, r), (r, n)
    <side>.cross.<l>.bias       (n,)
    <side>.cross.out            (n, d)           absent without cross layers
"""

from __future__ import annotations

from itertools import count

import numpy as np

from recsys.config import Feature
from recsys.encoder.fit import FittedSide
from recsys.encoder.graph import add_encoder
from recsys.encoder.net import Net
from recsys.encoder.values import Side, longest
from recsys.errors import ArtifactError


def content_of(net: Net, side: Side, fitted: FittedSide) -> str | None:
    """Append the encoder and the content layers of a side, if it has features.

    Args:
        net: The tower so far.
        side: Prefix of the inputs and of the weights.
        fitted: Its features.

    Returns:
        Name of the content, (B, d), or None.

    Raises:
        ArtifactError: A weight is missing, not finite or of the wrong shape.
    """
    if not fitted.features:
        return None
    graph, dim = net.graph, net.dim
    encoded = add_encoder(graph, side, fitted)
    fields = [
        _pooled(
            net,
            side,
            f,
            fitted.table_sizes[f.name],
            encoded.rows[f.name],
            encoded.counts.get(f.name),
        )
        for f in fitted.declared
        if f.name in encoded.rows
    ]
    bias = net.weight(f"{side}.dense.bias", (dim,))
    if encoded.dense:
        weight = net.weight(f"{side}.dense.weight", (fitted.dense_width, dim))
        dense = graph.add("Gemm", [encoded.dense, weight, bias], f"{side}/projected")
        for feature in (f for f in fitted.declared if f.fine_tune):
            part = fitted.vector_columns[feature.name]
            dense = _adapted(net, side, feature, encoded.dense, part, dense)
        fields.append(dense)
    parts = fields if encoded.dense else [*fields, bias]
    total = parts[0]
    if len(parts) > 1:
        total = graph.add("Sum", parts, f"{side}/sum")
    return _crossed(net, side, fields, _residual(net, side, total))


def _adapted(
    net: Net, side: Side, feature: Feature, dense: str, part: slice, field: str
) -> str:
    """Append field + relu(v @ w1 + b1) @ w2 of one vector, a part of dense."""
    graph, at = net.graph, f"{side}/{feature.name}"
    key = f"{side}.{feature.name}.adapter"
    first, last = (
        graph.constant(f"{at}/{name}", np.array([place]))
        for name, place in (("first", part.start), ("last", part.stop))
    )
    vector = graph.add("Slice", [dense, first, last, net.axis(1)], f"{at}/vector")
    w1 = net.weight(f"{key}.w1", (feature.dim, None))
    hidden = net.weights[f"{key}.w1"].shape[1]
    b1 = net.weight(f"{key}.b1", (hidden,))
    w2 = net.weight(f"{key}.w2", (hidden, net.dim))
    raw = graph.add("Gemm", [vector, w1, b1], f"{at}/adapter")
    active = graph.add("Relu", [raw], f"{at}/active")
    return graph.add("Gemm", [active, w2, field], f"{at}/adapted")


def _pooled(
    net: Net, side: Side, feature: Feature, size: int, rows: str, count: str | None
) -> str:
    """Table rows, (B,) or (B, T), to (B, d)."""
    graph, at = net.graph, f"{side}/{feature.name}"
    key = f"{side}.{feature.name}.table"
    table = net.weight(key, (size, net.dim))
    if np.any(net.weights[key][0]):
        raise ArtifactError(f"row 0 of {key!r} stands for missing and must be zero")
    found = graph.add("Gather", [table, rows], f"{at}/found")
    if count is None:
        return found
    total = graph.add("ReduceSum", [found, net.axis(1)], f"{at}/total", keepdims=0)
    # One look-up instead of Cast, Max, Sqrt, Unsqueeze: nodes are what costs time.
    counts = np.maximum(np.arange(longest(feature) + 1, dtype=np.float32), 1)
    scales = graph.constant(f"{at}/scales", 1 / np.sqrt(counts)[:, None])
    scale = graph.add("Gather", [scales, count], f"{at}/scale")  # (B, 1)
    return graph.add("Mul", [total, scale], f"{at}/pooled")


def _residual(net: Net, side: Side, value: str) -> str:
    """Append x + relu(x @ w1 + b1) @ w2."""
    graph, dim = net.graph, net.dim
    w1 = net.weight(f"{side}.hidden.w1", (dim, None))
    width = net.weights[f"{side}.hidden.w1"].shape[1]
    b1 = net.weight(f"{side}.hidden.b1", (width,))
    w2 = net.weight(f"{side}.hidden.w2", (width, dim))
    hidden = graph.add("Gemm", [value, w1, b1], f"{side}/hidden")
    active = graph.add("Relu", [hidden], f"{side}/active")
    # One Gemm: the residual is its third operand.
    return graph.add("Gemm", [active, w2, value], f"{side}/deep")


def _crossed(net: Net, side: Side, fields: list[str], deep: str) -> str:
    """Append the cross layers, as many as there are weights of, and add to deep."""
    graph, out = net.graph, f"{side}.cross.out"
    if out not in net.weights:
        return deep
    width = len(fields) * net.dim
    first = fields[0]
    if len(fields) > 1:
        first = graph.add("Concat", fields, f"{side}/fields", axis=1)
    value = first
    for layer in count():
        if f"{side}.cross.{layer}.bias" not in net.weights:
            break
        at = f"{side}/cross/{layer}"
        mixed = _mixed(net, f"{side}.cross.{layer}", width, value, at)
        crossed = graph.add("Mul", [first, mixed], f"{at}/crossed")
        value = graph.add("Add", [crossed, value], f"{at}/value")
    weight = net.weight(out, (width, net.dim))
    return graph.add("Gemm", [value, weight, deep], f"{side}/content")


def _mixed(net: Net, name: str, width: int, value: str, at: str) -> str:
    """Append value @ W + b of one cross layer, full or of low rank."""
    graph = net.graph
    bias = net.weight(f"{name}.bias", (width,))
    if f"{name}.weight" in net.weights:
        weight = net.weight(f"{name}.weight", (width, width))
        return graph.add("Gemm", [value, weight, bias], f"{at}/mixed")
    rank = np.shape(net.weights.get(f"{name}.down", np.empty((0, 0))))[-1]
    down = net.weight(f"{name}.down", (width, rank))
    up = net.weight(f"{name}.up", (rank, width))
    thin = graph.add("MatMul", [value, down], f"{at}/thin")
    return graph.add("Gemm", [thin, up, bias], f"{at}/mixed")
