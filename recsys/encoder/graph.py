"""The encoder as ONNX nodes: raw inputs to table rows and one dense tensor.

``add_encoder`` is the only place that defines an encoding. ``encoder_model`` wraps it
into a model of its own, which training runs over all rows; ``towers`` embeds the very
same nodes in front of the network. What is trained on is therefore what is served.

The dense tensor (B, M) has, in this order: the standardised numbers, their missing
indicators, then for every time its age, sines, cosines and missing indicator, then the
vectors; within each group in declared order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from recsys.config import Feature
from recsys.encoder.fit import DAY_S, FIRST_ROW, FittedFeature, FittedSide
from recsys.encoder.values import SEPARATOR, Side, input_name
from recsys.errors import ArtifactError

_YEAR_DAYS = 365.2425
_CLIP = 8.0
LARGEST_MODEL = 1_000_000_000  # bytea ends at 1 GB, protobuf at 2 GB
_OPSETS = {"": 20, "ai.onnx.ml": 3, "com.microsoft": 1}
_IR_VERSION = 10
_BOUNDS = {"/clip_low": -_CLIP, "/clip_high": _CLIP}
_INT32 = partial(np.array, dtype=np.int32)


@dataclass(slots=True)
class Graph:
    """An ONNX graph under construction.

    Inputs of features are called "<side>.<feature>", weights have a "." as well, shared
    constants start with "/", and everything else contains one: no column name can
    clash with them.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list[onnx.ValueInfoProto])
    constants: dict[str, onnx.TensorProto] = field(
        default_factory=dict[str, onnx.TensorProto]
    )

    def input(self, name: str, kind: int, shape: Sequence[str | int]) -> str:
        """Declare an input and return its name."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store a constant once and return its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        """Append a node with one output and return the output's name."""
        domain = attrs.pop("domain", "")
        self.nodes.append(
            helper.make_node(op, inputs, [output], output, domain=domain, **attrs)
        )
        return output

    def model(self, name: str, outputs: Sequence[tuple[str, int, list[Any]]]) -> bytes:
        """Serialise the graph with these outputs (name, element type, shape)."""
        graph = helper.make_graph(
            self.nodes,
            name,
            self.inputs,
            [helper.make_tensor_value_info(*output) for output in outputs],
            list(self.constants.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(*item) for item in _OPSETS.items()],
            ir_version=_IR_VERSION,
            producer_name="recsys",
        )
        if model.ByteSize() > LARGEST_MODEL:
            raise ArtifactError(
                f"the {name} takes {model.ByteSize() / 1e9:.1f} GB",
                hint="Lower max_size or buckets of the features, or train.dim.",
            )
        return model.SerializeToString()


@dataclass(frozen=True, slots=True)
class Encoded:
    """Names of the encoder's results inside a graph.

    Attributes:
        rows: Table rows by feature name, integers; (B,) for a category, else (B, T).
        counts: Number of tokens by feature name, int64 (B,); no category has one.
        dense: The dense tensor, float32 (B, M), or None when M is 0.
    """

    rows: dict[str, str]
    counts: dict[str, str]
    dense: str | None


def encoder_model(side: Side, fitted: FittedSide) -> bytes:
    """Return the encoder of one side as an ONNX model.

    Args:
        side: Prefix of the inputs, "<side>.<feature>".
        fitted: The fitted features, at least one.

    Returns:
        A model with one output "<feature>" per embedded feature, int64 (B, T), where T
        is the longest row of the batch (0 when every text is empty), and "dense",
        float32 (B, M), when a feature is dense.
    """
    if not fitted.features:
        raise ValueError(f"the {side} side declares no features")
    graph = Graph()
    encoded = add_encoder(graph, side, fitted)
    outputs: list[tuple[str, int, list[Any]]] = []
    for name, rows in encoded.rows.items():
        if name not in encoded.counts:
            last = graph.constant("/last_axis", np.array([-1]))
            rows = graph.add("Unsqueeze", [rows, last], f"{name}/column")
        graph.add("Cast", [rows], name, to=TensorProto.INT64)
        outputs.append((name, TensorProto.INT64, ["B", f"{name}/T"]))
    if encoded.dense:
        graph.add("Identity", [encoded.dense], "dense")
        outputs.append(("dense", TensorProto.FLOAT, ["B", fitted.dense_width]))
    return graph.model(f"{side} encoder", outputs)


