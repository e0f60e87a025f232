"""What doctor says about a pooler between it and the server."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg.conninfo import conninfo_to_dict

from recsys._db import Connection
from recsys._finding import Finding

_CHECK = "pooler"
_DIRTY = """
select name from pg_catalog.pg_settings
where source = 'session'
    and (category like 'Query Tuning%%' or name like 'hnsw.%%' or name = any (%s))
union
select 'role' where current_user <> session_user and not %s
order by 1
"""
"""Settings that a session has and nobody of ours made: its former client did."""
_HURTFUL = ["statement_timeout", "lock_timeout", "default_transaction_read_only"]


def examine(conn: Connection, dsn: str) -> Iterator[Finding]:
    """Look for a pooler, and for what it does to a session.

    Args:
        conn: An autocommit connection made with ``dsn``, that has set nothing.
        dsn: Connection string.

    Yields:
        Nothing for a direct connection whose options arrived.
    """
    pooled = _pooled(conn)
    if pooled and (refused := _refused_transaction(conn)):
        yield Finding(
            _CHECK,
            "fail",
            f"it allows no transactions: {refused}",
            "Statement mode cannot be used: set pool_mode = transaction, or session.",
        )
        return
    given = _options(dsn)
    if lost := _lost(conn, given):
        yield Finding(
            _CHECK,
            "warn",
            f"options of the connection string did not arrive: {', '.join(lost)}",
            "A pooler drops them (ignore_startup_parameters): make them settings of "
            "the role or the database (alter role ... set ...).",
        )
    elif pooled and (left := _dirty(conn, given)):
        yield Finding(
            _CHECK,
            "warn",
            f"another client's settings are left on the session: {', '.join(left)}",
            "Some application says SET where it means SET LOCAL; its settings reach "
            "every client of the pool.",
        )
    elif pooled:
        yield Finding(_CHECK, "ok", "there is one, and transactions are kept whole")


def _pooled(conn: Connection) -> bool:
    """Say whether the session is another one than the login announced."""
    row = conn.execute("select pg_catalog.pg_backend_pid()").fetchone()
    return row is not None and row[0] != conn.info.backend_pid


def _refused_transaction(conn: Connection) -> str:
    try:
        with conn.transaction():
            conn.execute("select 1")
    except psycopg.Error as exc:
        return str(exc).strip().splitlines()[0]
    return ""


def _options(dsn: str) -> dict[str, str]:
    """Return the settings of ``options='-c name=value ...'``."""
    try:
        words = str(conninfo_to_dict(dsn).get("options") or "").split()
    except psycopg.ProgrammingError:
        return {}
    pairs = (word.removeprefix("-c").partition("=") for word in words)
    return {name: value for name, equals, value in pairs if equals}


def _lost(conn: Connection, given: dict[str, str]) -> list[str]:
    query = (
        "select n from unnest(%s::text[], %s::text[]) as given (n, v)"
        " where current_setting(n, true) is distinct from v"
        " and not exists (select from pg_catalog.pg_settings as s"
        " where s.name = n and s.source in ('client', 'session'))"
    )
    return [
        str(row[0])
        for row in conn.execute(query, (list(given), list(given.values()))).fetchall()
    ]


def _dirty(conn: Connection, given: dict[str, str]) -> list[str]:
    rows = conn.execute(_DIRTY, (_HURTFUL, "role" in given)).fetchall()
    return [str(row[0]) for row in rows if row[0] not in given]
