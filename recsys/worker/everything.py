"""Queue every item of a model: after a TRUNCATE, or when changes may be missing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors as pg

from recsys import _sql
from recsys._db import Connection

if TYPE_CHECKING:
    from recsys.worker.apply import Follower

logger = logging.getLogger(__name__)


def queue_everything(
    conn: Connection, model: str, followers: Sequence[Follower]
) -> None:
    """Queue every item that a source or a version knows.

    A version with a broken source does not hold up the others: what is known of it is
    queued, and each of those items says what is wrong.
    """
    parts = {f.version.config.items.sql: f"version {f.version.number}'s source"
             for f in followers}  # fmt: skip
    parts |= {f"select item_id from recsys.item_vector_{f.version.suffix}": "vectors"
              for f in followers}  # fmt: skip
    if parts and _queue(conn, model, parts) is not None:
        # One by one: an item may be queued twice, none is left out.
        for part, name in parts.items():
            error = _queue(conn, model, [part])
            if error is not None:
                logger.warning(
                    "new items of %s are not queued, %s fails: %s", model, name, error
                )
    conn.execute(
        "update recsys.capture set reconciled_at = now() where model = %s", (model,)
    )


def _queue(
    conn: Connection, model: str, sources: Sequence[str] | dict[str, str]
) -> psycopg.Error | None:
    """Queue the items of some queries together; returns the error that prevents it."""
    union = " union ".join(
        f"select item_id::text from ({source}\n) as s" for source in sorted(sources)
    )
    try:
        with conn.transaction():
            conn.execute(
                _sql.trusted(
                    "insert into recsys.item_change (model, bucket, item_id) select"
                    f" {_sql.literal(model)}, recsys._item_bucket(item_id), item_id"
                    f" from ({union}) as every_item where item_id is not null"
                )
            )
    except psycopg.Error as exc:
        # Locks, deadlocks, a full disk pass: the marker goes back to the queue.
        passing = isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
        if passing and not isinstance(exc, pg.QueryCanceled | pg.ProgramLimitExceeded):
            raise
        return exc
    return None
