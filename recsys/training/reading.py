"""Statements over the sources: rows in batches, features as columns."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

from recsys._columns import errors_of
from recsys.config import Feature
from recsys.encoder.values import projection
from recsys.progress import Stage

FETCH_ROWS = 50_000
"""A batch, where rows have no features."""

_Connection = psycopg.Connection[Any]
_Row = tuple[Any, ...]


def stream(
    conn: _Connection,
    what: str,
    query: sql.Composed,
    stage: Stage,
    size: int | None = None,
) -> Generator[list[_Row]]:
    """Yield batches of rows from a binary server-side cursor; default FETCH_ROWS."""
    with (
        errors_of(what),
        conn.cursor(name="recsys_training", binary=True) as cursor,
    ):
        cursor.execute(query)
        while rows := cursor.fetchmany(size or FETCH_ROWS):
            yield rows
            stage.advance(len(rows))


def feature_columns(features: Sequence[Feature]) -> sql.SQL:
    """Return the features as the tail of a select list."""
    # Column names were checked when recsys.toml was read.
    text = f", {projection(features, 's')}" if features else ""
    return sql.SQL(cast(LiteralString, text))
