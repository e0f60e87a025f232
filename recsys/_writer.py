"""The background writer of impressions: one bounded queue and one thread per process.

A request only appends to the queue. When the queue is full the newest rows are dropped
and counted, because the oldest are nearest to being written. The thread starts with
the first row of a process, so that a fork (gunicorn with preload, uWSGI) needs no hook.
Where no thread ever runs, the queue fills once; then everything is dropped and counted.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from recsys import _db
from recsys._db import Connection
from recsys._log_rows import (
    ONE_ROW,
    SOON,
    LogStats,
    Row,
    Seen,
    Warner,
    passing,
    write,
)
from recsys.errors import DatabaseUnavailable, RecsysError

logger = logging.getLogger(__name__)

LIMIT_BYTES = 16 << 20
"""Rows wait in memory up to this size: about 20,000 answers of 20 items."""
_BATCH = 500
_INTERVAL_S = 0.5
_PATIENCE_S = 0.05
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_TRIES = 60
"""Of one batch that a server refuses for the moment: five minutes."""
_TRIES_SOON = 3
_TRIES_EXPOSURE = 20
_LOCKED = 10
_CLOCK_S = 60.0
_CLOSE_S = 2.0

_T = TypeVar("_T")


class Writer:
    """A bounded queue and the thread that empties it into ``recsys.impression``.

    Args:
        dsn: Connection string of its own connection.
        limit: Bytes that may wait.
    """

    def __init__(self, dsn: str, limit: int = LIMIT_BYTES) -> None:
        self.seen = Seen()
        self._dsn = dsn
        self._limit = limit
        self._lock = threading.Lock()
        self._queue: deque[Row] = deque()
        self._bytes = 0  # of the queue and of the batch being written
        self._writing: list[Row] = []
        self._clock: tuple[datetime, float] | None = None
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._start_after = 0.0
        self._conn: Connection | None = None
        self._warner = Warner()
        self._written = self._dropped = self._failed = self._unexposed = 0

    def put(self, row: Row) -> bool:
        """Queue a row without waiting; False when it was dropped.

        The lock is held for a few operations in memory. Should it not be free soon,
        such as in a signal handler, the row is dropped rather than the request held.
        """
        if not self._lock.acquire(timeout=_PATIENCE_S):
            return self._drop(row, "the queue was busy")
        try:
            if self._closing.is_set():
                return self._drop(row, "the process is ending")
            if self._bytes + row.size > self._limit:
                self._start()
                return self._drop(row, "the queue is full")
            self._queue.append(row._replace(at=time.monotonic()))
            self._bytes += row.size
            if row.key is not None:
                self.seen.add(row.key)
            if len(self._queue) >= _BATCH:
                self._hurry.set()
            self._start()
        finally:
            self._lock.release()
        self._wake.set()
        return True

    def stats(self) -> LogStats:
        """Return the counts of this process."""
        queued = len(self._queue) + len(self._writing)
        return LogStats(
            self._written, self._dropped, self._failed, queued, self._unexposed
        )

    def flush(self, timeout_s: float = _CLOSE_S) -> bool:
        """Wait until everything queued was written or refused.

        Returns:
            Whether that happened within the time.
        """
        until = time.monotonic() + timeout_s
        while self._bytes:
            if time.monotonic() > until or self._thread is None:
                return False
            self._hurry.set()
            self._wake.set()
            time.sleep(0.002)
        return True

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Write what is queued, for as long as the time allows, and stop the thread."""
        self.flush(timeout_s)
        self._closing.set()
        self._hurry.set()
        self._wake.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(0.2)
        with self._lock:
            lost = [*self._queue, *self._writing]
        if lost:
            self._dropped += sum(row.answer is not None for row in lost)
            self._unexposed += sum(row.exposure is not None for row in lost)
            logger.warning(
                "%d impressions were not logged: the process ended", len(lost)
            )

    def _drop(self, row: Row, why: str) -> bool:
        self._dropped += row.answer is not None
        self._unexposed += row.exposure is not None
        self._warner.lost(1, f"{why} (docs/impressions.md)")
        return False

    def _start(self) -> None:
        """Start the thread when there is none; called with the lock held."""
        if self._thread is not None and self._thread.is_alive():
            return
        now = time.monotonic()
        if now < self._start_after:
            return
        self._start_after = now + 1.0
        thread = threading.Thread(target=self._run, name="recsys-log", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # no more threads, or the interpreter is ending
            logger.warning("the impression writer cannot start: %s", exc)
            return
        self._thread = thread

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._hurry.wait(_INTERVAL_S)
            batch = self._take()
            if batch:
                try:
                    self._store(batch)
                except Exception as exc:
                    self._disconnect()
                    self._refused(batch, exc)
                self._done(batch)
            elif self._closing.is_set():
                self._disconnect()
                return

    def _take(self) -> list[Row]:
        with self._lock:
            batch = [
                self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))
            ]
            self._writing = batch
            if len(self._queue) < _BATCH:
                self._hurry.clear()
            if not self._queue and not self._closing.is_set():
                self._wake.clear()
        return batch

    def _done(self, batch: list[Row]) -> None:
        with self._lock:
            self._bytes -= sum(row.size for row in batch)
            self._writing = []

    def _store(self, batch: list[Row]) -> None:
        """Write a batch; of one that has a bad row, the others."""
        waits = iter((*_BACKOFF_S, *[_BACKOFF_S[-1]] * (_TRIES - len(_BACKOFF_S))))
        rows = self._stamped(batch, waits)
        try:
            self._write(rows, waits)
        except ONE_ROW:
            if len(rows) == 1:
                raise
            for row in rows:
                try:
                    self._write([row], waits)
                except (psycopg.Error, RecsysError) as exc:
                    self._refused([row], exc)

    def _stamped(self, batch: list[Row], waits: Iterator[float]) -> list[Row]:
        """Give every row its time by the server's clock, the same however often sent.

        Late by up to the way to the server, never early: no answer of an experiment
        must seem to come before its start.
        """
        server, at = self._try(self._server_clock, waits)

        def stamp(text: str | None, when: float) -> str | None:
            moment = (server + timedelta(seconds=when - at)).isoformat()
            return text and f'{{"stamped":"{moment}",{text[1:]}'

        return [
            row
            if row.tries
            else row._replace(
                answer=stamp(row.answer, row.at), exposure=stamp(row.exposure, row.at)
            )
            for row in batch
        ]

    def _server_clock(self, conn: Connection) -> tuple[datetime, float]:
        """Return a moment by the server's clock and by this process'."""
        before = time.monotonic()
        if self._clock is None or before - self._clock[1] > _CLOCK_S:
            row = conn.execute("select clock_timestamp()").fetchone()
            if row is not None:
                self._clock = row[0], before
        return self._clock or (datetime.now(UTC), before)

    def _write(self, rows: list[Row], waits: Iterator[float]) -> None:
        exposed = self._try(lambda conn: write(conn, rows), waits)
        self._written += sum(row.answer is not None for row in rows)
        if not exposed:
            self._expose_singly([row for row in rows if row.exposure], waits)

    def _expose_singly(self, rows: list[Row], waits: Iterator[float]) -> None:
        """Write exposures of which others hold some, and queue those again."""
        locked: list[Row] = []
        for row in rows:
            one = row._replace(answer=None, tries=row.tries + 1)
            if len(locked) < _LOCKED and self._try(
                lambda c, r=one: write(c, [r]), waits
            ):
                continue
            locked.append(one)
        for row in locked:
            if row.tries >= _TRIES_EXPOSURE or self._closing.is_set():
                self._refused([row], pg.LockNotAvailable("others hold its exposure"))
                continue
            with self._lock:
                self._queue.append(row)
                self._bytes += row.size
            self._wake.set()

    def _try(self, work: Callable[[Connection], _T], waits: Iterator[float]) -> _T:
        """Do something with the connection, again where that may help.

        While no server is there, for as long as it takes: nothing else could be
        written either. What a server refuses is given up when ``waits`` ends.
        """
        tries = 0
        while True:
            try:
                return work(self._connection())
            except DatabaseUnavailable as exc:
                wait, why = _BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)], exc
                if self._closing.wait(wait):
                    raise
            except psycopg.Error as exc:
                if self._conn is not None and self._conn.closed:
                    self._disconnect()
                soon = isinstance(exc, SOON)
                if not passing(exc) or (soon and tries >= _TRIES_SOON):
                    raise
                wait, why = next(waits, None), exc
                if wait is None or self._closing.wait(wait):
                    raise
            tries += 1
            if tries == len(_BACKOFF_S):
                self._warner.lost(0, _line(why))

    def _refused(self, batch: list[Row], exc: Exception) -> None:
        self._failed += sum(row.answer is not None for row in batch)
        self._unexposed += sum(row.exposure is not None for row in batch)
        for row in batch:
            if row.key is not None:
                self.seen.discard(row.key)
        self._warner.lost(len(batch), _line(exc))

    def _connection(self) -> Connection:
        if self._conn is None:
            self._conn = _db.connect(_patient(self._dsn), autocommit=True)
        return self._conn

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = self._clock = None


def _line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]


def _patient(dsn: str) -> str:
    """Add time limits, so that a server that went silent is noticed."""
    limits = {"connect_timeout": "5", "tcp_user_timeout": "10000"}
    given = conninfo_to_dict(dsn)
    return make_conninfo(dsn, **{k: v for k, v in limits.items() if k not in given})


_WRITERS: dict[tuple[int, str], Writer] = {}


def writer(dsn: str) -> Writer:
    """Return this process' writer for a database; a child of a fork gets its own."""
    key = (os.getpid(), dsn)
    found = _WRITERS.get(key)
    if found is None:
        if not _WRITERS:
            atexit.register(_close_all)
        found = _WRITERS.setdefault(key, Writer(dsn))
    return found


def _close_all() -> None:
    until = time.monotonic() + _CLOSE_S
    for (pid, _), each in list(_WRITERS.items()):
        if pid == os.getpid():
            each.close(max(until - time.monotonic(), 0.1))
