"""The worker process: changes as they come, periodic tasks beside them."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

import psycopg
from psycopg import IsolationLevel
from psycopg import errors as pg

from recsys import _db, schema
from recsys._db import Connection
from recsys.errors import RecsysError, VersionStateError
from recsys.worker import tasks
from recsys.worker.apply import Applied, LiveModel

logger = logging.getLogger(__name__)

_HEARTBEAT_S = 5.0
_LONGEST_PAUSE_S = 10.0


class Worker:
    """Applies changes until it is stopped; any number may run, anywhere.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        models: Only these; empty means all, also those that come later.
        batch: Queue rows per transaction.
        poll_s: Pause between two looks at an empty queue, in seconds.
        run_tasks: Also run the periodic tasks.
        on_batch: Called after every batch with the model and what was done.
    """

    def __init__(
        self,
        dsn: str,
        models: Sequence[str] = (),
        *,
        batch: int = 500,
        poll_s: float = 0.1,
        run_tasks: bool = True,
        on_batch: Callable[[str, Applied], None] | None = None,
    ) -> None:
        self.id = uuid4()
        self._dsn = dsn
        self._models = list(models)
        self._batch = batch
        self._poll_s = poll_s
        self._run_tasks = run_tasks
        self._on_batch = on_batch
        self._live: dict[str, LiveModel] = {}
        self._stop = threading.Event()
        self._items = self._failed = 0
        self._seen_at = float("-inf")
        self._looked = 0.0  # seconds that looks at empty queues took

    def stop(self) -> None:
        """Finish the batch in work, then return from ``run``; safe in a handler."""
        self._stop.set()

    def check(self) -> None:
        """Look whether there is a database that this code can work on.

        Raises:
            DatabaseUnavailable: The connection fails.
            SchemaError: The schema is missing, or does not fit this code.
        """
        with self._connect() as conn:
            schema.check(conn)

    def run(self) -> None:
        """Work until ``stop``; reconnect when the server goes and comes back.

        Raises:
            DatabaseUnavailable: The first connection fails.
            SchemaError: The schema does not fit this code.
        """
        self.check()
        runners = [
            _TaskRunner(self._dsn, self._stop, slow=slow)
            for slow in ((False, True) if self._run_tasks else ())
        ]
        for runner in runners:
            runner.start()
        pause = self._poll_s
        while not self._stop.is_set():
            try:
                with self._connect() as conn:
                    self._heartbeat(conn, now=True)
                    pause = self._poll_s
                    self._work(conn)
            except (RecsysError, psycopg.Error) as exc:
                # A server that became a standby refuses writes on a connection that
                # lives: the next one may reach the new primary.
                logger.warning("cannot work (%s); connecting again", _line(exc))
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        for runner in runners:
            runner.join()
        self._say_goodbye()

    def drain(self, on_batch: Callable[[str, Applied], None] | None = None) -> Applied:
        """Apply what is queued now, then return; for cron and for tests.

        Args:
            on_batch: Called after every batch, beside that of the worker.

        Returns:
            What was done.
        """
        items = failed = 0
        with self._connect() as conn:
            for model in self._models or _models(conn):
                while not self._stop.is_set():
                    done = self._apply(conn, model)
                    if done.oldest is None and not _queue_retries(conn, model):
                        break
                    if on_batch and done.oldest is not None:
                        on_batch(model, done)
                    items, failed = items + done.items, failed + done.failed
        return Applied(items, failed)

    def _connect(self) -> Connection:
        conn = _db.connect(self._dsn, autocommit=True)
        # The source must be read in a newer snapshot than the locks.
        conn.isolation_level = IsolationLevel.READ_COMMITTED
        return conn

    def _work(self, conn: Connection) -> None:
        while not self._stop.is_set():
            self._heartbeat(conn)
            busy = False
            self._looked = 0.0
            for model in self._models or _models(conn):
                _queue_retries(conn, model)
                busy |= self._apply(conn, model).oldest is not None
            if not busy:
                # Under a long transaction an empty queue is full of dead rows, and a
                # look at it takes long.
                pause = min(9 * self._looked, _LONGEST_PAUSE_S)
                self._stop.wait(max(self._poll_s, pause))

    def _apply(self, conn: Connection, model: str) -> Applied:
        live = self._live.setdefault(model, LiveModel(model))
        start = time.monotonic()
        try:
            done = live.apply_changes(conn, self._batch)
        except pg.ReadOnlySqlTransaction:
            raise
        except psycopg.OperationalError as exc:
            if conn.closed:
                raise
            self._put_back(model, exc)
            return Applied()
        except (RecsysError, psycopg.Error) as exc:
            if conn.closed:
                raise
            # A version was dropped between two statements, its artifacts are gone, ...:
            # the batch is in the queue again.
            self._live.pop(model, None)
            self._put_back(model, exc)
            return Applied()
        if done.oldest is None:
            self._looked += time.monotonic() - start
        self._items += done.items
        self._failed += done.failed
        if self._on_batch and done.oldest is not None:
            self._on_batch(model, done)
        return done

    def _put_back(self, model: str, exc: Exception) -> None:
        logger.warning("a batch of %s goes back to the queue: %s", model, _line(exc))
        self._stop.wait(self._poll_s)

    def _heartbeat(self, conn: Connection, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._seen_at < _HEARTBEAT_S:
            return
        self._seen_at = time.monotonic()
        conn.execute(
            "insert into recsys.worker (id, host, pid)"
            " values (%(id)s, %(host)s, %(pid)s)"
            " on conflict (id) do update set seen_at = now(),"
            " items = %(items)s, failed = %(failed)s",
            {
                "id": self.id,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "items": self._items,
                "failed": self._failed,
            },
        )

    def _say_goodbye(self) -> None:
        try:
            with self._connect() as conn:
                conn.execute("delete from recsys.worker where id = %s", (self.id,))
        except (RecsysError, psycopg.Error) as exc:
            logger.info("could not sign off: %s", _line(exc))


class _TaskRunner(threading.Thread):
    """Runs the periodic tasks on a connection of its own: changes need not wait.

    Those that may take minutes have a thread of theirs: guardrails need not wait.
    """

    def __init__(self, dsn: str, stop: threading.Event, *, slow: bool) -> None:
        super().__init__(name=f"recsys-{'slow-' if slow else ''}tasks", daemon=True)
        self._slow = slow
        self._dsn = dsn
        self._stopped = stop

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                with _db.connect(self._dsn, autocommit=True) as conn:
                    while not self._stopped.is_set():
                        tasks.plan(conn)
                        tasks.run_due(conn, slow=self._slow)
                        self._stopped.wait(1.0)
            except Exception as exc:
                # Nobody would start this thread again.
                known = isinstance(exc, (RecsysError, psycopg.Error))
                logger.warning(
                    "the tasks pause: %s", _line(exc), exc_info=None if known else exc
                )
                self._stopped.wait(5.0)


def _models(conn: Connection) -> list[str]:
    return [n for (n,) in conn.execute("select name from recsys.model order by 1")]


def _queue_retries(conn: Connection, model: str) -> int:
    """Queue the failed items whose time has come; returns how many."""
    row = conn.execute(
        "with due as (select number, item_id from recsys.item_failure"
        " where model = %(model)s and retry_at <= now()"
        " order by retry_at limit 500 for update skip locked"
        "), moved as (update recsys.item_failure as f"
        # Not again before this attempt had its chance.
        " set retry_at = now() + interval '10 minutes' from due"
        " where f.model = %(model)s and f.number = due.number"
        " and f.item_id = due.item_id returning f.item_id)"
        " select recsys._queue_items(%(model)s, array_agg(item_id)) from moved",
        {"model": model},
    ).fetchone()
    return int(row[0] or 0) if row else 0


def retry(conn: Connection, model: str, items: Sequence[str] = ()) -> int:
    """Try failed items again now, the given ones or all.

    Returns:
        How many were queued.

    Raises:
        VersionStateError: Nothing of that kind has failed.
    """
    row = conn.execute(
        "with again as (update recsys.item_failure set attempts = 0,"
        " retry_at = now() + interval '10 minutes'"
        " where model = %(model)s and (%(all)s or item_id = any(%(items)s))"
        " returning item_id)"
        " select recsys._queue_items(%(model)s, array_agg(item_id)) from again",
        {"model": model, "all": not items, "items": list(items)},
    ).fetchone()
    queued = int(row[0] or 0) if row else 0
    if not queued:
        raise VersionStateError(
            f"no failed item of model {model!r} to try again",
            hint="'select * from recsys.item_failure' shows what failed.",
        )
    return queued


def _line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__
