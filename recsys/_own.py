"""A process' own connections, and the application's, used with care."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from time import monotonic

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from recsys import _db, _deadline, schema
from recsys._db import Connection
from recsys.errors import DatabaseUnavailable

_Idle = tuple[Connection, float]
"""A connection and when it was used last, by ``time.monotonic``."""
_LEFT_TO_PARENT: list[Connection] = []
_PREPARED_AT = 2
"""Executions before a statement is prepared: what is asked once is not."""
IDLE_S = 60.0
"""After so long without use a connection is closed,"""
KEPT = 2
"""unless it is one of these last."""
ENDED = (pg.AdminShutdown, pg.CrashShutdown, pg.IdleSessionTimeout)
"""What the server says before it ends a session."""


class ConnectionLost(DatabaseUnavailable):
    """An own connection ended; the next request opens another."""


class OwnConnections:
    """Autocommit connections of one process, made when an answer finds none idle.

    There are as many as answers were made at one time; of those that no request needed
    for a minute a later request closes all but two. They belong to no thread: some
    servers make a thread for every request, which would connect for every request.
    There is no lock that a fork could inherit held, and no thread.
    """

    borrowed = False
    alias = None

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        # list.append and list.pop are atomic; the process id says whose they are.
        # The one used last comes last.
        self._idle: tuple[int, list[_Idle]] = (os.getpid(), [])
        self._prepares = True

    @contextmanager
    def use(self) -> Generator[Connection]:
        """Return an idle connection, the one used last, or a new one.

        Raises:
            ConnectionLost: The server ended it. The idle ones are closed as well: what
                ended one has mostly ended all.
        """
        conn, pid = self._take(), os.getpid()
        try:
            yield conn
        except (psycopg.OperationalError, *_db.NOT_PREPARED) as exc:
            if isinstance(exc, _db.NOT_PREPARED):
                self._prepares = False
            elif not conn.closed and not isinstance(exc, ENDED):
                raise
            conn.close()
            self.close()
            raise ConnectionLost(
                "the connection to Postgres was lost: "
                + str(exc).strip().splitlines()[0],
                hint="Ask again: the next request connects anew.",
            ) from exc
        finally:
            if pid == os.getpid():
                self._give_back(conn)
            else:
                _LEFT_TO_PARENT.append(conn)  # forked in the middle of an answer

    def dsn(self) -> str:
        """Return the connection string."""
        return self._dsn

    def close(self) -> None:
        """Close the connections that are idle; the next request opens another."""
        idle = self._of_this_process()
        while idle:
            with suppress(IndexError):  # another thread took the last one
                idle.pop()[0].close()

    def _take(self) -> Connection:
        idle = self._of_this_process()
        while idle:
            with suppress(IndexError):
                conn = idle.pop()[0]
                if not conn.closed:
                    return conn
        conn = _db.connect(self._dsn, autocommit=True)
        try:
            with _deadline.on(conn, borrowed=False):
                schema.check(conn)
                direct = self._prepares and _is_direct(conn)
        except BaseException:
            conn.close()
            raise
        if direct:
            # Planning and describing cost a fifth of an answer.
            conn.prepare_threshold = _PREPARED_AT
        return conn

    def _give_back(self, conn: Connection) -> None:
        if conn.closed:
            return
        if conn.info.transaction_status == TransactionStatus.IDLE:
            idle = self._of_this_process()
            idle.append((conn, monotonic()))
            self._shrink(idle)
        else:
            # Left in the middle of a statement, such as by an exception of a signal.
            conn.close()

    def _shrink(self, idle: list[_Idle]) -> None:
        """Close one connection that was needed by a rush only; there is no thread."""
        with suppress(IndexError):  # other threads take them meanwhile
            if len(idle) > KEPT and monotonic() - idle[0][1] > IDLE_S:
                oldest = idle.pop(0)
                if monotonic() - oldest[1] > IDLE_S:
                    oldest[0].close()
                else:
                    idle.insert(0, oldest)

    def _of_this_process(self) -> list[_Idle]:
        pid, idle = self._idle
        if pid != os.getpid():
            # The parent's sockets: closing them would end the parent's sessions.
            _LEFT_TO_PARENT.extend(conn for conn, _ in idle)
            idle = []
            self._idle = (os.getpid(), idle)
        return idle


def _is_direct(conn: Connection) -> bool:
    """Say whether one session of the server is behind a connection, as long as it is.

    A pooler answers a login itself, with a process id that it made up.
    """
    row = conn.execute("select pg_catalog.pg_backend_pid()").fetchone()
    return row is not None and row[0] == conn.info.backend_pid


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
