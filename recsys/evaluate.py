"""Offline evaluation through the served path, beside the popularity floors.

Every list is made as a request makes it: the state function, the ONNX query tower, the
index at its calibrated ef_search. Ranking is over the full catalogue, without the items
the user had before.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _db, _sql, retrieval, versions
from recsys._db import Connection, Halfvec
from recsys._tower import QueryTower
from recsys.artifacts import get as get_artifact
from recsys.backfill import source_errors
from recsys.config import ModelConfig
from recsys.errors import ConfigError, SourceError, VersionStateError
from recsys.ids import parse_id
from recsys.progress import SILENT, Progress
from recsys.training.metrics import HIT_DEPTH, ranking_metrics
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion

_RECENT = timedelta(days=30)
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Holdout:
    """What users did after the data a version was trained on.

    Attributes:
        relevant: Items per user that count as hits.
        before: History and popularity end here; None: all the source has.
    """

    relevant: Mapping[UserId, set[ItemId]]
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one version and the floors on one holdout.

    Attributes:
        metrics: By method ("model", "exact", "most_popular", "popular_30d") and
            metric ("recall@20", ...), each in [0, 1], higher is better.
        users: Users with at least one relevant item.
        hits: Relevant pairs.
        short: Lists with fewer than k items.
    """

    model: str
    number: int
    k: int
    users: int
    hits: int
    short: int
    metrics: Mapping[str, Mapping[str, float]]


