"""What a source reads, as Postgres records it for a view over the source."""

from __future__ import annotations

from typing import Any

from recsys import _sql
from recsys._db import Connection
from recsys._source import source_errors


def used_columns(conn: Connection, source: str) -> dict[str, dict[str, str]]:
    """Return the tables that a query reads, through views, and the columns of each.

    Returns:
        Qualified name -> column -> type.

    Source:
        sql/capture/used_columns.sql
    """
    used: dict[str, dict[str, str]] = {}
    for table, column, type_name in _of_view(conn, source, "used_columns"):
        used.setdefault(table, {})
        if column is not None:
            used[table][column] = type_name
    return used


def functions_read(conn: Connection, source: str) -> list[str]:
    """Return a sentence for every function that a query calls and that may read.

    Source:
        sql/capture/functions_read.sql
    """
    return [
        f"the item source calls {name}(): what it reads is not captured"
        for (name,) in _of_view(conn, source, "functions_read")
    ]


def _of_view(conn: Connection, source: str, question: str) -> list[tuple[Any, ...]]:
    with source_errors("items"), conn.transaction(force_rollback=True):
        conn.execute(
            _sql.trusted(
                f"create temp view recsys_source as select * from ({source}\n) s"
            )
        )
        return conn.execute(
            _sql.trusted(_sql.read(f"capture/{question}.sql"))
        ).fetchall()
