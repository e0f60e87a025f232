"""Errors of the application's own SQL, said with the name of the source."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from recsys.errors import SourceError


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
