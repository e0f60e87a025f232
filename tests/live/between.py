"""Do something just before a certain statement: interleavings without luck."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from scene import Scene

from recsys import _load

COMMIT = "-- commit"
"""Stands for the end of a transaction block that went well."""


class Died(BaseException):
    """The process is gone: no handler of the product may catch it."""


@contextmanager
def before(
    pattern: str, action: Callable[[], object], *, nth: int = 1
) -> Iterator[None]:
    """Run ``action`` once, before the nth statement that contains ``pattern``."""
    seen = 0

    def look(conn: Any, statement: str) -> None:
        nonlocal seen
        seen += pattern in statement
        if seen == nth and pattern in statement:
            action()

    with _watched(look):
        yield
    assert seen >= nth, f"no statement {nth} contains {pattern!r}"


@contextmanager
def after(pattern: str, action: Callable[[], object]) -> Iterator[None]:
    """Run ``action`` once, before the commit that follows such a statement."""
    seen: list[Any] = []

    def look(conn: Any, statement: str) -> None:
        if pattern in statement:
            seen.append(conn)
        elif statement == COMMIT and seen == [conn]:
            seen.append(None)
            action()

    with _watched(look):
        yield
    assert len(seen) == 2, f"no commit follows {pattern!r}"


@contextmanager
def last_chunk(
    scene: Scene, action: Callable[[], object], *, unseen: bool = False
) -> Iterator[None]:
    """Run ``action`` when a backfill has read item 900 and has not written it yet.

    The item comes while the index is built, so that no later pass looks again;
    unseen by the triggers, it has never been queued.
    """
    insert = "insert into product (id, title, shelf) values (900, 'blue shirt', 1)"
    if unseen:
        insert = f"set session_replication_role = replica; {insert}"
    store, waiting = _load._store, [action]

    def stored(conn: Any, encoder: Any, buckets: Any, encoded: Any, read: int) -> int:
        if 900 in encoded.ids and waiting:
            waiting.pop()()
        return store(conn, encoder, buckets, encoded, read)

    with (
        before("create index", lambda: scene.run(insert)),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(_load, "_store", stored)
        yield
    assert not waiting


@contextmanager
def death_at(n: int) -> Iterator[Callable[[], int]]:
    """End the connection and the caller before the nth statement or commit.

    Yields:
        How many statements there were.
    """
    count = 0

    def look(conn: psycopg.Connection[Any], statement: str) -> None:
        nonlocal count
        count += 1
        if count == n:
            conn.pgconn.finish()
            raise Died(statement)

    with _watched(look):
        yield lambda: count


@contextmanager
def _watched(look: Callable[[Any, str], None]) -> Iterator[None]:
    busy = False

    def called(conn: Any, statement: str) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            look(conn, statement)
        finally:
            busy = False

    def wrap(method: Any) -> Any:
        def wrapped(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            called(cursor.connection, _text(query))
            return method(cursor, query, *args, **kwargs)

        return wrapped

    def leave(method: Any) -> Any:
        def wrapped(block: Any, kind: Any, *args: Any) -> Any:
            if kind is None:
                called(block._conn, COMMIT)
            return method(block, kind, *args)

        return wrapped

    def commit(method: Any) -> Any:
        def wrapped(conn: Any) -> Any:
            called(conn, COMMIT)
            return method(conn)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for owner, name, wrapper in (
            (psycopg.Cursor, "execute", wrap),
            (psycopg.Cursor, "copy", wrap),
            (psycopg.ServerCursor, "execute", wrap),
            (psycopg.Transaction, "__exit__", leave),
            (psycopg.Connection, "commit", commit),
        ):
            patch.setattr(owner, name, wrapper(getattr(owner, name)))
        yield


def _text(query: Any) -> str:
    if isinstance(query, bytes):
        return query.decode()
    return query.as_string(None) if isinstance(query, sql.Composable) else str(query)
