"""Encoded features: integers and numbers per row, made by the published encoder."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from recsys._onnx import load_onnxruntime
from recsys.config import Feature
from recsys.encoder.fit import FittedSide, fit
from recsys.encoder.graph import encoder_model
from recsys.encoder.values import Columns, Side, prepare

# Rows per call of the encoder: bounds the padded token matrix of long texts.
ENCODE_ROWS = 8192
_PROBE_ROWS = 320


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token lists of one feature; padding is left out.

    Attributes:
        start: Where each row starts and the last one ends, shape (N + 1,), int64.
        index: Rows of the feature's table, >= 1, shape (n,), int32.
    """

    start: NDArray[np.int64]
    index: NDArray[np.int32]

    def rows(self, order: NDArray[np.int64]) -> Tokens:
        """Return some rows in a new order."""
        counts = np.diff(self.start)[order]
        start = np.concatenate([[0], np.cumsum(counts)])
        shift = np.repeat(self.start[:-1][order] - start[:-1], counts)
        return Tokens(start, self.index[np.arange(start[-1]) + shift])


@dataclass(frozen=True, slots=True)
class Probe:
    """Raw rows.

    Attributes:
        row: Which encoded row each is, shape (n,), int64.
        columns: Raw cells by feature name, each of length n.
    """

    row: NDArray[np.int64]
    columns: dict[str, list[object]]

    def moved(self, order: NDArray[np.int64]) -> Probe:
        """Return what is left of the raw rows after ``rows(order)``."""
        place = {int(row): index for index, row in enumerate(order)}
        kept = [i for i, row in enumerate(self.row.tolist()) if row in place]
        return Probe(
            np.array([place[int(self.row[i])] for i in kept], np.int64),
            {name: [cells[i] for i in kept] for name, cells in self.columns.items()},
        )


@dataclass(frozen=True, slots=True)
class EncodedSide:
    """The features of all rows of one side: item, user or context.

    Attributes:
        side: "item", "user" or "context".
        fitted: Vocabularies and statistics the rows were encoded with.
        tokens: Token lists of every feature that has a table.
        dense: Numbers, shape (N, M), float32; M may be 0.
        probe: Some of the raw rows, to compare the published towers on.
    """

    side: Side
    fitted: FittedSide
    tokens: dict[str, Tokens]
    dense: NDArray[np.float32]
    probe: Probe

    def __len__(self) -> int:
        return len(self.dense)

    def rows(self, order: NDArray[np.int64]) -> EncodedSide:
        """Return some rows in a new order."""
        return EncodedSide(
            self.side,
            self.fitted,
            {name: tokens.rows(order) for name, tokens in self.tokens.items()},
            self.dense[order],
            self.probe.moved(order),
        )

    def reordered(
        self, ids: Sequence[Hashable], wanted: Sequence[Hashable]
    ) -> EncodedSide:
        """Return one row per wanted id; an id without a row has every value missing."""
        place = {value: index for index, value in enumerate(ids)}
        order = np.array([place.get(value, len(ids)) for value in wanted], np.int64)
        return self.with_missing_row().rows(order)

    def with_missing_row(self) -> EncodedSide:
        """Return the rows and, behind them, one row with every value missing."""
        return _joined([self, encode_rows(self.side, self.fitted, [({}, 1)])])


def fit_side(
    features: Sequence[Feature], batches: Iterable[Columns], until: float | None
) -> FittedSide:
    """Learn vocabularies and statistics; ages count from the end of the data."""
    return fit(tuple(features), batches, reference=until or 0.0)


def encode_rows(
    side: Side, fitted: FittedSide, batches: Iterable[tuple[Columns, int]]
) -> EncodedSide:
    """Run the published encoder over raw rows.

    Args:
        side: "item", "user" or "context".
        fitted: What the encoder learned.
        batches: Raw columns and how many rows they have.

    Returns:
        All rows, in the order they came.
    """
    encoder = _Encoder(side, fitted)
    parts = [
        encoder.encode(columns, first, min(first + ENCODE_ROWS, count))
        for columns, count in batches
        for first in range(0, max(count, 1), ENCODE_ROWS)
    ]
    # Without rows there is still a shape: that of an encoded nothing.
    return _joined(parts or [encoder.encode({}, 0, 0)])


class _Encoder:
    """The encoder of one side as an onnxruntime session."""

    def __init__(self, side: Side, fitted: FittedSide) -> None:
        onnxruntime = load_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._side: Side = side
        self._fitted = fitted
        self._session = onnxruntime.InferenceSession(
            encoder_model(side, fitted), options
        )
        outputs = cast(list[Any], self._session.get_outputs())
        self._outputs = [str(output.name) for output in outputs]

    def encode(self, columns: Columns, first: int, last: int) -> EncodedSide:
        """Encode rows first to last (exclusive) of raw columns."""
        part = {name: column[first:last] for name, column in columns.items()}
        count = last - first
        feeds = prepare(self._side, self._fitted.declared, part, count)
        arrays = cast(list[NDArray[Any]], self._session.run(None, feeds))
        out = dict(zip(self._outputs, arrays, strict=True))
        dense = out.pop("dense", np.zeros((count, 0), np.float32))
        tokens = {name: _without_padding(index) for name, index in out.items()}
        probe = Probe(np.arange(0), {})
        if first == 0:
            some = min(count, _PROBE_ROWS)
            cells = {name: list(column[:some]) for name, column in part.items()}
            probe = Probe(np.arange(some), cells)
        return EncodedSide(self._side, self._fitted, tokens, dense, probe)


def _without_padding(index: NDArray[np.int64]) -> Tokens:
    known = index > 0  # (B, T)
    start = np.concatenate([[0], np.cumsum(known.sum(1))])
    return Tokens(start, index[known].astype(np.int32))


def _joined(parts: Sequence[EncodedSide]) -> EncodedSide:
    """Put the rows of several parts under each other."""
    tokens: dict[str, Tokens] = {}
    for name in parts[0].tokens:
        counts = [np.diff(part.tokens[name].start) for part in parts]
        start = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        index = np.concatenate([part.tokens[name].index for part in parts])
        tokens[name] = Tokens(start, index)
    dense = np.concatenate([part.dense for part in parts])
    first = parts[0]
    return EncodedSide(first.side, first.fitted, tokens, dense, first.probe)
