"""The plans of a request's statements, made after it: explain, never analyze.

Explaining the call of a version's function shows only the call. So the first statement
is taken out of the body of the function, and of the search the two statements that it
chooses between are written here: the nearest items by the index, and the filter with an
exact sort.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg.rows import tuple_row

from recsys import _sql, filters
from recsys._db import Connection
from recsys._index_key import index_key
from recsys._loaded import Loaded
from recsys.errors import RecsysError
from recsys.observe import Answered

_BODY = re.compile(r"\breturn query\b(.*);\s*end\s*;?\s*$", re.S)
_VECTOR = re.compile(r"'\[[^\]']*\]'")
_GENERIC_PLAN = 160_000
"""Postgres 16 explains a statement without the values of its parameters."""
_INDEX_ONLY = (
    "hnsw.iterative_scan = 'relaxed_order'",
    "enable_seqscan = off",
)
"""As in the SET clauses of the search."""


def plans(conn: Connection, event: Answered, filter_sql: str | None) -> str:
    """Return the plans of the statements that an answer ran.

    Args:
        conn: A connection in a transaction that is rolled back.
        event: The answer; ``asked`` is not None.
        filter_sql: Its filter with values, as ``filter_of`` returns it.

    Raises:
        psycopg.Error: The database does not plan them: the version is gone, the filter
            is bad, or it took longer than the statement_timeout.
    """
    if event.asked is None:
        return ""
    version = event.asked.version
    parts: list[tuple[str, Sequence[str]]] = []
    if event.channel != "similar":
        parts.append(("state", _state(conn, version, event)))
    # Without the library in the session, setting hnsw.* needs a superuser.
    conn.execute("select '[1]'::vector")
    with _set(conn, _INDEX_ONLY):
        parts.append(("candidates, by the index", _search(conn, version, event.k)))
    if filter_sql is not None:
        found = _search(conn, version, event.k, filter_sql)
        parts.append(("candidates, filter and exact sort", found))
    return "\n\n".join("\n".join((f"-- {name}", *lines)) for name, lines in parts)


def filter_of(conn: Connection, event: Answered) -> str | None:
    """Return the filter of an answer with its values as literals, None for none.

    Raises:
        RecsysError: It is no filter.
    """
    among = None if event.asked is None else event.asked.among
    if among is None:
        return None
    text = _sole_text(among)
    if text is not None:
        return text
    query = filters.normalise(among, 1)
    return None if query is None else filters.literal(conn, query)


def _sole_text(among: object) -> str | None:
    """Return the SQL of a filter that was normalised and has no parameters."""
    match among:
        case (str() as text, None):
            return text
        case _:
            return None


def _state(conn: Connection, version: Loaded, event: Answered) -> list[str]:
    """Explain the first statement as it is: planned once, whatever the values."""
    suffix, config = version.statements.suffix, version.config
    session = event.asked is not None and event.asked.history is not None
    if session:
        history = [] if event.asked is None else list(event.asked.history or ())
        given = {
            "p_items": (f"{config.item_id}[]", history),
            "p_user": (config.user_id, event.user_id),
        }
    else:
        given = {
            "p_user": (config.user_id, event.user_id),
            "p_before": ("float8", None),
        }
    name = f"recsys._{'session' if session else 'state'}_{suffix}"
    types = ", ".join(kind for kind, _ in given.values())
    with psycopg.Cursor(conn, row_factory=tuple_row) as cur:
        row = cur.execute(
            "select prosrc from pg_catalog.pg_proc where oid = %s::regprocedure",
            (f"{name}({types})",),
        ).fetchone()
    found = _BODY.search(row[0]) if row else None
    if found is None:
        return ["(the body of the function is not what was expected)"]
    body, values = found[1], list[object]()
    for argument, (kind, value) in given.items():
        # A model without user features has no use for the user of a session.
        place = f"${len(values) + 1}::{kind}"
        body, count = re.subn(rf"\b{argument}\b", place, body)
        values += [value] if count else []
    if not session and conn.info.server_version >= _GENERIC_PLAN:
        # Only the version's own source SQL: nothing of the request is in it.
        return _explain(conn, body, "generic_plan, costs")
    return _explain(conn, body, "costs", values)


def _search(
    conn: Connection, version: Loaded, k: int, filter_sql: str | None = None
) -> list[str]:
    """Explain the search: by the index, or of what a filter leaves, sorted exactly."""
    table = f"recsys.item_vector_{version.statements.suffix}"
    dim = version.tower.dim + 1
    # Any vector will do, because no plan depends on it.
    query = f"'[{','.join(['0'] * (dim - 1))},1]'::halfvec"
    key = index_key(version.config.index, version.tower.dim)
    distance = key.distance("v.embedding", query)
    where = ""
    if filter_sql is not None:
        # Adding 0 keeps the planner off the HNSW index.
        distance = f"(v.embedding <#> {query}) + 0"
        where = f" where v.item_id in ({filter_sql}\n)"
    text = (
        f"select v.item_id, {distance} from {table} as v{where}"
        f" order by {distance} limit {int(k)}"
    )
    # An empty list of values makes it one statement, whatever the filter says.
    return _explain(conn, text, "costs", ())


def _explain(
    conn: Connection,
    text: str,
    options: str,
    values: Sequence[object] | None = None,
) -> list[str]:
    with psycopg.RawCursor(conn, row_factory=tuple_row) as cur:
        cur.execute(
            _sql.trusted(f"explain ({options}) {text}"),
            values,
            binary=values is not None,
        )
        return [_VECTOR.sub("'[…]'", row[0]) for row in cur.fetchall()]


@contextmanager
def _set(conn: Connection, settings: Sequence[str]) -> Generator[None]:
    """Make settings for the length of a block, inside a transaction."""
    with conn.transaction(force_rollback=True):
        for setting in settings:
            conn.execute(_sql.trusted(f"set local {setting}"))
        yield


def say(exc: Exception) -> str:
    """Return why there is no plan, in a line."""
    if isinstance(exc, psycopg.Error):
        return (exc.diag.message_primary or str(exc)).strip().split("\n")[0]
    kind = type(exc).__name__
    return str(exc) if isinstance(exc, RecsysError) else f"{kind}: {exc}"
