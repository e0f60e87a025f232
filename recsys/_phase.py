"""How far the backfill of a version is: what 'recsys status' shows."""

from __future__ import annotations

from recsys._db import Connection
from recsys.versions import ModelVersion


def begin(
    conn: Connection, version: ModelVersion, phase: str, total: int | None = None
) -> None:
    """Begin a phase, of ``total`` rows where they are counted; commits."""
    conn.execute(
        "update recsys.model_version set phase = %s, rows_done = 0,"
        " rows_total = %s, phase_started_at = clock_timestamp(), error = null"
        " where model = %s and number = %s",
        (phase, total, version.model, version.number),
    )
    conn.commit()


def advance(conn: Connection, version: ModelVersion, rows: int) -> None:
    """Count rows as done, in the caller's transaction."""
    conn.execute(
        "update recsys.model_version set rows_done = rows_done + %s"
        " where model = %s and number = %s",
        (rows, version.model, version.number),
    )
