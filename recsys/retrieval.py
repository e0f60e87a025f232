"""The statements of a request, as functions on a connection.

They run the functions that each model version brought with its tables
(sql/model/state.sql, sql/model/search.sql); the caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import errors as pg
from psycopg.rows import tuple_row

from recsys import _sql, filters
from recsys._db import (
    NOT_PREPARED,
    BigintArray,
    Connection,
    Halfvec,
    binary_cursor,
    callers_fault,
)
from recsys.assignment import Plan, experiment_from_json
from recsys.config import IdType, ModelConfig
from recsys.errors import (
    DatabaseUnavailable,
    SourceError,
    VersionStateError,
)
from recsys.ids import collation
from recsys.types import ItemId, UserId

RISERS = 200
"""Items that rose most today and are candidates of every search without a filter."""
MORE = 20
"""Candidates beside the k nearest, for what rises into the page from behind."""
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


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL of one model version, written once when it is loaded."""

    suffix: str
    state: bytes
    session: bytes
    direction: bytes
    search: bytes
    candidates: bytes
    bigint: bool
    fresh: bytes | None = None
    interests: bytes = b""
    candidates_each: bytes = b""

    def array(self, ids: Sequence[ItemId]) -> BigintArray | list[ItemId]:
        """Return item ids as they go to the server; their type is checked before."""
        if self.bigint:
            with suppress(TypeError, OverflowError):
                return BigintArray(ids)
        return list(ids)


def statements(
    suffix: str, config: ModelConfig, number: int | None = None
) -> Statements:
    """Return the statements of a version; ``suffix`` and the types are checked.

    Args:
        suffix: Of the version's objects.
        config: Its configuration.
        number: Its number, where its answers follow the trend of the day.
    """
    item, user = config.item_id, config.user_id
    more = "".join(f", {name}" for name in more_columns(config))
    return Statements(
        suffix=suffix,
        state=_sql.trusted(
            f"select generation, seen, weights, history, features{more}"
            f" from recsys._state_{suffix}(%s::{user}, %s::float8)"
        ),
        session=_sql.trusted(
            f"select generation, seen, weights, history, features{more}"
            f" from recsys._session_{suffix}(%s::{item}[], %s::{user})"
        ),
        direction=_sql.trusted(
            "select m.generation, (select halfvec_send(recsys._direction(embedding))"
            f" from recsys.item_vector_{suffix} where item_id = %s::{item})"
            f" from recsys.model as m where m.name = '{config.name}'"
        ),
        search=_sql.trusted(
            f"select item_ids, scores from recsys._search_{suffix}"
            f"(%s::halfvec, %s::integer, %s::{item}[], %s::integer)"
        ),
        candidates=_sql.trusted(
            f"select {', '.join(Seen._fields)} from {_candidates(suffix, item, '%s')}"
        ),
        bigint=item == "bigint",
        fresh=None if number is None else _fresh(suffix, config, number),
        interests=_interests(suffix, item),
        candidates_each=_sql.trusted(
            f"select {', '.join(f'c.{name}' for name in Seen._fields)}"
            f" from {_QUERIES_OF} lateral {_candidates(suffix, item, 'q.query')} as c"
            " order by q.place"
        ),
    )


_QUERIES_OF = "unnest(array[@queries@]) with ordinality as q(query, place),"
"""The queries of a request as a table; ``_of`` writes as many as there are."""


def _of(text: bytes, count: int) -> bytes:
    return text.replace(b"@queries@", b", ".join([b"%s::halfvec"] * count))


def _candidates(suffix: str, item: IdType, query: str) -> str:
    return (
        f"recsys._candidates('{suffix}', {query}::halfvec,"
        + f" %s::{item}[]," * 5
        + " %s::integer, %s::integer, %s::integer, %s::boolean, %s::text,"
        " %s::real, %s::text, %s::integer, %s::integer, %s::text, %s::text,"
        " %s::boolean)"
    )


def _interests(suffix: str, item: IdType) -> bytes:
    """Return the search of several queries: one page, each sure of some places.

    The best items of every interest come first, however they score; what is left is
    filled by score. ``_interests.merge`` is the same in Python.
    """
    order = f"p.score desc, p.item_id{collation(item)}"
    return _sql.trusted(
        f"with found as (select n.item_id, n.score, n.place from {_QUERIES_OF}"
        f" lateral recsys._search_{suffix}"
        f"(q.query, %s::integer, %s::{item}[], %s::integer) as s,"
        " lateral unnest(s.item_ids, s.scores) with ordinality"
        " as n(item_id, score, place)),"
        " item as (select f.item_id, max(f.score) as score,"
        " bool_or(f.place <= %s::integer) as sure from found as f group by f.item_id),"
        " page as (select i.item_id, i.score from item as i"
        f" order by i.sure desc, i.score desc, i.item_id{collation(item)}"
        " limit %s::integer)"
        f" select coalesce(array_agg(p.item_id order by {order}), '{{}}'),"
        f" coalesce(array_agg(p.score order by {order}), '{{}}') from page as p"
    )