def evaluate(
    conn: Connection,
    model: str,
    number: int,
    holdout: Holdout,
    *,
    k: int = 20,
    exact: bool = False,
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
        progress: Receives the progress.

    Returns:
        The metrics; recall, NDCG and hit rate averaged over the users.

    Raises:
        SourceError: No user of the holdout can be evaluated.
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
    users = [user for user, items in holdout.relevant.items() if items]
    if not users:
        raise SourceError(
            "the holdout has nothing to evaluate",
            hint="Its users and items must occur in the training data, and its pairs "
            "must be new; check the ids' spelling and the cut-off time.",
        )
    run = _Run(conn, version, holdout, max(k, HIT_DEPTH))
    with progress.stage("Evaluating users", len(users)) as stage:
        for user in users:
            run.add(user)
            stage.advance()
    lists: dict[str, list[Sequence[ItemId]]] = {"model": run.lists}
    if exact:
        lists["exact"] = run.exact(progress)
    lists.update(run.floors())
    relevant = [holdout.relevant[user] for user in users]
    return Evaluation(
        model=model,
        number=number,
        k=k,
        users=len(users),
        hits=sum(map(len, relevant)),
        short=sum(len(items) < run.depth for items in run.lists),
        metrics={name: _metrics(found, relevant, k) for name, found in lists.items()},
    )


class _Run:
    """One pass over the users: lists as served, and what the other methods need."""

    def __init__(
        self, conn: Connection, version: ModelVersion, holdout: Holdout, depth: int
    ) -> None:
        self.conn = conn
        self.version = version
        self.config = version.config
        self.before = holdout.before
        self.depth = depth
        self.statements = retrieval.statements(version.suffix, self.config)
        self.tower = QueryTower(
            get_artifact(conn, version.artifacts["query_tower"]),
            self.config.users.features,
            self.config.context.features,
            self.config.train.dim,
        )
        self.lists: list[Sequence[ItemId]] = []
        self.queries: list[NDArray[np.float32]] = []
        self.seen: list[Sequence[ItemId]] = []

    def add(self, user: UserId) -> None:
        state = retrieval.state(self.conn, self.statements, user, None, self.before)
        if state is None:
            raise SourceError(f"model {self.version.model!r} was removed meanwhile")
        query = self.tower.encode_one(
            _db.unpack_halfvecs(state.history, self.tower.dim),
            np.asarray(state.weights, np.float32),
            state.features,
        )
        found = retrieval.search(
            self.conn,
            self.statements,
            Halfvec(query),
            self.depth,
            state.seen,
            max(self.version.ef_search or 100, min(1000, 2 * self.depth)),
        )
        self.lists.append(found[0])
        self.queries.append(query)
        self.seen.append(state.seen)

    def exact(self, progress: Progress) -> list[Sequence[ItemId]]:
        """Rank by an exact scan of the stored vectors; ties by id."""
        table = f"item_vector_{self.version.suffix}"
        ids: list[ItemId] = []
        packed: list[bytes] = []
        # One statement: a backfill that moves rows cannot come between ids and vectors.
        for item, cell in _db.binary_cursor(self.conn).execute(
            _sql.trusted(
                f"select item_id, halfvec_send(embedding) from recsys.{table}"
                f" order by item_id{versions.collation(self.config.item_id)}"
            )
        ):
            ids.append(item)
            packed.append(cell)
        vectors = _db.unpack_halfvecs(b"".join(packed), self.version.dim)
        vectors = vectors.astype(np.float32)
        place = {item: i for i, item in enumerate(ids)}
        out: list[Sequence[ItemId]] = []
        with progress.stage("Ranking exactly", len(self.queries)) as stage:
            for start in range(0, len(self.queries), _BLOCK):
                queries = np.stack(self.queries[start : start + _BLOCK])
                rounded = queries.astype(np.float16).astype(np.float32)
                scores = rounded @ vectors.T  # (B, N)
                for row, seen in zip(
                    scores, self.seen[start : start + _BLOCK], strict=True
                ):
                    row[[place[item] for item in seen if item in place]] = -np.inf
                    best: list[int] = _top(row, self.depth).tolist()
                    out.append([ids[i] for i in best])
                stage.advance(len(queries))
        return out

    def floors(self) -> dict[str, list[Sequence[ItemId]]]:
        """Rank everybody by popularity, all time and of the last 30 days."""
        orders = {"most_popular": _popularity(self.conn, self.version, self.before)}
        if "occurred_at" in self.version.spec.get("columns", ()):
            since = self.before or _latest(self.conn, self.config)
            if since is not None:
                orders["popular_30d"] = _popularity(
                    self.conn, self.version, self.before, since - _RECENT
                )
        return {
            name: [_unseen(order, set(seen), self.depth) for seen in self.seen]
            for name, order in orders.items()
        }


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    k = min(k, int(np.isfinite(scores).sum()))
    best = np.argpartition(-scores, k - 1)[:k] if 0 < k < len(scores) else slice(None)
    order = np.arange(len(scores))[best]
    return order[np.argsort(-scores[order], kind="stable")][:k]


def _unseen(order: Sequence[ItemId], seen: set[ItemId], k: int) -> list[ItemId]:
    out: list[ItemId] = []
    for item in order:
        if item not in seen:
            out.append(item)
            if len(out) == k:
                break
    return out


def _popularity(
    conn: Connection,
    version: ModelVersion,
    before: datetime | None,
    since: datetime | None = None,
) -> list[ItemId]:
    """Return the version's items by how many users took them, most first."""
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    weight = versions.weight_expression(config, columns)
    conditions = [f"{weight} > 0"]
    parameters: list[float] = []
    for bound, operator in ((before, "<"), (since, ">=")):
        if bound is not None and "occurred_at" in columns:
            conditions.append(f"extract(epoch from source.occurred_at) {operator} %s")
            parameters.append(bound.timestamp())
    query = (
        f"select v.item_id from recsys.item_vector_{version.suffix} as v join"
        f" (select source.item_id::{config.item_id} as item_id,"
        " count(distinct source.user_id) as n"
        f" from ({_percent(config.interactions.sql)}\n) as source"
        f" where {' and '.join(map(_keep_markers, conditions))} group by 1) as counted"
        " using (item_id) order by counted.n desc, v.item_id"
    )
    with source_errors("interactions"):
        return [row[0] for row in conn.execute(_sql.trusted(query), parameters)]


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _keep_markers(condition: str) -> str:
    return condition if condition.endswith("%s") else _percent(condition)


def _latest(conn: Connection, config: ModelConfig) -> datetime | None:
    row = conn.execute(
        _sql.trusted(
            f"select max(source.occurred_at)::timestamptz"
            f" from ({config.interactions.sql}\n) as source"
        )
    ).fetchone()
    return row[0] if row else None


def _metrics(
    lists: Sequence[Sequence[ItemId]], relevant: Sequence[Iterable[ItemId]], k: int
) -> dict[str, float]:
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
    return ranking_metrics(found, wanted, k)


def after(conn: Connection, model: str, number: int, cutoff: datetime) -> Holdout:
    """Return what known users first did from a time on, with known items.

    A hit is a pair of a target kind from ``cutoff`` on that the user did not have
    before; both the user and the item have interactions before it.

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
    query = (
        "with event as materialized ("
        f" select source.user_id::{config.user_id} as user_id,"
        f" source.item_id::{config.item_id} as item_id,"
        f" extract(epoch from source.occurred_at) >= %s as later,"
        f" {_percent(target_expression(config, columns, weight))} as target"
        f" from ({_percent(config.interactions.sql)}\n) as source"
        "), known as (select distinct user_id from event where not later),"
        " sold as (select distinct item_id from event where not later),"
        " had as (select distinct user_id, item_id from event where not later)"
        " select distinct event.user_id, event.item_id from event"
        " join known using (user_id)"
        " join sold on sold.item_id = event.item_id"
        f" join recsys.item_vector_{version.suffix} as v on v.item_id = event.item_id"
        " where event.later and event.target and not exists"
        " (select from had where had.user_id = event.user_id"
        " and had.item_id = event.item_id)"
    )
    relevant: dict[UserId, set[ItemId]] = defaultdict(set)
    with source_errors("interactions"):
        for user, item in conn.execute(_sql.trusted(query), (cutoff.timestamp(),)):
            relevant[user].add(item)
    return Holdout(relevant, cutoff)


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
    metrics = {slice_name: dict(evaluation.metrics)}
    conn.execute(
        "update recsys.model_version set metrics = metrics || %s::jsonb"
        " where model = %s and number = %s",
        (json.dumps(metrics), evaluation.model, evaluation.number),
    )
