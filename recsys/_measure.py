"""What two versions answer to the same users, and what that is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from recsys import _exact, _floors, _lists, _sql
from recsys._db import Connection
from recsys._lists import Float64Array, Paired
from recsys._pair import Pair
from recsys._served import Answer, Served
from recsys.progress import Progress
from recsys.training.metrics import HIT_DEPTH
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion

_TIMED = 500
"""Requests timed per version: a p99 of fewer is the slowest one or two."""
_WARM = 5
"""Requests that plan the statements of a session, untimed."""
_SCANNED = 500
"""Users whose ANN recall is measured: an exact scan of a million items takes long."""
_TIE = 1e-4

Lists = Sequence[Sequence[ItemId]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Answers of each version, the base first, and the seconds of timed requests."""

    answers: tuple[list[Answer], ...]
    seconds: tuple[Float64Array, ...]


def ask(
    conn: Connection,
    pair: Pair,
    users: Sequence[UserId],
    before: datetime | None,
    depth: int,
    progress: Progress,
) -> Asked:
    """Ask the versions in turns, each first every other time.

    Args:
        conn: An open connection.
        pair: The versions.
        users: Whom to ask for.
        before: Histories end here; None: all the source has.
        depth: List length.
        progress: Receives the progress.
    """
    served = [Served(conn, v, depth, before, only=pair.only) for v in pair.both]
    rounds = 1 if pair.only else math.ceil(_TIMED / len(users))
    answers: tuple[list[Answer], ...] = tuple([] for _ in served)
    seconds: tuple[list[float], ...] = tuple([] for _ in served)
    turns = list(range(len(served)))
    for user in users[:_WARM]:
        for one in served:
            one.ask(user)
    with progress.stage("Asking both versions", rounds * len(users)) as stage:
        for again in range(rounds):
            for user in users:
                for turn in turns:
                    answer = served[turn].ask(user)
                    seconds[turn].append(answer.seconds)
                    if not again:
                        answers[turn].append(answer)
                turns.reverse()
                stage.advance()
    return Asked(answers, tuple(np.array(some, np.float64) for some in seconds))


@dataclass(frozen=True, slots=True)
class Found:
    """The metrics and the lists they are of.

    Attributes:
        metrics: By name.
        base: What the candidate is compared with, in words.
        lists: Lists of the base and of the candidate.
        ann_high: Upper end of the 95 % interval of the candidate's ANN recall on these
            users; None when nothing was searched.
    """

    metrics: dict[str, Paired]
    base: str
    lists: tuple[Lists, Lists]
    ann_high: float | None


def measure(
    conn: Connection,
    pair: Pair,
    asked: Asked,
    relevant: Sequence[Collection[ItemId]],
    before: datetime | None,
    *,
    k: int,
    seed: int,
    progress: Progress,
) -> Found:
    """Return what the answers are worth.

    Args:
        conn: An open connection.
        pair: The versions.
        asked: Their answers.
        relevant: What counts as a hit, per user in the order of the answers.
        before: Popularity ends here.
        k: List length.
        seed: Of the resampling.
        progress: Receives the progress.
    """
    depth = max(k, HIT_DEPTH)
    lists = _all_lists(conn, pair, asked, depth, progress)
    seen = [answer.seen for answer in asked.answers[-1]]
    orders = _floors.orders(conn, pair.candidate, before)
    floors = {n: _floors.lists(order, seen, depth) for n, order in orders.items()}
    worth = {n: _lists.worth(f, relevant, k) for n, f in floors.items()}
    told = f"version {pair.base.number}" if pair.base else ""
    if pair.base is None:
        best = max(worth, key=lambda name: float(worth[name][f"ndcg@{k}"].mean()))
        lists.insert(0, floors[best])
        told = f"the floor {best!r}"
    base, candidate = lists
    metrics: dict[str, Paired] = {}
    each = [_lists.worth(some, relevant, k) for some in (base, candidate)]
    for name in each[0]:
        popular = max(float(values[name].mean()) for values in worth.values())
        paired = _lists.paired_mean(each[0][name], each[1][name])
        metrics[name] = replace(paired, popular=popular)
    metrics.update(_catalogue(conn, pair, (base, candidate), orders["most_popular"], k))
    ann_high = None
    if pair.only is None:
        ann, ann_high = _ann_recall(conn, pair, asked, k, progress)
        metrics.update(ann)
    metrics.update(_alike(base, candidate, k))
    metrics.update(_latency(pair, asked, seed))
    return Found(metrics, told, (base, candidate), ann_high)


def _all_lists(
    conn: Connection, pair: Pair, asked: Asked, depth: int, progress: Progress
) -> list[Lists]:
    """Return the lists as served; of a loading version, by the restricted scan."""
    if pair.only is None:
        return [[answer.items for answer in answers] for answers in asked.answers]
    ranked = [
        _exact.exact(conn, version, answers, depth, only=pair.only, progress=progress)
        for version, answers in zip(pair.both, asked.answers, strict=True)
    ]
    return [[ranking.items for ranking in some] for some in ranked]


