"""sync_items: make changed items visible inside the application's own transaction."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from recsys._db import Connection
from recsys._own import savepoint
from recsys.errors import ConfigError, RecsysError, UnknownModel
from recsys.types import ItemId
from recsys.worker.apply import LiveModel

logger = logging.getLogger(__name__)

_LOCK_TIMEOUT = "200ms"
_live: dict[tuple[object, ...], LiveModel] = {}
"""By process, because a tower made before a fork is not used after it, and database."""


def sync_items(
    conn: Connection, item_ids: Iterable[ItemId], *, model: str | None = None
) -> bool:
    """Bring items into every live version now, as part of the caller's transaction.

    What the transaction changed becomes visible with its vectors, in one commit. The
    items are also queued: a worker confirms them after the commit, so that nothing
    depends on this call. It never fails the transaction and never waits longer than
    200 ms for a lock; where it cannot do it now, the worker does it.

    Args:
        conn: The application's connection; nothing is committed, no setting stays
            behind. Its role must be a member of recsys_trainer to write vectors.
        item_ids: The changed items: inserted, updated and deleted ones.
        model: Name of the model; None when there is only one.

    Returns:
        Whether the vectors are up to date in this transaction; False leaves that to
        the worker.

    Raises:
        UnknownModel: There is no such model.
        ConfigError: No model was named, and there are several.

    Example:
        >>> with conn.transaction():
        ...     conn.execute("update product set title = 'Red shirt' where id = 42")
        ...     sync_items(conn, [42])
        True
    """
    ids = sorted({str(item) for item in item_ids})
    with _plain(conn):
        return _sync(conn, ids, model)


def _sync(conn: Connection, ids: list[str], model: str | None) -> bool:
    with _inside(conn), conn.cursor() as cur:
        name = _named(cur, model)
        # A statement of its own: it must stay when the rest is undone.
        cur.execute("select recsys._queue_items(%s, %s)", (name, ids))
    info = conn.info
    key = (os.getpid(), info.host, info.port, info.dbname, name)
    try:
        with _inside(conn), conn.cursor() as cur:
            row = cur.execute("select current_setting('lock_timeout')").fetchone()
            before = row[0] if row else "0"
            limit = "select set_config('lock_timeout', %s, true)"
            cur.execute(limit, (_LOCK_TIMEOUT,))
            _live.setdefault(key, LiveModel(name)).sync(conn, ids)
            cur.execute(limit, (before,))
    except (RecsysError, psycopg.DatabaseError, ArithmeticError, ValueError) as exc:
        if conn.closed:
            raise
        logger.warning("%d items of %s are left to the worker: %s", len(ids), name, exc)
        _live.pop(key, None)
        return False
    return True


@contextmanager
def _plain(conn: Connection) -> Generator[None]:
    """Plain cursors with rows as tuples, whatever the application prefers."""
    rows, cursors = conn.row_factory, conn.cursor_factory
    conn.row_factory, conn.cursor_factory = tuple_row, psycopg.Cursor
    try:
        yield
    finally:
        conn.row_factory, conn.cursor_factory = rows, cursors


def _inside(conn: Connection) -> AbstractContextManager[object]:
    """A savepoint, or a transaction of its own on an idle autocommit connection."""
    if conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE:
        return conn.transaction()
    return savepoint(conn)


def _named(cur: psycopg.Cursor[tuple[str]], model: str | None) -> str:
    names = [
        name
        for (name,) in cur.execute(
            "select name from recsys.model where name = %(model)s"
            " or %(model)s::text is null",
            {"model": model},
        )
    ]
    if not names:
        raise UnknownModel(f"no model named {model!r} is registered")
    if len(names) > 1:
        raise ConfigError(
            f"there are several models: {', '.join(sorted(names))}",
            hint="Name one: sync_items(conn, ids, model=...).",
        )
    return names[0]