def add_encoder(graph: Graph, side: Side, fitted: FittedSide) -> Encoded:
    """Append the encoder of one side to a graph."""
    rows: dict[str, str] = {}
    dense: list[str] = []
    numbers = [f for f in fitted.features if f.feature.type == "number"]
    if numbers:
        dense += _numbers(graph, side, numbers)
    for kind in ("time", "vector"):
        for item in fitted.features:
            if kind == item.feature.type == "time":
                dense.append(_time(graph, side, item, fitted.reference))
            elif kind == "vector" and item.feature.is_vector:
                dense.append(_vector(graph, side, item.feature))
    counts: dict[str, str] = {}
    for item in (f for f in fitted.features if f.table_rows):
        feature = item.feature
        keys = input_name(side, feature)
        graph.input(keys, TensorProto.STRING, ["B"])
        if feature.type != "category":
            delimiter = " " if feature.type == "text" else SEPARATOR
            keys, counts[feature.name] = _split(graph, keys, delimiter)
        look_up = _hashed if feature.type == "text" else _known
        rows[feature.name] = look_up(graph, input_name(side, feature), keys, item)
    joined = _join(graph, dense, f"{side}/dense") if dense else None
    return Encoded(rows, counts, joined)


def _split(graph: Graph, whole: str, delimiter: str) -> tuple[str, str]:
    """Append a StringSplit: tokens (B, T), padded with "", and their number (B,)."""
    tokens, count = f"{whole}/tokens", f"{whole}/count"
    graph.nodes.append(
        helper.make_node(
            "StringSplit", [whole], [tokens, count], tokens, delimiter=delimiter
        )
    )
    return tokens, count


def _known(graph: Graph, at: str, keys: str, item: FittedFeature) -> str:
    """Look keys up in the vocabulary."""
    return graph.add(
        "LabelEncoder",
        [keys],
        f"{at}/rows",
        domain="ai.onnx.ml",
        # "" is a missing value, and what StringSplit pads short lists with.
        keys_strings=["", *item.vocabulary],
        values_int64s=[0, *range(FIRST_ROW, FIRST_ROW + len(item.vocabulary))],
        default_int64=1,
    )


def _hashed(graph: Graph, at: str, tokens: str, item: FittedFeature) -> str:
    """Hash tokens into the buckets of a text feature."""
    hashed = graph.add(
        "MurmurHash3",
        [tokens],
        f"{at}/hash",
        domain="com.microsoft",
        positive=0,
        seed=0,
    )
    # Signed 32-bit numbers all the way: Mod takes the sign of the divisor, and Gather
    # needs no Cast.
    buckets = graph.constant(f"{at}/buckets", _INT32([item.feature.buckets]))
    bucket = graph.add("Mod", [hashed, buckets], f"{at}/bucket")
    first = graph.constant("/first_row", _INT32([FIRST_ROW]))
    row = graph.add("Add", [bucket, first], f"{at}/bucket_row")
    empty = graph.constant("/empty", np.array([""], dtype=object))
    padding = graph.add("Equal", [tokens, empty], f"{at}/padding")
    missing = graph.constant("/missing_row", _INT32([0]))
    return graph.add("Where", [padding, missing, row], f"{at}/rows")


def _numbers(graph: Graph, side: Side, items: list[FittedFeature]) -> list[str]:
    """All numbers of a side as one chain: [standardised (B, K), missing (B, K)]."""
    at = f"{side}/numbers"
    raw = _join(
        graph,
        [
            graph.input(input_name(side, f.feature), TensorProto.DOUBLE, ["B", 1])
            for f in items
        ],
        f"{at}/raw",
    )
    value = _log_scaled(graph, at, raw, [f.feature.scale == "log" for f in items])
    means = np.array([[f.mean for f in items]])
    stds = np.array([[f.std for f in items]])
    value = _standardised(graph, at, value, means, stds)
    missing = graph.add("IsNaN", [raw], f"{at}/is_missing")
    zero = graph.constant("/zero", np.array(0.0))
    value = graph.add("Where", [missing, zero, value], f"{at}/filled")
    return [_float(graph, value), _float(graph, missing)]


def _log_scaled(graph: Graph, at: str, raw: str, logs: list[bool]) -> str:
    """sign(x) * log1p(|x|) in the columns that ask for it."""
    if not any(logs):
        return raw
    size = graph.add("Abs", [raw], f"{at}/abs")
    log = _log1p(graph, at, size)
    sign = graph.add("Sign", [raw], f"{at}/sign")
    signed = graph.add("Mul", [sign, log], f"{at}/signed_log")
    if all(logs):
        return signed
    mask = graph.constant(f"{at}/is_log", np.array([logs]))
    return graph.add("Where", [mask, signed, raw], f"{at}/scaled")


def _log1p(graph: Graph, at: str, value: str) -> str:
    one = graph.constant("/one", np.array(1.0))
    more = graph.add("Add", [value, one], f"{at}/plus_one")
    return graph.add("Log", [more], f"{at}/log1p")


