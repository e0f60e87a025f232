"""Offline evaluation through the served path, beside the popularity floors.

Every list is made as a request makes it: the state function, the ONNX query tower, the
index at its calibrated ef_search. Ranking is over the full catalogue, without the items
the user had before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys import _exact, _floors, _lists, _sql, _strangers, versions
from recsys._db import Connection
from recsys._holdout import Holdout, after, from_csv
from recsys._last import ends_before
from recsys._served import Answer, Served, short
from recsys.errors import ConfigError, SourceError, VersionStateError
from recsys.progress import SILENT, Progress
from recsys.segments import Metrics, of_lists
from recsys.training.metrics import HIT_DEPTH
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion

__all__ = [
    "Evaluation", "Holdout", "after", "evaluate", "from_csv", "new_items", "ready",
    "store",
]  # fmt: skip


EARLIER = "Take an earlier --after."


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one version and the floors on one holdout.

    Attributes:
        metrics: By method ("model", "exact", "most_popular", "popular_30d") and
            metric ("recall@20", ...), each in [0, 1], higher is better.
        users: Users with at least one relevant item.
        hits: Relevant pairs.
        short: Lists with fewer than k items.
        segments: The same of parts of the users and items, by slice and method; only
            on request, see ``recsys.segments``.
        strange: A sentence about users and items that nobody knows, where they are
            many.
    """

    model: str
    number: int
    k: int
    users: int
    hits: int
    short: int
    metrics: Mapping[str, Mapping[str, float]]
    segments: Mapping[str, Metrics] = field(default_factory=dict[str, Metrics])
    strange: str = ""


def evaluate(
    conn: Connection,
    model: str,
    number: int,
    holdout: Holdout,
    *,
    k: int = 20,
    exact: bool = False,
    cold: bool = False,
    segments: bool = False,
    progress: Progress = SILENT,
) -> Evaluation:
    """Measure a version through the served path.

    Args:
        conn: An open connection; it is left in its transaction, which only read.
        model: Name of the model.
        number: A ready or serving version.
        holdout: What counts as a hit.
        k: List length of recall and NDCG, 1 to 1000.
        exact: Also rank with an exact scan of the stored vectors.
        cold: Count hits on new items only, those without a learned row, and also rank
            among them alone: "model_among_new" and what any order of them would give,
            "random_among_new".
        segments: Also measure new and old users, head and tail items.
        progress: Receives the progress.

    Returns:
        The metrics; recall, NDCG and hit rate averaged over the users.

    Raises:
        SourceError: No user of the holdout can be evaluated, or none of its items is
            known.
        ConfigError: k is out of range, or an id is not of the model's type.
        VersionStateError: The version is not ready.
    """
    version = ready(conn, model, number, k)
    new = new_items(conn, version) if cold else None
    wanted = _wanted(holdout, new)
    if not wanted:
        raise _nothing(conn, version, holdout, new)
    known = _strangers.known_items(conn, [version], wanted)
    depth = max(k, HIT_DEPTH)
    served = Served(conn, version, depth, holdout.before)
    answers = served.ask_all(dict.fromkeys(wanted), "Evaluating users", progress)
    lists = _lists_of(conn, version, answers, depth, exact, new, progress)
    seen = [answer.seen for answer in answers]
    strange = _strangers.said(version, wanted, known, sum(1 for some in seen if some))
    orders = _floors.orders(conn, version, holdout.before)
    lists |= {n: _floors.lists(order, seen, depth) for n, order in orders.items()}
    relevant = list(wanted.values())
    metrics = _lists.mean_worth(lists, relevant, k)
    if new is not None:
        metrics["random_among_new"] = _by_chance(relevant, len(new), k)
    parts: Mapping[str, Metrics] = {}
    if segments:
        kinds = _kinds(holdout, wanted)
        taken = orders["most_popular"]
        parts = of_lists(lists, relevant, seen, taken, k, kinds)
    return Evaluation(
        model=model,
        number=number,
        k=k,
        users=len(wanted),
        hits=sum(map(len, relevant)),
        short=short(answers, depth),
        metrics=metrics,
        segments=parts,
        strange=strange,
    )


def _wanted(holdout: Holdout, new: set[ItemId] | None) -> dict[UserId, set[ItemId]]:
    """Return the hits of each user who has some; on new items only, if given."""
    wanted = {
        user: set(items) if new is None else set(items) & new
        for user, items in holdout.relevant.items()
    }
    return {user: items for user, items in wanted.items() if items}


