"""Metrics of parts: new and old users, head and tail items, kinds, whole lists.

An average hides whom it fails. A model that repeats the best sellers to everybody has a
fair recall, and none in the tail; one that needs long histories fails the newcomers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys.training.metrics import HIT_DEPTH, ranking_metrics
from recsys.types import ItemId

NEW, OLD = 5, 20
"""Users with fewer items than ``NEW`` are new, with at least ``OLD`` old."""
HEAD, TORSO = 0.5, 0.8
"""The most popular items with this share of all (user, item) pairs, and the next."""

Metrics = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Judged:
    """Lists of users beside what they chose.

    Attributes:
        lists: Method -> item indices, best first, -1 for none, shape (U, K).
        relevant: Items each user chose, U arrays.
        history: Number of items each user had, shape (U,).
        taste: Mean popularity of those items, NaN without any, shape (U,).
        popularity: Users of each item of the catalogue, shape (N,).
        kinds: Kind -> the part of ``relevant`` that was chosen so; may be empty.
    """

    lists: Mapping[str, NDArray[np.int64]]
    relevant: Sequence[NDArray[np.int64]]
    history: NDArray[np.int64]
    taste: NDArray[np.float64]
    popularity: NDArray[np.float64]
    kinds: Mapping[str, Sequence[NDArray[np.int64]]] = field(
        default_factory=dict[str, Sequence[NDArray[np.int64]]]
    )


def slices(judged: Judged, k: int) -> dict[str, Metrics]:
    """Return slice -> method -> metric.

    Slices of users average over those users; slices of items and kinds look for the
    hits of that part alone, among users who have any. ``users`` is their number.
    Empty slices are left out.
    """
    out: dict[str, Metrics] = {}
    for name, users in _users(judged.history).items():
        out |= _measured(name, judged, _only(judged.relevant, users), k)
    for name, items in item_parts(judged.popularity).items():
        part = [some[items[some]] for some in judged.relevant]
        out |= _measured(name, judged, part, k)
    if len(judged.kinds) > 1:
        for kind, part in judged.kinds.items():
            out |= _measured(f"kind {kind}", judged, part, k)
    out["lists"] = {
        method: _spread(judged, lists[:, :k], k)
        for method, lists in judged.lists.items()
    }
    return out


def of_lists(
    lists: Mapping[str, Sequence[Sequence[ItemId]]],
    relevant: Sequence[Collection[ItemId]],
    seen: Sequence[Sequence[ItemId]],
    popularity: Mapping[ItemId, int],
    k: int,
    kinds: Mapping[str, Sequence[Collection[ItemId]]] | None = None,
) -> dict[str, Metrics]:
    """Return the same of lists of ids; the catalogue is all that is in any argument.

    Args:
        lists: Method -> one list per user, best first.
        relevant: What each user chose.
        seen: What each user had.
        popularity: Users of each item.
        k: List length.
        kinds: Kind -> the part of ``relevant`` that was chosen so.
    """
    index: dict[ItemId, int] = {}

    def places(items: Collection[ItemId]) -> NDArray[np.int64]:
        return np.array([index.setdefault(i, len(index)) for i in items], np.int64)

    counts = np.array(list(popularity.values()), np.float64)
    places(popularity.keys())
    depth = max(k, HIT_DEPTH)
    found: dict[str, NDArray[np.int64]] = {}
    for name, each in lists.items():
        found[name] = np.full((len(each), depth), -1, np.int64)
        for row, items in zip(found[name], each, strict=True):
            row[: len(items[:depth])] = places(items[:depth])
    wanted = [places(items) for items in relevant]
    had = [places(items) for items in seen]
    counts = np.pad(counts, (0, len(index) - len(counts)))
    return slices(
        Judged(
            lists=found,
            relevant=wanted,
            history=np.array([len(items) for items in had]),
            taste=np.array([counts[i].mean() if len(i) else np.nan for i in had]),
            popularity=counts,
            kinds={
                kind: [places(items) for items in part]
                for kind, part in (kinds or {}).items()
            },
        ),
        k,
    )


def item_parts(popularity: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Mark the items of head, torso and tail; each of shape (N,)."""
    order = np.argsort(-popularity, kind="stable")
    total = max(float(popularity.sum()), 1.0)
    # The share that stands before an item: the first one is always in the head.
    before = np.empty(len(popularity))
    before[order] = (np.cumsum(popularity[order]) - popularity[order]) / total
    head = (before < HEAD) & (popularity > 0)
    torso = ~head & (before < TORSO) & (popularity > 0)
    return {"head items": head, "torso items": torso, "tail items": ~head & ~torso}


def _users(history: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    return {
        "new users": history < NEW,
        "regular users": (history >= NEW) & (history < OLD),
        "old users": history >= OLD,
    }


def _only(
    relevant: Sequence[NDArray[np.int64]], users: NDArray[np.bool_]
) -> list[NDArray[np.int64]]:
    """Take away what other users chose: without it they are not counted."""
    return [
        some if kept else some[:0] for some, kept in zip(relevant, users, strict=True)
    ]


def _measured(
    name: str, judged: Judged, part: Sequence[NDArray[np.int64]], k: int
) -> dict[str, Metrics]:
    users = sum(len(some) > 0 for some in part)
    if not users:
        return {}
    return {
        name: {
            method: {**ranking_metrics(lists, part, k), "users": float(users)}
            for method, lists in judged.lists.items()
        }
    }


def _spread(judged: Judged, lists: NDArray[np.int64], k: int) -> dict[str, float]:
    """Return what lists are made of.

    coverage: share of the catalogue that is in any list. gini: 0 when every item is
    shown as often, 1 when one item is all that is shown. popularity_lift: mean
    popularity of what is shown, over that of what the users had, minus 1.
    """
    shown = np.bincount(lists[lists >= 0], minlength=len(judged.popularity))
    filled = lists >= 0
    each = np.where(filled, judged.popularity[lists], 0.0).sum(1)
    mean = each / np.maximum(filled.sum(1), 1)
    known = np.isfinite(judged.taste) & (judged.taste > 0) & filled.any(1)
    lift = mean[known].mean() / judged.taste[known].mean() - 1 if known.any() else 0.0
    return {
        f"coverage@{k}": float((shown > 0).mean()),
        f"gini@{k}": gini(shown),
        f"popularity_lift@{k}": float(lift),
    }


def gini(counts: NDArray[np.int64]) -> float:
    """Return the Gini coefficient of how often each item is shown, in [0, 1]."""
    ordered = np.sort(counts).astype(np.float64)
    total = ordered.sum()
    if not total:
        return 0.0
    n = len(ordered)
    rank = np.arange(1, n + 1)
    return float(max(0.0, (2 * rank - n - 1) @ ordered / (n * total)))
