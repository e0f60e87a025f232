"""The application's own SQL: its columns, and errors that name the source."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from recsys import _sql
from recsys._db import Connection
from recsys.config import ModelConfig
from recsys.errors import SourceError

_OPTIONAL = ("occurred_at", "kind")


@contextmanager
def source_errors(which: str) -> Generator[None]:
    """Say which source failed, with Postgres's own words."""
    try:
        yield
    except (psycopg.ProgrammingError, psycopg.DataError) as exc:
        raise SourceError(
            f"{which}.sql fails: {exc.diag.message_primary}",
            hint=exc.diag.message_hint
            or f"Run {which}.sql of recsys.toml by hand, as this role.",
        ) from exc


def interaction_columns(conn: Connection, config: ModelConfig) -> list[str]:
    """Return which optional columns the interaction source has.

    Raises:
        SourceError: The SQL fails, or a required column is missing.
    """
    with source_errors("interactions"):
        cursor = conn.execute(
            _sql.trusted(
                f"select * from ({config.interactions.sql}\n) as source limit 0"
            )
        )
    names = [column.name for column in cursor.description or ()]
    conn.rollback()
    wanted = ["user_id", "item_id", *(f.name for f in config.context.features)]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise SourceError(
            f"interactions.sql returns no column {', '.join(absent)}",
            hint=f"It returns {', '.join(names)}: rename with 'as'.",
        )
    return [name for name in _OPTIONAL if name in names]
