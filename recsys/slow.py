"""Slow requests, kept with the plans of their statements in ``recsys.slow_request``.

The observer hands one slow request at a time, one in ten seconds per process, to a
short-lived thread with a connection of its own: the request does not wait, nothing runs
in the application's transaction, and a bad minute does not get worse.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from recsys import _db, _deadline, _explain
from recsys._db import Connection
from recsys.errors import ConfigError, RecsysError
from recsys.observe import STAGES, Answered
from recsys.settings import Settings
from recsys.types import UserId

logger = logging.getLogger(__name__)

KEEP = timedelta(days=14)
"""For how long the worker's clean-up leaves them."""
_BUDGET_MS = 5000
"""For connecting and everything else, also with a server that hangs."""
_STATEMENT_MS = 1000
_TEXT = 20_000


class SlowRequests:
    """An observer that keeps slow requests, at most one in ``every_s`` per process.

    Answers that ran out of their time count as slow however short that was. Where no
    thread can run (uWSGI without ``enable-threads``) nothing is kept.

    Args:
        slow_ms: Milliseconds from which a request is slow.
        every_s: Seconds between two that are kept.
        dsn: Where they are kept and explained; default the database of the request.

    Raises:
        ConfigError: A number is negative.

    Example:
        >>> from recsys import observe, slow
        >>> observe.add(slow.SlowRequests(slow_ms=100))
    """

    def __init__(
        self, slow_ms: float = 200.0, *, every_s: float = 10.0, dsn: str | None = None
    ) -> None:
        if slow_ms < 0 or every_s < 0:
            raise ConfigError("slow_ms and every_s must be 0 or more")
        self.kept = self.passed_over = self.failed = 0
        self._slow_ms = slow_ms
        self._every_s = every_s
        self._dsn = dsn
        self._next = 0.0
        self._thread: threading.Thread | None = None

    def __call__(self, event: Answered) -> None:
        """Keep one request if it was slow and its turn has come."""
        if event.total_ms < self._slow_ms and event.degraded != "timeout":
            return
        now = time.monotonic()
        # Two threads may both find it free: then two are kept. No lock that a fork
        # could inherit locked.
        if now < self._next or self._running():
            self.passed_over += 1
            return
        self._next = now + self._every_s
        try:
            # Here, while the application's connection is open.
            dsn = self._where(event)
            thread = threading.Thread(
                target=self._keep, args=(dsn, event), name="recsys-slow", daemon=True
            )
            thread.start()
        # No more threads, the interpreter is ending, or the connection is gone.
        except (RuntimeError, psycopg.Error):
            self.failed += 1
            return
        self._thread = thread

    def join(self, timeout_s: float = 5.0) -> bool:
        """Wait for the request that is being kept; say whether none is left."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self._running()

    def _running(self) -> bool:
        # In a child of a fork the parent's thread counts as ended.
        return self._thread is not None and self._thread.is_alive()

    def _keep(self, dsn: str, event: Answered) -> None:
        try:
            stored = keep(dsn, event)
        except Exception as exc:
            self.failed += 1
            known = isinstance(exc, RecsysError | psycopg.Error)
            logger.warning(
                "a slow request was not kept: %s",
                _explain.say(exc),
                exc_info=None if known else exc,
            )
            return
        self.kept += stored
        self.failed += not stored

    def _where(self, event: Answered) -> str:
        if self._dsn is not None:
            return self._dsn
        return Settings.from_env().dsn if event.asked is None else event.asked.dsn()


def keep(dsn: str, event: Answered) -> bool:
    """Explain one request and store it, on a connection of its own.

    Args:
        dsn: Connection string; its role must be able to read what the request read.
        event: The request.

    Returns:
        Whether it was stored; if not, there is no such model, or the table is locked.

    Raises:
        DatabaseUnavailable: No server answers.
        psycopg.Error: The database refuses the row.
    """
    row = _row(event)
    with (
        _deadline.until(_deadline.Deadline(_BUDGET_MS)),
        _db.connect(dsn, autocommit=True) as conn,
        _deadline.on(conn, borrowed=False),
    ):
        row |= _explained(conn, event)
        with conn.transaction():
            _limit(conn)
            found = conn.execute(
                "select recsys._keep_slow_request(%s::json)", (json.dumps(row),)
            ).fetchone()
    return found is not None and bool(found[0])


def _limit(conn: Connection) -> None:
    """Bound the statements of this transaction, behind any pooler."""
    conn.execute(f"set local statement_timeout = {_STATEMENT_MS}".encode())
    conn.execute("set local lock_timeout = 200")


def _explained(conn: Connection, event: Answered) -> dict[str, str | None]:
    """Return the filter and the plans; what cannot be explained says why."""
    found: dict[str, str | None] = {"filter": None, "plan": None, "plan_error": None}
    if event.asked is None:
        return {**found, "plan_error": "the database was not reached"}
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("set transaction read only")
            _limit(conn)
            found["filter"] = _clean(_explain.filter_of(conn, event))
            found["plan"] = _clean(_explain.plans(conn, event, found["filter"]))
    except (RecsysError, psycopg.Error) as exc:
        if conn.closed:
            raise
        found["plan_error"] = _clean(_explain.say(exc))
    return found


def _row(event: Answered) -> dict[str, object]:
    names = ("model", "version", "channel", "k", "returned", "total_ms", "degraded")
    times = {f"{stage}_ms": getattr(event, f"{stage}_ms") for stage in STAGES}
    return {
        **{name: getattr(event, name) for name in names},
        **times,
        "request_id": event.request_id and str(event.request_id),
        "user_id": None if event.user_id is None else _clean(str(event.user_id)),
        "error": _clean(event.error),
    }


def _clean(text: str | None) -> str | None:
    """Return text that Postgres can hold, cut to what it would keep."""
    if text is None:
        return None
    return text[:_TEXT].encode("utf-8", "replace").decode().replace("\0", "�")


def kept(
    conn: Connection, model: str | None = None, limit: int = 20
) -> list[dict[str, Any]]:
    """Return the slow requests that were kept, newest first.

    Args:
        conn: An open connection.
        model: Name of the model; None for all.
        limit: How many at most.

    Returns:
        Rows of ``recsys.slow_log``.
    """
    with psycopg.Cursor(conn, row_factory=dict_row) as cur:
        return cur.execute(
            "select * from recsys.slow_log"
            " where model = %(model)s or %(model)s::text is null"
            " order by occurred_at desc limit %(limit)s",
            {"model": model, "limit": limit},
        ).fetchall()


def forget(conn: Connection, model: str) -> int:
    """Delete what is older than ``KEEP``, and what is left of removed models."""
    return conn.execute(
        "delete from recsys.slow_request as s"
        " where s.model = %s and s.occurred_at < now() - %s"
        " or not exists (select from recsys.model as m where m.name = s.model)",
        (model, KEEP),
    ).rowcount


def erase(conn: Connection, user_id: UserId) -> int:
    """Delete what is kept of one user's requests, in every model.

    Args:
        conn: An open connection, of a role such as ``recsys_trainer``.
        user_id: The application's user id.

    Returns:
        How many requests were deleted.
    """
    return conn.execute(
        "delete from recsys.slow_request where user_id = %s", (str(user_id)[:200],)
    ).rowcount
