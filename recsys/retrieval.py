"""The statements of a request, as functions on a connection.

They run the functions that each model version brought with its tables
(sql/model/state.sql, sql/model/search.sql); the caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import errors as pg
from psycopg.rows import tuple_row

from recsys import _sql, filters
from recsys._db import (
    NOT_PREPARED,
    Connection,
    Halfvec,
    binary_cursor,
    callers_fault,
)
from recsys._request_sql import Look, Seen, Statements, of
from recsys.assignment import Plan, experiment_from_json
from recsys.config import ModelConfig
from recsys.errors import (
    DatabaseUnavailable,
    SourceError,
    VersionStateError,
)
from recsys.types import ItemId, UserId

ABSENT = (pg.UndefinedTable, pg.UndefinedFunction, pg.InvalidSchemaName)
"""What Postgres says of objects that are not there."""


class VersionGone(VersionStateError):
    """The version was dropped a moment ago; a newer generation is committed."""


Found = tuple[Sequence[ItemId], Sequence[float]]


class Registered(NamedTuple):
    """What a request process must know of a version."""

    spec: Mapping[str, Any]
    artifacts: Mapping[str, str]
    ef_search: int
    recall_curve: Sequence[tuple[int, float]]


class State(NamedTuple):
    """What the state function returns, in one snapshot."""

    generation: int
    seen: Sequence[ItemId]
    weights: Sequence[float]
    history: bytes | None
    features: Mapping[str, object] | None
    ages: Sequence[float] | None = None
    kinds: Sequence[int] | None = None
    vectors: bytes | None = None


def plan(conn: Connection, model: str) -> Plan | None:
    """Return who serves whom and the generation, or None for an unknown model."""
    with conn.cursor(row_factory=tuple_row) as cur:
        row = cur.execute(
            "select generation, base, candidate, percent, salt, experiment"
            " from recsys._plan(%s)",
            (model,),
        ).fetchone()
    if row is None:
        return None
    generation, base, candidate, percent, salt, experiment = row
    return Plan(
        generation=generation,
        base=base,
        candidate=candidate,
        percent=float(percent or 0),
        salt=salt,
        experiment=experiment_from_json(experiment),
    )


def registered(conn: Connection, model: str, number: int) -> Registered | None:
    """Return a version as requests need it, or None when it was dropped."""
    with conn.cursor(row_factory=tuple_row) as cur:
        row = cur.execute(
            "select spec, artifacts, coalesce(ef_search, 100),"
            " coalesce(recall_curve, '[]')"
            " from recsys.model_version where model = %s and number = %s",
            (model, number),
        ).fetchone()
    return Registered(*row) if row else None


def state(
    conn: Connection,
    sql: Statements,
    user_id: UserId | None,
    history: Sequence[ItemId] | None,
    before: datetime | None = None,
) -> State | None:
    """Read generation, history rows and features of a user or a session.

    Returns:
        None when the model was removed.
    """
    with (
        binary_cursor(conn) as cur,
        _explained(sql.suffix, "the interaction or user source fails", _READ_SOURCES),
    ):
        if history is not None:
            cur.execute(sql.session, (sql.array(history), user_id))
        else:
            seconds = before.timestamp() if before else None
            cur.execute(sql.state, (user_id, seconds))
        row = cur.fetchone()
    if row is None:
        return None
    generation, seen, weights, packed, features, *more = row
    return State(generation, seen or [], weights or [], packed, features, *more)


def direction(
    conn: Connection, sql: Statements, item_id: ItemId
) -> tuple[int, bytes | None] | None:
    """Return the generation and an item's vector as a query for similar items."""
    with (
        binary_cursor(conn) as cur,
        _explained(sql.suffix, "the item's vector cannot be read", _READ_SOURCES),
    ):
        return cur.execute(sql.direction, (item_id,)).fetchone()


def search(
    conn: Connection,
    sql: Statements,
    query: Halfvec,
    k: int,
    exclude: Sequence[ItemId],
    ef_search: int,
    weight: float = 0.0,
) -> Found:
    """Return the k nearest items and their scores, best first.

    Args:
        conn: An open connection.
        sql: Of the version.
        query: Query vector.
        k: List length.
        exclude: Items left out.
        ef_search: Candidates of the index.
        weight: What the trend of the day counts: the query's popularity dimension, or
            0 for what the index holds.
    """
    asked = [query, k, sql.array(exclude), ef_search]
    found = _nearest(conn, sql, sql.search, sql.fresh, asked, weight)
    return (found[0], found[1]) if found else ([], [])


def pool(
    conn: Connection,
    sql: Statements,
    query: Halfvec,
    count: int,
    exclude: Sequence[ItemId],
    ef_search: int,
    weight: float = 0.0,
) -> tuple[Sequence[ItemId], Sequence[float], bytes | None]:
    """Return what ``search`` does, of ``count`` items, and their vectors, packed."""
    asked = [query, count, sql.array(exclude), ef_search]
    found = _nearest(conn, sql, sql.pool, sql.fresh_pool, asked, weight)
    return (found[0], found[1], found[2]) if found else ([], [], None)


