"""Raw rows that towers are compared on: real ones, and some at the edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.training.features import EncodedSide

_ROWS = 512


def probe(
    side: EncodedSide | None, count: int
) -> tuple[NDArray[np.int64], dict[str, list[object]]]:
    """Return some rows of a side, of ``count``, and their raw columns."""
    if side is None:
        return np.arange(0, count, max(1, count // _ROWS), dtype=np.int64), {}
    return side.probe.row, side.probe.columns


def repeated(
    columns: Mapping[str, Sequence[object]], size: int
) -> dict[str, list[object]]:
    """Return ``size`` rows: the given ones, again and again."""
    return {
        name: [cells[row % len(cells)] for row in range(size)]
        for name, cells in columns.items()
    }


def edges(side: EncodedSide) -> tuple[dict[str, list[object]], int]:
    """Return rows of missing, never seen and extreme values, and their number."""
    odd: dict[str, list[object]] = {
        "category": [None, "", "\u2603 never seen", "x" * 10_000],
        "categories": [None, "", "\u2603\x1fnever seen", "\x1f".join("abc" * 300)],
        "text": [None, "", "\u05e9\u05dc\u05d5\u05dd \U0001f600", "word " * 5_000],
        "number": [None, float("nan"), float("inf"), -1e30],
        "time": [None, float("nan"), 0.0, 1e12],
        "vector": [None, None, None, None],
    }
    columns = {
        feature.name: odd["vector" if feature.is_vector else feature.type]
        for feature in side.fitted.declared
    }
    return columns, len(odd["vector"])
