"""A thread's own connection, and the application's, used with care."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from recsys import _db, schema
from recsys._db import Connection
from recsys.errors import DatabaseUnavailable

_LEFT_TO_PARENT: list[Connection] = []
_ENDED = (pg.AdminShutdown, pg.CrashShutdown, pg.IdleSessionTimeout)
"""What the server says before it ends a session."""


class ConnectionLost(DatabaseUnavailable):
    """An own connection ended; the next request opens another."""


class OwnConnections:
    """One autocommit connection per thread and process, made at its first request."""

    borrowed = False
    alias = None

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._local = threading.local()

    def use(self) -> AbstractContextManager[Connection]:
        """Return this thread's connection; it is given up when the server ended it."""
        conn: Connection | None = getattr(self._local, "connection", None)
        if conn is not None and self._local.pid != os.getpid():
            # The parent's socket: closing it would end the parent's session.
            _LEFT_TO_PARENT.append(conn)
            conn = None
        if conn is None or conn.closed:
            conn = _db.connect(self._dsn, autocommit=True)
            try:
                schema.check(conn)
            except BaseException:
                conn.close()
                raise
            self._local.connection = conn
            self._local.pid = os.getpid()
        return _given_up(conn)

    def dsn(self) -> str:
        """Return the connection string."""
        return self._dsn

    def close(self) -> None:
        """Close this thread's connection; the next request opens another."""
        conn: Connection | None = getattr(self._local, "connection", None)
        if conn is not None and self._local.pid == os.getpid():
            conn.close()
        self._local.connection = None


@contextmanager
def _given_up(conn: Connection) -> Generator[Connection]:
    """Close an own connection that the server ended."""
    try:
        yield conn
    except psycopg.OperationalError as exc:
        if not conn.closed and not isinstance(exc, _ENDED):
            raise
        conn.close()
        raise ConnectionLost(
            f"the connection to Postgres was lost: {str(exc).strip().splitlines()[0]}",
            hint="Ask again: the next request connects anew.",
        ) from exc


def savepoint(conn: Connection) -> AbstractContextManager[object]:
    """On a borrowed connection: an error here must not abort the caller's work.

    On an own connection every statement is its own transaction, and a savepoint would
    cost two round trips.
    """
    if conn.info.transaction_status == TransactionStatus.IDLE:
        if conn.autocommit:
            return nullcontext()
        # Begin the caller's transaction: the outermost block of psycopg would commit.
        conn.execute("select")
    return conn.transaction()
