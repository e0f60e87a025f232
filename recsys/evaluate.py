"""Offline evaluation through the served path, beside the popularity floors.

Every list is made as a request makes it: the state function, the ONNX query tower, the
index at its calibrated ef_search. Ranking is over the full catalogue, without the items
the user had before.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _served, _sql, versions
from recsys._db import Connection
from recsys._served import Answer, Served
from recsys._source import source_errors
from recsys.config import ModelConfig
from recsys.errors import ConfigError, SourceError, VersionStateError
from recsys.ids import parse_id
from recsys.progress import SILENT, Progress
from recsys.segments import Metrics, of_lists
from recsys.training.metrics import HIT_DEPTH, user_metrics
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion


@dataclass(frozen=True, slots=True)
class Holdout:
    """What users did after the data a version was trained on.

    Attributes:
        relevant: Items per user that count as hits.
        before: History and popularity end here; None: all the source has.
        kinds: The part of ``relevant`` that was chosen by each kind of interaction;
            empty where kinds are not known.
    """

    relevant: Mapping[UserId, set[ItemId]]
    before: datetime | None = None
    kinds: Mapping[str, Mapping[UserId, set[ItemId]]] = field(
        default_factory=dict[str, Mapping[UserId, set[ItemId]]]
    )


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
    """

    model: str
    number: int
    k: int
    users: int
    hits: int
    short: int
    metrics: Mapping[str, Mapping[str, float]]
    segments: Mapping[str, Metrics] = field(default_factory=dict[str, Metrics])


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
        SourceError: No user of the holdout can be evaluated.
        ConfigError: k is out of range.
        VersionStateError: The version is not ready.
    """
    version = ready(conn, model, number, k)
    new = new_items(conn, version) if cold else None
    wanted = holdout.relevant
    if new is not None:
        wanted = {user: set(items) & new for user, items in wanted.items()}
    users = [user for user, items in wanted.items() if items]
    if not users:
        raise _nothing(cold)
    depth = max(k, HIT_DEPTH)
    served = Served(conn, version, depth, holdout.before)
    answers: list[Answer] = []
    with progress.stage("Evaluating users", len(users)) as stage:
        for user in users:
            answers.append(served.ask(user))
            stage.advance()
    lists: dict[str, list[Sequence[ItemId]]] = {"model": [a.items for a in answers]}
    if exact:
        ranked = _served.exact(conn, version, answers, depth, progress=progress)
        lists["exact"] = [ranking.items for ranking in ranked]
    if new is not None:
        ranked = _served.exact(
            conn, version, answers, depth, among=new, progress=progress
        )
        lists["model_among_new"] = [ranking.items for ranking in ranked]
    seen = [answer.seen for answer in answers]
    lists.update(_served.floors(conn, version, holdout.before, seen, depth))
    relevant = [wanted[user] for user in users]
    metrics = {
        name: {metric: float(x.mean()) for metric, x in each.items()}
        for name, each in (
            (name, list_metrics(found, relevant, k)) for name, found in lists.items()
        )
    }
    if new is not None:
        metrics["random_among_new"] = _by_chance(relevant, len(new), k)
    return Evaluation(
        model=model,
        number=number,
        k=k,
        users=len(users),
        hits=sum(map(len, relevant)),
        short=sum(len(items) < depth for items in lists["model"]),
        metrics=metrics,
        segments=of_lists(
            lists,
            relevant,
            seen,
            _served.popularity(conn, version, holdout.before),
            k,
            kinds={
                kind: [wanted[user] & made.get(user, set()) for user in users]
                for kind, made in holdout.kinds.items()
            },
        )
        if segments
        else {},
    )


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


def _nothing(cold: bool) -> SourceError:
    if cold:
        return SourceError(
            "the holdout has no hit on a new item",
            hint="New are items that the version has no learned row of: train it"
            " --until the time of --after.",
        )
    return SourceError(
        "the holdout has nothing to evaluate",
        hint="Its users and items must occur in the training data, and its pairs "
        "must be new; check the ids' spelling and the cut-off time.",
    )


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


def list_metrics(
    lists: Sequence[Sequence[ItemId]], relevant: Sequence[Collection[ItemId]], k: int
) -> dict[str, NDArray[np.float64]]:
    """Return recall@k, ndcg@k and hr@10 of each user's list.

    Args:
        lists: Item ids, best first, one list per user.
        relevant: What counts as a hit: at least one item per user.
        k: List length of recall and NDCG.
    """
    index: dict[ItemId, int] = {}
    wanted = [
        np.array([index.setdefault(i, len(index)) for i in items], np.int64)
        for items in relevant
    ]
    depth = max(k, HIT_DEPTH)
    found = np.full((len(lists), depth), -1, np.int64)
    for row, items in zip(found, lists, strict=True):
        for place, item in enumerate(items[:depth]):
            row[place] = index.setdefault(item, len(index))
    return user_metrics(found, wanted, k)


def after(
    conn: Connection,
    model: str,
    number: int,
    cutoff: datetime,
    *,
    also: int | None = None,
    cold: bool = False,
) -> Holdout:
    """Return what known users first did from a time on, with known items.

    A hit is a pair of a target kind from ``cutoff`` on that the user did not have
    before; both the user and the item have interactions before it.

    Args:
        conn: An open connection.
        model: Name of the model.
        number: Version whose declaration says what counts, and whose items are known.
        cutoff: Hits begin here, histories end here.
        also: Another version, whose items are known, too.
        cold: Items without an interaction before the time count, too.

    Raises:
        ConfigError: The interaction source has no time.
        SourceError: The source fails.
    """
    version = versions.get(conn, model, number)
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    if "occurred_at" not in columns:
        raise ConfigError(
            "the interactions have no occurred_at, so there is no 'after'",
            hint="Pass --holdout FILE instead.",
        )
    weight = versions.weight_expression(config, columns)
    other = ""
    if also is not None:
        suffix = versions.suffix(model, also)
        other = f" union select item_id from recsys.item_vector_{suffix}"
    kind = "source.kind::text" if "kind" in columns else "''"
    query = (
        "with event as materialized ("
        f" select source.user_id::{config.user_id} as user_id,"
        f" source.item_id::{config.item_id} as item_id,"
        f" extract(epoch from source.occurred_at) >= %s as later, {kind} as kind,"
        f" {_percent(target_expression(config, columns, weight))} as target"
        f" from ({_percent(config.interactions.sql)}\n) as source"
        "), known as (select distinct user_id from event where not later),"
        " sold as (select distinct item_id from event where not later),"
        " had as (select distinct user_id, item_id from event where not later)"
        " select distinct event.user_id, event.item_id, event.kind from event"
        " join known using (user_id)"
        f"{'' if cold else ' join sold on sold.item_id = event.item_id'}"
        " where event.later and event.target and event.item_id in"
        f" (select item_id from recsys.item_vector_{version.suffix}{other})"
        " and not exists"
        " (select from had where had.user_id = event.user_id"
        " and had.item_id = event.item_id)"
    )
    relevant: dict[UserId, set[ItemId]] = defaultdict(set)
    kinds: dict[str, dict[UserId, set[ItemId]]] = defaultdict(lambda: defaultdict(set))
    with source_errors("interactions"):
        rows = conn.execute(_sql.trusted(query), (cutoff.timestamp(),))
        for user, item, name in rows:
            relevant[user].add(item)
            if name:
                kinds[name][user].add(item)
    return Holdout(relevant, cutoff, kinds)


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def target_expression(config: ModelConfig, columns: Sequence[str], weight: str) -> str:
    """Return the SQL condition under which an interaction counts as a hit."""
    targets = config.interactions.targets
    if not targets or "kind" not in columns:
        return f"{weight} > 0"
    return f"source.kind::text in ({', '.join(map(_sql.literal, targets))})"


def from_csv(path: Path, config: ModelConfig) -> Holdout:
    """Read a holdout of user_id, item_id (CSV, optionally gzip).

    Raises:
        ConfigError: The file cannot be read, or a row does not fit.
    """
    relevant: dict[UserId, set[ItemId]] = defaultdict(set)
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            absent = {"user_id", "item_id"} - set(reader.fieldnames or ())
            if absent:
                raise ConfigError(
                    f"{path} has no column {', '.join(sorted(absent))}",
                    hint="The first line must name the columns: user_id,item_id",
                )
            for row in reader:
                line = f"{path.name} line {reader.line_num}:"
                user = parse_id(f"{line} user_id", row["user_id"] or "", config.user_id)
                item = parse_id(f"{line} item_id", row["item_id"] or "", config.item_id)
                relevant[user].add(item)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as exc:
        raise ConfigError(
            f"cannot read {path}: {exc}", hint="It must be CSV in UTF-8, plain or .gz."
        ) from exc
    return Holdout(relevant)


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