def _lists_of(
    conn: Connection,
    version: ModelVersion,
    answers: Sequence[Answer],
    depth: int,
    exact: bool,
    new: set[ItemId] | None,
    progress: Progress,
) -> dict[str, list[Sequence[ItemId]]]:
    """Return the lists as served, and by the exact scans that are asked for."""
    scans: dict[str, Collection[ItemId] | None] = {}
    if exact:
        scans["exact"] = None
    if new is not None:
        scans["model_among_new"] = new
    lists: dict[str, list[Sequence[ItemId]]] = {"model": [a.items for a in answers]}
    for name, among in scans.items():
        ranked = _exact.exact(
            conn, version, answers, depth, among=among, progress=progress
        )
        lists[name] = [ranking.items for ranking in ranked]
    return lists


def _kinds(
    holdout: Holdout, wanted: Mapping[UserId, set[ItemId]]
) -> dict[str, list[set[ItemId]]]:
    """Return the part of each user's hits that was chosen by each kind."""
    return {
        kind: [items & made.get(user, set()) for user, items in wanted.items()]
        for kind, made in holdout.kinds.items()
    }


def ready(conn: Connection, model: str, number: int, k: int) -> ModelVersion:
    """Return a version that can be evaluated.

    Raises:
        ConfigError: k is out of range.
        VersionStateError: The version is not ready.
    """
    if not 1 <= k <= 1000:
        raise ConfigError(f"k must be from 1 to 1000, got {k}")
    version = versions.get(conn, model, number)
    if version.state not in ("ready", "serving"):
        raise VersionStateError(
            f"version {number} of model {model!r} is {version.state}, not ready",
            hint=f"Run 'recsys backfill {model} {number}' first.",
        )
    return version


def new_items(conn: Connection, version: ModelVersion) -> set[ItemId]:
    """Return the items that a version has a vector, but no learned row of."""
    return {
        item
        for (item,) in conn.execute(
            _sql.trusted(
                f"select item_id from recsys.item_vector_{version.suffix} as v"
                f" where not exists (select from recsys.id_embedding_{version.suffix}"
                " as e where e.item_id = v.item_id)"
            )
        )
    }


def _nothing(
    conn: Connection, version: ModelVersion, holdout: Holdout, new: set[ItemId] | None
) -> SourceError:
    """Return why there is nothing to measure, and what to ask for instead."""
    number, begins = version.number, holdout.before
    when = f" from {begins:%F %T} on" if begins else ""
    if begins and (ends := ends_before(conn, version.config, begins)):
        return SourceError(f"there is no hit{when}: {ends}", hint=EARLIER)
    if new is not None and not new:
        return SourceError(
            f"no item is new to version {number}: it has a learned row of every one",
            hint="Leave out --cold, or train one --until a time before some came.",
        )
    if new is not None and any(holdout.relevant.values()):
        return SourceError(
            f"nobody chose {_one_of(len(new))} new to version {number}{when}",
            hint="New are items without a learned row. Take an earlier --after, or"
            " train a version --until that time.",
        )
    if when:
        return SourceError(
            f"there is no hit{when}",
            hint="A hit is an item of the version that a user with earlier interactions"
            " chooses for the first time. Take an earlier --after.",
        )
    return SourceError(
        "the holdout has nothing to evaluate",
        hint="Its users and items must occur in the training data, and its pairs "
        "must be new; check the ids' spelling.",
    )


def _one_of(count: int) -> str:
    return "the item that is" if count == 1 else f"one of the {count:,} items that are"


def _by_chance(
    relevant: Sequence[Collection[ItemId]], items: int, k: int
) -> dict[str, float]:
    """Return what a random order of so many items is expected to reach."""
    shown = min(k, items)
    discount = 1 / np.log2(np.arange(2, k + 2))
    hits = np.array([len(some) for some in relevant])
    ideal = np.array([discount[: min(k, n)].sum() for n in hits])
    gain = hits / items * discount[:shown].sum() / ideal
    depth = min(HIT_DEPTH, items)
    missed = np.array(
        [math.comb(items - n, depth) / math.comb(items, depth) for n in hits.tolist()]
    )
    return {
        f"recall@{k}": shown / items,
        f"ndcg@{k}": float(gain.mean()),
        f"hr@{HIT_DEPTH}": float(1 - missed.mean()),
    }


def store(conn: Connection, evaluation: Evaluation, slice_name: str) -> None:
    """Keep an evaluation with its version, where recsys.version_metric shows it."""
    metrics: dict[str, Mapping[str, Mapping[str, float]]] = {
        slice_name: evaluation.metrics
    }
    for name, methods in evaluation.segments.items():
        metrics[f"{slice_name}: {name}"] = methods
    conn.execute(
        "update recsys.model_version set metrics = metrics || %s::jsonb"
        " where model = %s and number = %s",
        (json.dumps(metrics), evaluation.model, evaluation.number),
    )
