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
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from recsys import _db
from recsys._db import Connection
from recsys.errors import RecsysError

logger = logging.getLogger(__name__)

LIMIT_BYTES = 16 << 20
"""Rows wait in memory up to this size: about 20,000 answers of 20 items."""
_BATCH = 500
_INTERVAL_S = 0.5
_PATIENCE_S = 0.05
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_WARN_EVERY_S = 60.0
_CLOSE_S = 2.0
_REMEMBERED = 10_000

Key = tuple[str, str]


class Row(NamedTuple):
    """What is written: JSON texts of an answer, of an exposure, or of both."""

    answer: str | None
    exposure: str | None = None
    key: Key | None = None

    @property
    def size(self) -> int:
        """Bytes this row counts for; the texts are ASCII."""
        return len(self.answer or "") + len(self.exposure or "") + 200


class LogStats(NamedTuple):
    """What became of the answers of this process.

    Attributes:
        written: Stored, as far as this process knows.
        dropped: Never queued, because the queue was full or the process was ending.
        failed: Refused by the database.
        queued: Waiting to be written.
    """

    written: int
    dropped: int
    failed: int
    queued: int


class Warner:
    """Says once a minute at most how many rows were lost, and why."""

    def __init__(self) -> None:
        self._lost = 0
        self._next = 0.0

    def lost(self, rows: int, why: str) -> None:
        """Count rows that nobody will find in recsys.impression."""
        self._lost += rows
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _WARN_EVERY_S
        count, self._lost = self._lost, 0
        if count:
            logger.warning("%d impressions were not logged: %s", count, why)
        else:
            logger.warning("impressions are waiting to be logged: %s", why)


class Seen:
    """The exposures this process has written lately: the newest ones, bounded.

    Only single operations of one OrderedDict, which the interpreter makes atomic: no
    lock that a fork could inherit locked.
    """

    def __init__(self, size: int = _REMEMBERED) -> None:
        self._size = size
        self._keys: OrderedDict[Key, None] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        try:
            self._keys.move_to_end(key)
        except KeyError:
            return False
        return True

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: Key) -> None:
        """Remember a key; forget the one unused for longest."""
        self._keys[key] = None
        if len(self._keys) > self._size:
            try:
                self._keys.popitem(last=False)
            except KeyError:
                return

    def discard(self, key: Key) -> None:
        """Forget a key."""
        self._keys.pop(key, None)


def write(conn: Connection, rows: Sequence[Row]) -> None:
    """Store rows with one statement, in the transaction of the connection.

    Raises:
        psycopg.Error: The database refuses them.
    """
    answers = ",".join(row.answer for row in rows if row.answer)
    exposures = ",".join(row.exposure for row in rows if row.exposure)
    # Not conn.execute(): a borrowed connection may bring a cursor of another kind.
    with psycopg.Cursor(conn) as cur:
        cur.execute(
            "select recsys._log_answers(%s::json, %s::json)",
            (f"[{answers}]", f"[{exposures}]" if exposures else None),
        )


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
        self._writing = 0
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._start_after = 0.0
        self._conn: Connection | None = None
        self._warner = Warner()
        self._written = self._dropped = self._failed = 0

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
            self._queue.append(row)
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
        queued = len(self._queue) + self._writing
        return LogStats(self._written, self._dropped, self._failed, queued)

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
        lost = len(self._queue) + self._writing
        if lost:
            self._dropped += lost
            logger.warning("%d impressions were not logged: the process ended", lost)

    def _drop(self, row: Row, why: str) -> bool:
        self._dropped += row.answer is not None
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
            self._writing = len(batch)
            if len(self._queue) < _BATCH:
                self._hurry.clear()
            if not self._queue and not self._closing.is_set():
                self._wake.clear()
        return batch

    def _done(self, batch: list[Row]) -> None:
        with self._lock:
            self._bytes -= sum(row.size for row in batch)
            self._writing = 0

    def _store(self, batch: list[Row]) -> None:
        """Write a batch, again and again while the server is away."""
        tries = 0
        while True:
            try:
                write(self._connection(), batch)
                self._written += sum(row.answer is not None for row in batch)
                return
            except (psycopg.OperationalError, pg.CheckViolation, RecsysError) as exc:
                # Gone, full, locked, or the row's partition was made this moment.
                wait = _BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)]
                if tries == len(_BACKOFF_S):
                    self._warner.lost(0, _line(exc))
                tries += 1
                if self._conn is not None and self._conn.closed:
                    self._conn = None
                if self._closing.wait(wait):
                    raise
            except psycopg.Error as exc:
                if len(batch) == 1 or not isinstance(
                    exc, psycopg.DataError | psycopg.IntegrityError
                ):
                    self._disconnect()
                    raise
                # One bad row must not take the others with it.
                for row in batch:
                    try:
                        self._store([row])
                    except (psycopg.Error, RecsysError) as one:
                        self._refused([row], one)
                return

    def _refused(self, batch: list[Row], exc: Exception) -> None:
        answers = sum(row.answer is not None for row in batch)
        self._failed += answers
        for row in batch:
            if row.key is not None:
                self.seen.discard(row.key)
        self._warner.lost(answers, _line(exc))

    def _connection(self) -> Connection:
        if self._conn is None:
            self._conn = _db.connect(_patient(self._dsn), autocommit=True)
        return self._conn

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None


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
