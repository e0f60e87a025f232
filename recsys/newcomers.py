"""Offline evaluation of users who came after the data a version was trained on.

Twice through the served path: as a first visit, with nothing known but the user
features, and as a session, with the first half of what the user chose as history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from recsys import _served, _sql, evaluate, versions
from recsys._db import Connection
from recsys._served import Answer, Served
from recsys._source import source_errors
from recsys.errors import ConfigError, SourceError
from recsys.evaluate import Evaluation
from recsys.progress import SILENT, Progress
from recsys.training.metrics import HIT_DEPTH
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion

# What each user did before, oldest first, and what counts as a hit.
_Halves = dict[UserId, tuple[list[ItemId], list[ItemId]]]


def measure(
    conn: Connection,
    model: str,
    number: int,
    cutoff: datetime,
    *,
    k: int = 20,
    progress: Progress = SILENT,
) -> Evaluation:
    """Measure a version on users without an interaction before a time.

    Args:
        conn: An open connection; it is left in its transaction, which only read.
        model: Name of the model.
        number: A ready or serving version.
        cutoff: When its data ended.
        k: List length of recall and NDCG, 1 to 1000.
        progress: Receives the progress.

    Returns:
        The metrics of "first_visit", and of "session" for users with at least two
        items; beside each the better-known "popular_30d" on the same users.

    Raises:
        ConfigError: The interaction source has no time, or k is out of range.
        SourceError: The source fails, or nobody came after the time.
        VersionStateError: The version is not ready.
    """
    version = evaluate.ready(conn, model, number, k)
    chosen = _chosen(conn, version, cutoff)
    if not chosen:
        raise SourceError(
            "nobody came after the time who chose an item of the version",
            hint="Check the cut-off time; known users are not counted.",
        )
    depth = max(k, HIT_DEPTH)
    served = Served(conn, version, depth, cutoff)
    first: _Halves = {user: ([], items) for user, items in chosen.items()}
    later: _Halves = {
        user: (items[: len(items) // 2], items[len(items) // 2 :])
        for user, items in chosen.items()
        if len(items) > 1
    }
    metrics: dict[str, dict[str, float]] = {}
    short = 0
    for name, asked in (("first_visit", first), ("session", later)):
        if not asked:
            continue
        answers: list[Answer] = []
        with progress.stage(f"Evaluating new users: {name}", len(asked)) as stage:
            for user, (history, _) in asked.items():
                answers.append(served.ask(user, history[::-1] or None))
                stage.advance()
        relevant = [set(wanted) for _, wanted in asked.values()]
        seen = [history for history, _ in asked.values()]
        floors = _served.floors(conn, version, cutoff, seen, depth)
        lists = {name: [answer.items for answer in answers]}
        if "popular_30d" in floors:
            lists[f"{name}: popular_30d"] = floors["popular_30d"]
        for label, found in lists.items():
            each = evaluate.list_metrics(found, relevant, k)
            metrics[label] = {m: float(x.mean()) for m, x in each.items()}
        short += sum(len(answer.items) < depth for answer in answers)
    hits = sum(map(len, chosen.values()))
    return Evaluation(model, number, k, len(chosen), hits, short, metrics)


def _chosen(
    conn: Connection, version: ModelVersion, cutoff: datetime
) -> dict[UserId, list[ItemId]]:
    """Return the items of the version that each new user chose, in their order."""
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    if "occurred_at" not in columns:
        raise ConfigError(
            "the interactions have no occurred_at, so nobody is new",
            hint="Add occurred_at to interactions.sql.",
        )
    weight = versions.weight_expression(config, columns)
    target = evaluate.target_expression(config, columns, weight)
    query = (
        "with event as materialized ("
        f" select source.user_id::{config.user_id} as user_id,"
        f" source.item_id::{config.item_id} as item_id,"
        " extract(epoch from source.occurred_at) as at,"
        f" {target.replace('%', '%%')} as target"
        f" from ({config.interactions.sql.replace('%', '%%')}\n) as source)"
        " select event.user_id, event.item_id from event"
        f" join recsys.item_vector_{version.suffix} as v using (item_id)"
        " where event.target and event.at >= %(cut)s and not exists"
        " (select from event as old where old.user_id = event.user_id"
        " and old.at < %(cut)s)"
        " group by 1, 2 order by event.user_id, min(event.at), event.item_id"
    )
    found: dict[UserId, list[ItemId]] = defaultdict(list)
    with source_errors("interactions"):
        rows: Sequence[tuple[UserId, ItemId]] = conn.execute(
            _sql.trusted(query), {"cut": cutoff.timestamp()}
        ).fetchall()
    for user, item in rows:
        found[user].append(item)
    return found