def _fresh(suffix: str, config: ModelConfig, number: int) -> bytes:
    """Return the search that adds what today's interactions are worth.

    Candidates are the nearest, some more than wanted, and what rose most: a riser may
    be far behind. Without anything that rose it is the search as it is.
    """
    item = config.item_id
    # The trend's ids are "C", those of the vectors not: their index wants its own.
    native = ' collate "default"' if item == "text" else ""
    # What nobody has measured for a day is no news: the workers are down.
    mine = (
        f"t.model = '{config.name}' and t.number = {number}"
        " and t.measured_at > now() - interval '1 day'"
    )
    return _sql.trusted(
        "with risen as materialized (select t.item_id, t.delta from recsys.item_trend"
        f" as t where {mine} order by t.delta desc limit {RISERS}),"
        " asked as materialized (select %s::halfvec as query, %s::integer as k,"
        f" %s::{item}[] as exclude, %s::integer as ef, %s::real as weight),"
        " found as (select n.item_id, n.score from asked,"
        f" recsys._search_{suffix}(asked.query, asked.k + case when exists"
        f" (select from risen) then {MORE} else 0 end, asked.exclude, asked.ef) as s,"
        " unnest(s.item_ids, s.scores) as n(item_id, score)"
        " union all select v.item_id, (-(v.embedding <#> asked.query))::real"
        f" from asked, risen join recsys.item_vector_{suffix} as v"
        f" on v.item_id = risen.item_id::{item}{native}"
        " where v.item_id <> all (array_remove(asked.exclude, null))),"
        " best as (select f.item_id, (max(f.score) + asked.weight"
        " * coalesce(max(t.delta), 0))::real as score from asked, found as f"
        f" left join recsys.item_trend as t on {mine} and t.item_id = f.item_id::text"
        " group by f.item_id, asked.weight, asked.k"
        f" order by 2 desc, f.item_id{collation(item)} limit (select k from asked))"
        f" select coalesce(array_agg(b.item_id order by b.score desc,"
        f" b.item_id{collation(item)}), '{{}}'),"
        f" coalesce(array_agg(b.score order by b.score desc,"
        f" b.item_id{collation(item)}), '{{}}') from best as b"
    )


def more_columns(config: ModelConfig) -> tuple[str, ...]:
    """Return what the state functions of a version have beside the usual columns."""
    if config.query.clustered:
        return ("ages", "kinds", "vectors")
    return ("ages", "kinds") if config.query.sequential else ()


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
    ids = sql.array(exclude)
    text, parameters = sql.search, [query, k, ids, ef_search]
    if sql.fresh is not None and weight:
        text, parameters = sql.fresh, [*parameters, weight]
    with binary_cursor(conn) as cur, _explained(sql.suffix, "", ""):
        row = cur.execute(text, parameters).fetchone()
    return (row[0], row[1]) if row else ([], [])


class Look(NamedTuple):
    """What one call of recsys._candidates looks for; see its header."""

    query: Halfvec
    exclude: list[ItemId]
    named: list[ItemId]
    pinned: list[ItemId]
    never: list[ItemId]
    buried: list[ItemId]
    wish: int
    ef_search: int | None
    first: int | None
    whole: bool
    among: str | None
    min_score: float | None
    keys: str | None
    at_most: int | None
    places: int
    amounts: str | None
    times: str | None
    vectors: bool


class Seen(NamedTuple):
    """What recsys._candidates returns; see its header."""

    item_ids: list[ItemId]
    scores: list[float]
    key_ids: list[ItemId] | None
    keys: list[str | None] | None
    amount_ids: list[ItemId] | None
    amounts: list[float | None] | None
    time_ids: list[ItemId] | None
    times: list[float | None] | None
    vectors: bytes | None
    at: float | None
    stage: str
    scanned: int
    needed: int | None


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
        row = cur.execute(_of(sql.interests, len(queries)), values).fetchone()
    return (row[0], row[1]) if row else ([], [])


def candidates_each(
    conn: Connection, sql: Statements, queries: Sequence[Halfvec], look: Look
) -> list[Seen]:
    """Return the candidates of several queries, by one statement.

    Raises:
        SourceError: A query of the application fails.
    """
    values = (*queries, sql.array(look.exclude), *look[2:])
    text = _of(sql.candidates_each, len(queries))
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
