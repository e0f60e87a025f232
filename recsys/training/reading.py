"""Statements over the sources: their columns, rows in batches, errors that help."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

from recsys.config import Feature, IdType
from recsys.encoder.values import projection
from recsys.errors import SourceError
from recsys.progress import Stage

_Connection = psycopg.Connection[Any]
_Row = tuple[Any, ...]

_ID_TYPES: dict[IdType, tuple[str, ...]] = {
    "bigint": ("int2", "int4", "int8"),
    "uuid": ("uuid",),
    "text": ("text", "varchar", "bpchar", "name"),
}


def stream(
    conn: _Connection, what: str, query: sql.Composed, size: int, stage: Stage
) -> Generator[list[_Row]]:
    """Yield batches of rows from a binary server-side cursor."""
    with (
        errors_of(what),
        conn.cursor(name="recsys_training", binary=True) as cursor,
    ):
        cursor.execute(query)
        while rows := cursor.fetchmany(size):
            yield rows
            stage.advance(len(rows))


def column_types(
    conn: _Connection, what: str, source: str, wanted: Sequence[str]
) -> dict[str, str]:
    """Return the type name of each column of a source.

    Raises:
        SourceError: It fails, or lacks a wanted column.
    """
    with errors_of(what):
        cursor = conn.execute(
            sql.SQL("select s.* from {} limit 0").format(source_table(source))
        )
    types: dict[str, str] = {}
    for column in cursor.description or ():
        known = conn.adapters.types.get(column.type_code)
        types[column.name] = known.name if known else f"oid {column.type_code}"
    missing = [name for name in wanted if name not in types]
    if missing:
        raise SourceError(
            f"{what} returns no column {', '.join(missing)}",
            hint=f"It returns: {', '.join(types) or 'nothing'}.",
        )
    return types


def id_column(
    what: str, name: str, types: Mapping[str, str], wanted: IdType
) -> sql.Composed:
    """Return the expression that reads an id, after a look at its type."""
    if types[name] not in _ID_TYPES[wanted]:
        raise SourceError(
            f"{name} of {what} is of type {types[name]}, but recsys.toml says {wanted}",
            hint=f"Set {name} in recsys.toml, or select {name}::{wanted} in the SQL.",
        )
    return sql.SQL("s.{}::{} as {}").format(
        sql.Identifier(name), sql.SQL(wanted), sql.Identifier(name)
    )


def feature_columns(features: Sequence[Feature]) -> sql.SQL:
    """Return the features as the tail of a select list."""
    # Column names were checked when recsys.toml was read.
    text = f", {projection(features, 's')}" if features else ""
    return sql.SQL(cast(LiteralString, text))


def source_table(source: str) -> sql.SQL:
    """Return a source as the table ``s``; it may end in a comment."""
    return sql.SQL(cast(LiteralString, f"(\n{source}\n) s"))


@contextmanager
def errors_of(what: str) -> Generator[None]:
    """Turn errors of the source's SQL into ours; lost connections stay as they are."""
    try:
        yield
    except psycopg.OperationalError:
        raise
    except psycopg.Error as exc:
        detail = exc.diag.message_primary or str(exc)
        raise SourceError(
            f"{what} fails: {detail}",
            hint=exc.diag.message_hint
            or "Run the statement in psql to find the place.",
        ) from exc
