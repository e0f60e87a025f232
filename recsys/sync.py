"""sync_items: make changed items visible inside the application's own transaction."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from recsys._db import Connection
from recsys._own import savepoint
from recsys._wording import counted
from recsys.config import IdType
from recsys.errors import (
    ConfigError,
    DatabaseUnavailable,
    RecsysError,
    UnknownModel,
)
from recsys.ids import check_id
from recsys.types import ItemId
from recsys.worker.apply import LiveModel

logger = logging.getLogger(__name__)

_LOCK_TIMEOUT = "200ms"
_TRIGGERS = (
    "select from recsys.capture as c where c.model = %s and c.enabled and exists"
    " (select from pg_catalog.pg_trigger as t join pg_catalog.pg_proc as p"
    " on p.oid = t.tgfoid where p.pronamespace = 'recsys'::regnamespace"
    " and p.proname ~ ('^_capture__' || c.model || '__[0-9a-f]{8}$')"
    " and t.tgparentid = 0 and t.tgenabled in ('O', 'A'))"
)
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
        ConfigError: No model was named, and there are several; or an argument is not
            a connection or not a collection of ids of the model's item type.
        DatabaseUnavailable: The queue is locked, and no trigger queues the items
            instead: roll back and try again.

    Example:
        >>> with conn.transaction():
        ...     conn.execute("update product set title = 'Red shirt' where id = 42")
        ...     sync_items(conn, [42])
        True
    """
    given = _checked(conn, item_ids)
    with _plain(conn):
        return _sync(conn, given, model)


def _checked(conn: object, item_ids: object) -> list[object]:
    """Refuse what the types already say is wrong, before a database error says it."""
    if not isinstance(conn, psycopg.Connection):
        raise ConfigError(
            f"conn must be a psycopg connection, got {type(conn).__name__}",
            hint="Pass the connection whose transaction changed the items.",
        )
    if isinstance(item_ids, str | bytes) or not isinstance(item_ids, Iterable):
        raise ConfigError(
            f"item_ids must be a collection of ids, got {type(item_ids).__name__}",
            hint="For one item: sync_items(conn, [item_id]).",
        )
    return list(cast("Iterable[object]", item_ids))


def _sync(conn: Connection, given: list[object], model: str | None) -> bool:
    with _inside(conn), conn.cursor() as cur:
        name, item_type = _named(cur, model)
    for item in given:
        check_id("item_ids", item, item_type)
    ids = sorted({str(item) for item in given})
    if not _queued(conn, name, ids):
        return False
    info = conn.info
    key = (os.getpid(), info.host, info.port, info.dbname, name)
    try:
        with _inside(conn), conn.cursor() as cur, _short_waits(cur):
            # A text that is new would take the application's time: the worker's.
            _live.setdefault(key, LiveModel(name, run_encoders=False)).sync(conn, ids)
    except (RecsysError, psycopg.DatabaseError, ArithmeticError, ValueError) as exc:
        if conn.closed:
            raise
        logger.warning("%s left to the worker: %s", _many(ids, name), exc)
        _live.pop(key, None)
        return False
    return True


def _queued(conn: Connection, model: str, ids: list[str]) -> bool:
    """Queue the items, in a statement of its own: it stays when the rest is undone.

    Returns:
        False when the queue is locked and triggers have seen the changes anyway.

    Raises:
        DatabaseUnavailable: It is locked, and there are no triggers.
    """
    try:
        with _inside(conn), conn.cursor() as cur, _short_waits(cur):
            cur.execute("select recsys._queue_items(%s, %s)", (model, ids))
    except pg.LockNotAvailable as exc:
        with _inside(conn), conn.cursor() as cur:
            cur.execute(_TRIGGERS, (model,))
            if cur.fetchone() is None:
                raise DatabaseUnavailable(
                    f"the queue of changed items of model {model!r} is locked",
                    hint="Roll back and try again: nothing else would tell a worker"
                    " of these items.",
                ) from exc
        logger.warning("%s left to the triggers", _many(ids, model))
        return False
    return True


@contextmanager
def _short_waits(cur: psycopg.Cursor[tuple[str]]) -> Generator[None]:
    """Bound the waits for locks; an error undoes the setting with its savepoint."""
    row = cur.execute("select current_setting('lock_timeout')").fetchone()
    before = row[0] if row else "0"
    limit = "select set_config('lock_timeout', %s, true)"
    cur.execute(limit, (_LOCK_TIMEOUT,))
    yield
    cur.execute(limit, (before,))


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


def _named(
    cur: psycopg.Cursor[tuple[str, IdType]], model: str | None
) -> tuple[str, IdType]:
    names = dict(
        cur.execute(
            "select name, item_type from recsys.model where name = %(model)s"
            " or %(model)s::text is null",
            {"model": model},
        ).fetchall()
    )
    if not names:
        raise UnknownModel(f"no model named {model!r} is registered")
    if len(names) > 1:
        raise ConfigError(
            f"there are several models: {', '.join(sorted(names))}",
            hint="Name one: sync_items(conn, ids, model=...).",
        )
    return names.popitem()


def _many(ids: list[str], model: str) -> str:
    return counted(len(ids), f"item of {model} is", f"items of {model} are")
