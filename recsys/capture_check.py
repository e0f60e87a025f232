"""What triggers cannot promise: lost events, unwatched sources, ids that differ."""

from __future__ import annotations

from datetime import datetime, timedelta

from recsys import _sql, versions
from recsys._db import Connection
from recsys._source import source_errors
from recsys.config import Source

_OVERLAP = timedelta(minutes=2)
"""A sweep looks back so far behind the oldest transaction that it can see."""


def check(conn: Connection, model: str) -> str:
    """Look for lost events, and for changes where no trigger stands.

    Args:
        conn: An autocommit connection.
        model: Name of the model.

    Returns:
        What was found, empty for nothing.
    """
    found = [_lost_events(conn, model), _reconcile(conn, model), _sweep(conn, model)]
    return "; ".join(part for part in found if part)


def _lost_events(conn: Connection, model: str) -> str:
    """A trigger that swallowed an error left a count: everything is queued again."""
    with conn.transaction():
        counted = conn.execute(
            "select last_value from recsys.capture_failure where is_called"
        ).fetchone()
        row = conn.execute(
            "update recsys.capture set failures = %(count)s"
            " where model = %(model)s and failures < %(count)s returning failures",
            {"model": model, "count": counted[0] if counted else 0},
        ).fetchone()
        if row is None:
            return ""
        reason = f"a trigger could not queue a change (failure {row[0]})"
        conn.execute("select recsys._request_reconcile(%s, %s)", (model, reason))
    return reason


def _reconcile(conn: Connection, model: str) -> str:
    """Queue everything once the transactions of that time have ended."""
    with conn.transaction():
        # Whoever began before the request was committed may not have felt it, and may
        # have a younger id than the request itself.
        conn.execute(
            "update recsys.capture set reconcile_after = pg_current_xact_id(),"
            " reconcile_seen = true where model = %s"
            " and reconcile_after is not null and not reconcile_seen",
            (model,),
        )
    with conn.transaction():
        row = conn.execute(
            "update recsys.capture set reconcile_after = null, reconcile_seen = false"
            " where model = %s and reconcile_seen"
            " and reconcile_after < pg_snapshot_xmin(pg_current_snapshot())"
            " returning reason",
            (model,),
        ).fetchone()
        if row is None:
            return ""
        conn.execute(
            "insert into recsys.item_change (model, bucket, item_id)"
            " values (%s, 0, null)",
            (model,),
        )
    return f"every item is queued: {row[0]}"


def _sweep(conn: Connection, model: str) -> str:
    """Find changes by updated_at; where no trigger stands, also by ids."""
    items = _newest_source(conn, model)
    triggers = _has_triggers(conn, model)
    if items is None or (triggers and not items.updated_at):
        return ""
    with conn.transaction():
        conn.execute(
            "insert into recsys.capture (model) values (%s) on conflict do nothing",
            (model,),
        )
        row = conn.execute(
            "update recsys.capture set sweep_at = now() + make_interval(secs => %s)"
            " where model = %s and sweep_at <= now() returning swept_to",
            (items.sweep_s, model),
        ).fetchone()
        if row is None:
            return ""
        changed = _changed_since(conn, model, items, row[0])
    differ = "" if triggers else compare_ids(conn, model)
    return "; ".join(filter(None, [changed, differ]))


def _changed_since(
    conn: Connection, model: str, items: Source, swept_to: datetime | None
) -> str:
    if not items.updated_at:
        return ""
    # A transaction writes its time when it begins and shows its rows when it ends.
    horizon = conn.execute(
        "select least(now(), min(xact_start)) from pg_catalog.pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    ).fetchone()
    with source_errors("items"):
        cursor = conn.execute(
            _sql.trusted(
                "insert into recsys.item_change (model, bucket, item_id)"
                f" select {_sql.literal(model)}, recsys._item_bucket(item_id::text),"
                f" item_id::text from ({items.sql.replace('%', '%%')}\n) as s"
                f' where s."{items.updated_at}"::timestamptz'
                " >= coalesce(%s::timestamptz, '-infinity') and item_id is not null"
            ),
            (swept_to,),
        )
    conn.execute(
        "update recsys.capture set swept_to = %s where model = %s",
        (horizon[0] - _OVERLAP if horizon else None, model),
    )
    return f"{cursor.rowcount} items by updated_at" if cursor.rowcount > 0 else ""


def compare_ids(conn: Connection, model: str) -> str:
    """Queue the items that a version lacks, or has too many.

    It reads the whole source: the daily safety net of a watched model, and how an
    unwatched one learns of new and deleted items.
    """
    queued = 0
    for version in versions.list_versions(conn, model):
        if version.state not in ("ready", "serving"):
            continue
        queued += queue_differences(conn, version)
    return f"{queued} items differ by id" if queued > 0 else ""


def queue_differences(conn: Connection, version: versions.ModelVersion) -> int:
    """Queue the items that one version lacks, or has too many; returns how many."""
    with source_errors("items"):
        return conn.execute(
            _sql.trusted(
                "insert into recsys.item_change (model, bucket, item_id)"
                f" select {_sql.literal(version.model)},"
                " recsys._item_bucket(d.item_id), d.item_id"
                " from (select coalesce(s.item_id, v.item_id::text) as item_id"
                " from (select distinct item_id::text as item_id"
                f" from ({version.config.items.sql}\n) as i"
                " where item_id is not null) as s"
                f" full join recsys.item_vector_{version.suffix} as v"
                " on v.item_id::text = s.item_id"
                " where s.item_id is null or v.item_id is null) as d"
            )
        ).rowcount


def _newest_source(conn: Connection, model: str) -> Source | None:
    for version in versions.list_versions(conn, model):
        if version.state in ("building", "ready", "serving"):
            return version.config.items
    return None


def _has_triggers(conn: Connection, model: str) -> bool:
    row = conn.execute(
        "select triggers > 0 from recsys.change_status where model = %s", (model,)
    ).fetchone()
    return bool(row and row[0])
