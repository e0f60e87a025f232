"""What triggers cannot promise: lost events, unwatched sources, ids that differ."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg

from recsys import _sql, versions
from recsys._db import Connection
from recsys._source import source_errors
from recsys._wording import counted
from recsys.config import Source
from recsys.errors import RecsysError, SourceError

_OVERLAP = timedelta(minutes=2)
"""A sweep looks back so far behind the oldest transaction that it can see."""
_PREPARED_OVERLAP = timedelta(minutes=10)
"""The same behind a prepared transaction, which no longer says when it began."""
_SLOW = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)
"""What an OperationalError about one source is; another is about the connection."""


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
    sources = _live_sources(conn, model)
    dated = [source for source in sources if source.updated_at]
    triggers = _has_triggers(conn, model)
    if not sources or (triggers and not dated):
        return ""
    with conn.transaction():
        conn.execute(
            "insert into recsys.capture (model) values (%s) on conflict do nothing",
            (model,),
        )
        row = conn.execute(
            "update recsys.capture set sweep_at = now() + make_interval(secs => %s)"
            " where model = %s and sweep_at <= now() returning swept_to",
            (min(source.sweep_s for source in dated or sources), model),
        ).fetchone()
        if row is None:
            return ""
    problems: list[str] = []
    found = [_changed_since(conn, model, dated, row[0], problems) if dated else ""]
    if not triggers:
        found.append(_compare_ids(conn, model, problems))
    _complain(problems)
    return "; ".join(filter(None, found))


def _changed_since(
    conn: Connection,
    model: str,
    sources: list[Source],
    swept_to: datetime | None,
    problems: list[str],
) -> str:
    horizon = _horizon(conn)
    failed = len(problems)
    queued = sum(
        _tried(problems, "", lambda s=s: _queue_changed(conn, model, s, swept_to))
        for s in sources
    )
    if len(problems) == failed:
        # What a broken source would have said is still to be found.
        conn.execute(
            "update recsys.capture set swept_to = greatest(swept_to, %s)"
            " where model = %s",
            (horizon, model),
        )
    return f"{counted(queued, 'item')} by updated_at" if queued > 0 else ""


def _horizon(conn: Connection) -> datetime | None:
    """Return the time up to which every change can be seen.

    A transaction writes its time when it begins and shows its rows when it ends.
    """
    row = conn.execute(
        "select least(now() - %(overlap)s, (select min(xact_start) - %(overlap)s"
        " from pg_catalog.pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()),"
        # When it began is not known; up to here, greatest() holds swept_to back.
        " (select min(prepared) - %(prepared)s from pg_catalog.pg_prepared_xacts"
        " where database = current_database()))",
        {"overlap": _OVERLAP, "prepared": _PREPARED_OVERLAP},
    ).fetchone()
    return row[0] if row else None


def _queue_changed(
    conn: Connection, model: str, source: Source, swept_to: datetime | None
) -> int:
    with source_errors("items"), conn.transaction():
        return conn.execute(
            _sql.trusted(
                "insert into recsys.item_change (model, bucket, item_id)"
                f" select {_sql.literal(model)}, recsys._item_bucket(item_id::text),"
                f" item_id::text from ({source.sql.replace('%', '%%')}\n) as s"
                f' where s."{source.updated_at}"::timestamptz'
                " >= coalesce(%s::timestamptz, '-infinity') and item_id is not null"
            ),
            (swept_to,),
        ).rowcount


def compare_ids(conn: Connection, model: str) -> str:
    """Queue the items that a version lacks, or has too many.

    It reads the whole source: the daily safety net of a watched model, and how an
    unwatched one learns of new and deleted items.

    Args:
        conn: An autocommit connection.
        model: Name of the model.

    Returns:
        What was found, empty for nothing.

    Raises:
        SourceError: The source of a version fails; the others were compared.
    """
    problems: list[str] = []
    found = _compare_ids(conn, model, problems)
    _complain(problems)
    return found


def _compare_ids(conn: Connection, model: str, problems: list[str]) -> str:
    def compare(version: versions.ModelVersion) -> int:
        with conn.transaction():
            return queue_differences(conn, version)

    queued = sum(
        _tried(problems, f"version {v.number}: ", lambda v=v: compare(v))
        for v in versions.list_versions(conn, model)
        if v.state in ("ready", "serving")
    )
    return (
        f"{counted(queued, 'item differs', 'items differ')} by id" if queued > 0 else ""
    )


def _tried(problems: list[str], where: str, work: Callable[[], int]) -> int:
    """Do one version's share: when its source is broken, the others go on."""
    try:
        return work()
    except psycopg.errors.ReadOnlySqlTransaction:
        raise
    except psycopg.OperationalError as exc:
        if not isinstance(exc, _SLOW):
            raise
        problems.append(f"{where}{type(exc).__name__}: {exc}")
    except (RecsysError, psycopg.Error) as exc:
        problems.append(f"{where}{exc}")
    return 0


def _complain(problems: list[str]) -> None:
    if problems:
        raise SourceError(
            "; ".join(dict.fromkeys(problems)),
            hint="The other versions were looked at. A version whose source is gone"
            " for good can be retired with 'recsys retire'.",
        )


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


def _live_sources(conn: Connection, model: str) -> list[Source]:
    """Return the distinct item sources of the live versions, newest first."""
    sources: dict[tuple[str, str | None], Source] = {}
    for version in versions.list_versions(conn, model):
        if version.state in ("building", "ready", "serving"):
            items = version.config.items
            sources.setdefault((items.sql, items.updated_at), items)
    return list(sources.values())


def _has_triggers(conn: Connection, model: str) -> bool:
    row = conn.execute(
        "select triggers > 0 from recsys.change_status where model = %s", (model,)
    ).fetchone()
    return bool(row and row[0])
