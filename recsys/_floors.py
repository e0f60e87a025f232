"""Lists of many users by popularity: the floors that a version must beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from recsys import _sql
from recsys._db import Connection
from recsys._history import weight_expression
from recsys._source import source_errors
from recsys.config import ModelConfig
from recsys.types import ItemId
from recsys.versions import ModelVersion

_RECENT = timedelta(days=30)


def popularity(
    conn: Connection,
    version: ModelVersion,
    before: datetime | None,
    since: datetime | None = None,
) -> dict[ItemId, int]:
    """Return how many users took each of the version's items, most first.

    Items that nobody took are left out.
    """
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    weight = weight_expression(config, columns)
    conditions = [f"{_sql.escaped(weight)} > 0"]
    parameters: list[float] = []
    for bound, operator in ((before, "<"), (since, ">=")):
        if bound is not None and "occurred_at" in columns:
            conditions.append(f"extract(epoch from source.occurred_at) {operator} %s")
            parameters.append(bound.timestamp())
    query = (
        f"select v.item_id, counted.n from recsys.item_vector_{version.suffix} as v"
        f" join (select source.item_id::{config.item_id} as item_id,"
        " count(distinct source.user_id) as n"
        f" from ({_sql.escaped(config.interactions.sql)}\n) as source"
        f" where {' and '.join(conditions)} group by 1) as counted"
        " using (item_id) order by counted.n desc, v.item_id"
    )
    with source_errors("interactions"):
        return dict(conn.execute(_sql.trusted(query), parameters).fetchall())


def orders(
    conn: Connection, version: ModelVersion, before: datetime | None
) -> dict[str, dict[ItemId, int]]:
    """Return the items by popularity, all time and of the last 30 days.

    Returns:
        "most_popular" and, for interactions with a time, "popular_30d": how many users
        took each item, most first.
    """
    found = {"most_popular": popularity(conn, version, before)}
    if "occurred_at" in version.spec.get("columns", ()):
        since = before or _latest(conn, version.config)
        if since is not None:
            found["popular_30d"] = popularity(conn, version, before, since - _RECENT)
    return found


def lists(
    order: Iterable[ItemId], seen: Sequence[Sequence[ItemId]], depth: int
) -> list[Sequence[ItemId]]:
    """Return the first items of an order for each user, without what they have seen."""
    return [_unseen(order, set(some), depth) for some in seen]


def _unseen(order: Iterable[ItemId], seen: set[ItemId], k: int) -> list[ItemId]:
    out: list[ItemId] = []
    for item in order:
        if item not in seen:
            out.append(item)
            if len(out) == k:
                break
    return out


def _latest(conn: Connection, config: ModelConfig) -> datetime | None:
    row = conn.execute(
        _sql.trusted(
            f"select max(source.occurred_at)::timestamptz"
            f" from ({config.interactions.sql}\n) as source"
        )
    ).fetchone()
    return row[0] if row else None