def _latency(pair: Pair, asked: Asked, seed: int) -> dict[str, Paired]:
    if pair.only is not None:
        return {}
    *first, second = (1000 * seconds for seconds in asked.seconds)
    out: dict[str, Paired] = {}
    for name, q in (("latency_p50_ms", 0.5), ("latency_p99_ms", 0.99)):
        if first:
            out[name] = _lists.paired_quantile(first[0], second, q, seed=seed)
        else:
            out[name] = Paired(None, float(np.quantile(second, q)))
    return out


def _catalogue(
    conn: Connection,
    pair: Pair,
    lists: tuple[Lists, Lists],
    taken: Mapping[ItemId, int],
    k: int,
) -> dict[str, Paired]:
    """Return coverage, popularity and novelty of what is shown.

    ``taken`` is how many users took each item.

    Source:
        popularity: average recommendation popularity, Yin et al., "Challenging the
        long tail recommendation", VLDB 2012. novelty: mean self-information, Vargas
        and Castells, "Rank and relevance in novelty and diversity metrics for
        recommender systems", RecSys 2011, with one added to every count.
    """
    sizes = _item_counts(conn, pair)
    first, second = (
        len({item for items in some for item in items[:k]}) / max(1, size)
        for some, size in zip(lists, sizes, strict=True)
    )
    total = sum(taken.values()) + sizes[1]

    def popularity(item: ItemId) -> float:
        return float(taken.get(item, 0))

    def surprise(item: ItemId) -> float:
        return math.log2(total / (taken.get(item, 0) + 1))

    out = {"coverage": Paired(first, second, second - first)}
    for name, value in (("popularity", popularity), ("novelty", surprise)):
        base, candidate = (_means(some, value, k) for some in lists)
        out[name] = _lists.paired_mean(base, candidate)
    return out


def _item_counts(conn: Connection, pair: Pair) -> tuple[int, int]:
    """Return how many items the base and the candidate could show."""

    def count(version: ModelVersion) -> int:
        row = conn.execute(
            _sql.trusted(f"select count(*) from recsys.item_vector_{version.suffix}")
        ).fetchone()
        return int(row[0]) if row else 0

    candidate = count(pair.candidate)
    if pair.base is None or pair.only is not None:
        return candidate, candidate
    return count(pair.base), candidate


def _means(lists: Lists, value: Callable[[ItemId], float], k: int) -> Float64Array:
    """Return the mean value of each user's first k items; 0 for an empty list."""
    return np.array(
        [math.fsum(map(value, some[:k])) / max(1, len(some[:k])) for some in lists]
    )


def _ann_recall(
    conn: Connection, pair: Pair, asked: Asked, k: int, progress: Progress
) -> tuple[dict[str, Paired], float | None]:
    """Return the calibrated ANN recall, and that of these users' own lists."""
    values: list[Float64Array] = []
    for version, answers in zip(pair.both, asked.answers, strict=True):
        some = answers[:_SCANNED]
        ranked = _exact.exact(conn, version, some, k, progress=progress)
        values.append(
            np.array([
                _found_share(answer.scores[:k], ranking.scores)
                for answer, ranking in zip(some, ranked, strict=True)
            ])
        )  # fmt: skip
    high = _lists.mean_interval(values[-1])[1]
    candidate = pair.candidate.ann_recall
    if pair.base is None:
        return {
            "ann_recall": Paired(None, candidate),
            f"ann_recall@{k}": Paired(None, float(values[0].mean())),
        }, high
    base = pair.base.ann_recall
    difference = None if base is None or candidate is None else candidate - base
    return {
        "ann_recall": Paired(base, candidate, difference),
        f"ann_recall@{k}": _lists.paired_mean(values[0], values[1]),
    }, high


def _found_share(scores: Sequence[float], exact: NDArray[np.float32]) -> float:
    """Return which share of an exact list the index found; ties are no mistakes."""
    if not len(exact):
        return 1.0
    bound = float(exact[-1]) - _TIE
    return sum(score >= bound for score in scores) / len(exact)


def _alike(base: Lists, candidate: Lists, k: int) -> dict[str, Paired]:
    out: dict[str, Paired] = {}
    for name, measure in (
        (f"overlap@{k}", _lists.overlap),
        ("rbo", _lists.rank_biased_overlap),
    ):
        values = np.array(
            [measure(a[:k], b[:k]) for a, b in zip(base, candidate, strict=True)]
        )
        low, high = _lists.mean_interval(values)
        out[name] = Paired(None, float(values.mean()), None, low, high)
    return out
