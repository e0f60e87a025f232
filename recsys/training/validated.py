"""What a validation slice says of a model: averages, segments, and lists to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.segments import Judged, Metrics, slices
from recsys.training.blocks import marked, pair_keys
from recsys.training.dataset import Dataset
from recsys.training.evaluation import Judge, K
from recsys.training.floors import floor_lists
from recsys.training.metrics import user_metrics
from recsys.training.rows import QueryRows
from recsys.training.split import Split
from recsys.types import ItemId, UserId

_SAMPLES = 4
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Validated:
    """What the report says of a slice, JSON-serialisable.

    Attributes:
        metrics: Of the model and both floors, the number of users, and whether the
            slice is the latest part.
        segments: Metrics of parts of it.
        samples: Lists of it to look at.
    """

    metrics: dict[str, Any]
    segments: dict[str, Metrics]
    samples: list[dict[str, Any]]


def validated(
    dataset: Dataset,
    rows: QueryRows,
    cut: Split,
    judge: Judge,
    lists: NDArray[np.int64],
    metrics: Mapping[str, Mapping[str, float]],
) -> Validated:
    """Put the floors beside a model.

    Args:
        dataset: All the data.
        rows: What was learned from.
        cut: The split.
        judge: Whose users the lists are of.
        lists: The model's, places among the trained items, shape (U, K).
        metrics: Of "model", and of what else is compared with it.
    """
    floors = floor_lists(dataset, rows, judge, cut)
    return Validated(
        metrics={
            **metrics,
            **{name: judge.metrics(each) for name, each in floors.items()},
            "users": judge.users,
            "by_time": cut.by_time,
        },
        segments=segments(dataset, rows, cut, judge, {"model": lists, **floors}),
        samples=samples(dataset, rows, judge, lists),
    )


def segments(
    dataset: Dataset,
    rows: QueryRows,
    cut: Split,
    judge: Judge,
    lists: Mapping[str, NDArray[np.int64]],
) -> dict[str, Metrics]:
    """Return the metrics of parts of the validation slice, rounded.

    Args:
        dataset: All the data.
        rows: What was learned from.
        cut: The split.
        judge: Whose users and items the lists are of.
        lists: Method -> (U, K) places among the trained items.
    """
    popularity = rows.pop.numpy().astype(np.float64)
    history = [_history(rows, judge, place) for place in range(judge.users)]
    taste = [popularity[some].mean() if len(some) else np.nan for some in history]
    found = slices(
        Judged(
            lists=lists,
            relevant=judge.relevant,
            history=np.array([len(some) for some in history]),
            taste=np.array(taste),
            popularity=popularity,
            kinds=_kinds(dataset, rows, cut, judge),
        ),
        K,
    )
    return {
        name: {
            method: {metric: round(value, 4) for metric, value in values.items()}
            for method, values in methods.items()
        }
        for name, methods in found.items()
    }


def _kinds(
    dataset: Dataset, rows: QueryRows, cut: Split, judge: Judge
) -> dict[str, list[NDArray[np.int64]]]:
    """Return the part of each user's hits that was made by each kind."""
    targets = np.flatnonzero(dataset.kind_target)
    if len(targets) < 2:
        return {}
    width = len(dataset.item_ids)
    user = rows.users[judge.user.numpy()]
    late = ~cut.train & marked(len(dataset.user_ids), user)[dataset.user]
    out: dict[str, list[NDArray[np.int64]]] = {}
    for kind in targets.tolist():
        places = np.flatnonzero(late & (dataset.kind == kind))
        made = np.unique(pair_keys(dataset, places))
        out[dataset.kinds[kind]] = [
            some[np.isin(owner * width + rows.items[some], made)]
            for owner, some in zip(user, judge.relevant, strict=True)
        ]
    return out


def samples(
    dataset: Dataset,
    rows: QueryRows,
    judge: Judge,
    ranked: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Return lists to look at: the best ones, and those that missed most.

    Each says whose it is, so that it can be looked up, and how many users had each of
    the items that were chosen next.
    """
    each = user_metrics(ranked, judge.relevant, K)
    ndcg, recall = each[f"ndcg@{K}"], each[f"recall@{K}"]
    sizes = np.array([len(some) for some in judge.relevant])
    known = np.array([len(_history(rows, judge, i)) for i in range(judge.users)])
    owner: list[int] = rows.users[judge.user.numpy()].tolist()
    usable = np.flatnonzero(known > 0)
    good = usable[np.lexsort((-sizes[usable], -ndcg[usable]))][:_SAMPLES]
    bad = usable[np.lexsort((-sizes[usable], ndcg[usable]))][:_SAMPLES]
    chosen: list[tuple[str, int]] = [
        (sort, int(place))
        for sort, places in (("good", good), ("bad", bad))
        for place in places.tolist()
        if sort == "bad" or ndcg[place] > 0
    ]
    return [
        {
            "sort": sort,
            "user": _plain(dataset.user_ids[owner[place]]),
            "ndcg@20": round(float(ndcg[place]), 4),
            "recall@20": round(float(recall[place]), 4),
            "known": int(known[place]),
            "history": _ids(dataset, rows, _history(rows, judge, place)[:_SHOWN]),
            "list": _ids(dataset, rows, ranked[place][:K]),
            "hits": _ids(dataset, rows, judge.relevant[place]),
            "hit_users": rows.pop[judge.relevant[place]].int().tolist(),
        }
        for sort, place in chosen
    ]


def _history(rows: QueryRows, judge: Judge, place: int) -> NDArray[np.int64]:
    """Return what a judged user had, latest first, as places of trained items."""
    items: NDArray[np.int64] = rows.history.entries(int(judge.user[place]))[0].numpy()
    return items


def _ids(
    dataset: Dataset, rows: QueryRows, places: NDArray[np.int64]
) -> list[int | str]:
    items: list[int] = rows.items[places[places >= 0]].tolist()
    chosen = [dataset.item_ids[item] for item in items]
    return [_plain(item) for item in chosen]


def _plain(item: ItemId | UserId) -> int | str:
    return item if isinstance(item, int) else str(item)
