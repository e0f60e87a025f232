"""Offline evaluation of users who came after the data a version was trained on.

Twice through the served path: as a first visit, with nothing known but the user
features, and as a session, with the first half of what the user chose as history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

from recsys import _floors, _lists, _sql, evaluate
from recsys._db import Connection
from recsys._holdout import timed_events
from recsys._last import ends_before
from recsys._served import Served, short
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
        if ends := ends_before(conn, version.config, cutoff):
            raise SourceError(
                f"no user came from {cutoff:%F %T} on: {ends}",
                hint=evaluate.EARLIER,
            )
        raise SourceError(
            f"no user came from {cutoff:%F %T} on who chose an item of version"
            f" {number}",
            hint="New are users without an interaction before --after. Take an earlier"
            " time, or measure known users without --new-users.",
        )
    depth = max(k, HIT_DEPTH)
    served = Served(conn, version, depth, cutoff)
    recent = _floors.orders(conn, version, cutoff).get("popular_30d")
    metrics: dict[str, dict[str, float]] = {}
    few = 0
    for name, asked in _halves(chosen).items():
        if not asked:
            continue
        histories = {user: had[::-1] or None for user, (had, _) in asked.items()}
        title = f"Evaluating new users: {name}"
        answers = served.ask_all(histories, title, progress)
        lists = {name: [answer.items for answer in answers]}
        seen = [had for had, _ in asked.values()]
        if recent is not None:
            lists[f"{name}: popular_30d"] = _floors.lists(recent, seen, depth)
        relevant = [set(wanted) for _, wanted in asked.values()]
        metrics |= _lists.mean_worth(lists, relevant, k)
        few += short(answers, depth)
    hits = sum(map(len, chosen.values()))
    return Evaluation(model, number, k, len(chosen), hits, few, metrics)


def _halves(chosen: Mapping[UserId, list[ItemId]]) -> dict[str, _Halves]:
    """Return what is known of users, and what they chose, by what is measured."""
    session: _Halves = {
        user: (items[: len(items) // 2], items[len(items) // 2 :])
        for user, items in chosen.items()
        if len(items) > 1
    }
    return {
        "first_visit": {user: ([], items) for user, items in chosen.items()},
        "session": session,
    }


def _chosen(
    conn: Connection, version: ModelVersion, cutoff: datetime
) -> dict[UserId, list[ItemId]]:
    """Return the items of the version that each new user chose, in their order."""
    events = timed_events(
        version,
        ConfigError(
            "the interactions have no occurred_at, so nobody is new",
            hint="Add occurred_at to interactions.sql.",
        ),
    )
    query = (
        f"with event as materialized ({events})"
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
