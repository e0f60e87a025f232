"""The order of a history and the kinds in it, as serving has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.training.dataset import Dataset

UNKNOWN = -1e18
"""In place of an unknown time: older than any known one."""
_MOST_KINDS = 64


def known_kinds(dataset: Dataset) -> tuple[str, ...]:
    """Return the kinds of positive weight, by name, where there are several."""
    pairs = zip(dataset.kinds, dataset.kind_weight.tolist(), strict=True)
    kinds = sorted(name for name, weight in pairs if weight > 0)
    return tuple(kinds[:_MOST_KINDS]) if len(kinds) > 1 else ()


def kind_numbers(dataset: Dataset, kinds: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the number of each kind of the data among some: from 1, 0 for others."""
    number = {name: place for place, name in enumerate(kinds, start=1)}
    return np.array([number.get(name, 0) for name in dataset.kinds], np.int64)


def newest_kind(
    pair: NDArray[np.int64], time: NDArray[np.float64], kind: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the kind of the newest event of each pair, by ascending pair.

    Of events at one time the one with the smallest number decides, as when serving.
    """
    known = np.where(np.isfinite(time), time, UNKNOWN)
    order = np.lexsort((kind, -known, pair))
    _, first = np.unique(pair[order], return_index=True)
    return kind[order][first]


def id_order(ids: list[Any]) -> NDArray[np.int64]:
    """Return the place of each id in the order that serving breaks ties by.

    Python compares text by code point, which is the byte order of UTF-8 and so the
    order of ``collate "C"``; numbers and UUIDs compare as in Postgres.
    """
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return rank