def _nearest(
    conn: Connection,
    sql: Statements,
    text: bytes,
    fresh: bytes | None,
    asked: list[Any],
    weight: float,
) -> tuple[Any, ...] | None:
    if fresh is not None and weight:
        text, asked = fresh, [*asked, weight]
    with binary_cursor(conn) as cur, _explained(sql.suffix, "", ""):
        return cur.execute(text, asked).fetchone()


def interests(
    conn: Connection,
    sql: Statements,
    queries: Sequence[Halfvec],
    k: int,
    exclude: Sequence[ItemId],
    ef_search: int,
    sure: int,
) -> Found:
    """Return the page of several queries, by one statement.

    Args:
        conn: An open connection.
        sql: Of the version.
        queries: Query vectors.
        k: List length.
        exclude: Items left out.
        ef_search: Candidates of the index for each query.
        sure: Places that the best items of each query are sure of.
    """
    values = (*queries, k, sql.array(exclude), ef_search, sure, k)
    with binary_cursor(conn) as cur, _explained(sql.suffix, "", ""):
        row = cur.execute(of(sql.interests, len(queries)), values).fetchone()
    return (row[0], row[1]) if row else ([], [])


def candidates_each(
    conn: Connection, sql: Statements, queries: Sequence[Halfvec], look: Look
) -> list[Seen]:
    """Return the candidates of several queries, by one statement.

    Raises:
        SourceError: A query of the application fails.
    """
    values = (*queries, sql.array(look.exclude), *look[2:])
    text = of(sql.candidates_each, len(queries))
    with binary_cursor(conn) as cur, _explained(sql.suffix, "", ""):
        return [Seen(*row) for row in cur.execute(text, values).fetchall()]


def candidates(conn: Connection, sql: Statements, look: Look) -> Seen:
    """Return the candidates of a request that asks for more than the nearest items.

    Raises:
        SourceError: A query of the application fails.
    """
    with binary_cursor(conn) as cur, _explained(sql.suffix, "", ""):
        values = (look.query, sql.array(look.exclude), *look[2:])
        row = cur.execute(sql.candidates, values).fetchone()
    assert row is not None
    return Seen(*row)


_QUERIES = (
    ("max(f.time::", "the query 'rules.fresh.times' fails", 2),
    ("sum(f.amount::", "the query 'boost' fails", 2),
    ("min(f.key::", "the query 'rules.per' fails", 2),
    ("_candidates(", "the filter 'among' fails", 1),
)
"""What shows which of the application's queries recsys._candidates was running."""


def _blamed(exc: psycopg.Error, what: str, hint: str) -> tuple[str, str]:
    """Return which query failed, and what it should look like."""
    ran = f"{exc.diag.internal_query or ''}\n{exc.diag.context or ''}"
    for mark, name, columns in _QUERIES:
        if mark in ran:
            return name, filters.place(columns)
    return what or "the search fails", hint or _READ_SOURCES


_READ_SOURCES = (
    "'recsys doctor' checks the sources; this role must be able to read them."
)


@contextmanager
def _explained(suffix: str, what: str, hint: str) -> Generator[None]:
    """Tell a version that is gone, a search_path without pgvector and a bad source."""
    try:
        yield
    except psycopg.DatabaseError as exc:
        if isinstance(exc, NOT_PREPARED) or not callers_fault(exc):
            raise  # the connection's affair, or the database's
        message = exc.diag.message_primary or str(exc)
        # A filter may name a table that never was; that is no dropped version.
        ours = f"_{suffix}" in message or "recsys.model" in message
        if isinstance(exc, pg.InvalidSchemaName) or (isinstance(exc, ABSENT) and ours):
            raise VersionGone(message) from exc
        undefined = isinstance(exc, pg.UndefinedObject | pg.UndefinedFunction)
        if undefined and ("halfvec" in message or "vector" in message):
            raise DatabaseUnavailable(
                f"pgvector is not on this connection's search_path: {message}",
                hint="alter role ... set search_path = public, <schema of pgvector>;",
            ) from exc
        what, hint = _blamed(exc, what, hint)
        raise SourceError(f"{what}: {message}", hint=hint) from exc


def generation(conn: Connection, model: str) -> int | None:
    """Return the model's generation; None when the model was removed."""
    with binary_cursor(conn) as cur:
        row = cur.execute(
            "select generation from recsys.model where name = %s", (model,)
        ).fetchone()
    return row[0] if row else None


def record(
    conn: Connection,
    config: ModelConfig,
    *,
    user_id: UserId,
    item_id: ItemId,
    kind: str,
    occurred_at: datetime,
    request_id: UUID | None,
) -> None:
    """Store one interaction by the model's own statement, or in recsys.interaction."""
    values = {
        "user_id": user_id,
        "item_id": item_id,
        "kind": kind,
        "occurred_at": occurred_at,
        "request_id": request_id,
    }
    if config.interactions.record:
        conn.execute(_sql.trusted(config.interactions.record), values)
        return
    conn.execute(
        "insert into recsys.interaction"
        " (model, user_id, item_id, kind, occurred_at, request_id) values"
        " (%(model)s, %(user_id)s, %(item_id)s, %(kind)s, %(occurred_at)s,"
        " %(request_id)s)",
        {
            **values,
            "model": config.name,
            "user_id": str(user_id),
            "item_id": str(item_id),
        },
    )