def _standardised(
    graph: Graph,
    at: str,
    value: str,
    means: NDArray[np.float64],
    stds: NDArray[np.float64],
) -> str:
    mean = graph.constant(f"{at}/mean", means)
    std = graph.constant(f"{at}/std", stds)
    low, high = (graph.constant(n, np.array(v)) for n, v in _BOUNDS.items())
    centred = graph.add("Sub", [value, mean], f"{at}/centred")
    unit = graph.add("Div", [centred, std], f"{at}/standardised")
    return graph.add("Clip", [unit, low, high], f"{at}/clipped")


def _time(graph: Graph, side: Side, item: FittedFeature, reference: float) -> str:
    """[age, sin..., cos..., missing] of one time, float32; all parts 0 if missing."""
    at = input_name(side, item.feature)
    seconds = graph.input(at, TensorProto.DOUBLE, ["B", 1])
    day = graph.constant("/day_s", np.array(DAY_S))
    parts: list[str] = []
    if "age" in item.feature.parts:
        end = graph.constant(f"{side}/reference", np.array(reference))
        zero = graph.constant("/zero", np.array(0.0))
        past = graph.add("Sub", [end, seconds], f"{at}/past")
        days = graph.add("Div", [past, day], f"{at}/age_days")
        since = graph.add("Max", [days, zero], f"{at}/age")
        age = _log1p(graph, at, since)
        means, stds = np.array([[item.mean]]), np.array([[item.std]])
        parts.append(_standardised(graph, at, age, means, stds))
    cycles = [part for part in item.feature.parts if part != "age"]
    if cycles:
        parts += _cycles(graph, at, seconds, cycles)
    missing = graph.add("IsNaN", [seconds], f"{at}/is_missing")
    flag = _float(graph, missing)
    if not parts:
        return flag
    joined = _join(graph, parts, f"{at}/parts")
    zero = graph.constant("/zero", np.array(0.0))
    filled = graph.add("Where", [missing, zero, joined], f"{at}/filled")
    return _join(graph, [_float(graph, filled), flag], f"{at}/dense")


def _cycles(graph: Graph, at: str, seconds: str, parts: Sequence[str]) -> list[str]:
    """Sines and cosines of the phases in the year, the week and the day (UTC).

    The year is the mean Gregorian one, so its phase may be a day off; the weekday is
    a whole number; the hour is continuous.
    """
    day = graph.constant("/day_s", np.array(DAY_S))
    days = graph.add("Div", [seconds, day], f"{at}/days")
    turns: list[str] = []
    for part in parts:
        if part == "week":
            whole = graph.add("Floor", [days], f"{at}/whole_days")
            length = graph.constant("/week_days", np.array(7.0))
            turns.append(graph.add("Div", [whole, length], f"{at}/week"))
        elif part == "year":
            length = graph.constant("/year_days", np.array(_YEAR_DAYS))
            turns.append(graph.add("Div", [days, length], f"{at}/year"))
        else:
            turns.append(days)
    turn = _join(graph, turns, f"{at}/turns")
    whole = graph.add("Floor", [turn], f"{at}/whole_turns")
    phase = graph.add("Sub", [turn, whole], f"{at}/phase")
    circle = graph.constant("/circle", np.array(2 * math.pi))
    angle = graph.add("Mul", [phase, circle], f"{at}/angle")
    return [
        graph.add("Sin", [angle], f"{at}/sin"),
        graph.add("Cos", [angle], f"{at}/cos"),
    ]


def _vector(graph: Graph, side: Side, feature: Feature) -> str:
    """L2-normalise a vector; zero stays zero, and no length over- or underflows."""
    at = input_name(side, feature)
    raw = graph.input(at, TensorProto.FLOAT, ["B", feature.dim])
    size = graph.add("Abs", [raw], f"{at}/abs")
    last = graph.constant("/last_axis", np.array([-1]))
    peak = graph.add("ReduceMax", [size, last], f"{at}/peak", keepdims=1)
    none = graph.constant("/zero_f", np.array(0.0, np.float32))
    one = graph.constant("/one_f", np.array(1.0, np.float32))
    is_zero = graph.add("Equal", [peak, none], f"{at}/is_zero")
    divisor = graph.add("Where", [is_zero, one, peak], f"{at}/divisor")
    small = graph.add("Div", [raw, divisor], f"{at}/scaled")
    return graph.add("LpNormalization", [small], f"{at}/unit", axis=-1, p=2)


def _float(graph: Graph, value: str) -> str:
    return graph.add("Cast", [value], f"{value}_f", to=TensorProto.FLOAT)


def _join(graph: Graph, values: Sequence[str], output: str) -> str:
    if len(values) == 1:
        return values[0]
    return graph.add("Concat", values, output, axis=1)
