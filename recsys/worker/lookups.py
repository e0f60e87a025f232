"""Changed rows of joined tables: which items they concern, once all is committed."""

from __future__ import annotations

import logging
from datetime import datetime

import psycopg
from psycopg.types.json import Jsonb

from recsys import _sql
from recsys._db import Connection

logger = logging.getLogger(__name__)

_AT_ONCE = 100


def look_up(conn: Connection, model: str) -> datetime | None:
    """Queue the items of changed rows of joined tables.

    The trigger has queued those that its transaction saw. An item that another
    transaction brought to the row at the same time may have been applied with the row
    as it was; now both are committed, and the look-up sees the one in the other.

    Args:
        conn: A connection outside any transaction, READ COMMITTED.
        model: Name of the model.

    Returns:
        When the oldest of them changed; None when there was nothing to look up, or
        it could not be done now: the changes that are queued do not wait for it.
    """
    try:
        return _look_up(conn, model)
    except psycopg.Error as exc:
        if conn.closed:
            raise
        logger.warning("changed rows of joined tables of %s wait: %s", model, exc)
        return None


def _look_up(conn: Connection, model: str) -> datetime | None:
    with conn.transaction():
        conn.execute("set local lock_timeout = '200ms'")
        # Taken first: the look-up needs a snapshot that sees what they stand for.
        taken = conn.execute(
            "delete from recsys.item_lookup where id = any (array("
            "select id from recsys.item_lookup where model = %s order by id limit %s"
            " for update skip locked)) returning source, keys, changed_at",
            (model, _AT_ONCE),
        ).fetchall()
        if not taken:
            return None
        row = conn.execute(
            "select lookups from recsys.capture where model = %s", (model,)
        ).fetchone()
        queries: dict[str, str] = row[0] if row else {}
        for source, keys, changed_at in taken:
            try:
                with conn.transaction():
                    conn.execute(
                        _sql.trusted(_statement(source, queries[source])),
                        (Jsonb(keys), model, changed_at),
                    )
            except (KeyError, psycopg.Error) as exc:
                if conn.closed:
                    raise
                # Such as a domain that refuses the columns that were not captured.
                logger.warning(
                    "the items of changed rows of %s cannot be found, so every item of"
                    " %s is queued: %s", source, model, exc,
                )  # fmt: skip
                conn.execute(
                    "insert into recsys.item_change (model, bucket, item_id)"
                    " values (%s, 0, null)",
                    (model,),
                )
    return min(changed_at for *_, changed_at in taken)


def _statement(source: str, query: str) -> str:
    return (
        "with changed as (select * from"
        f" jsonb_populate_recordset(null::{_sql.escaped(source)}, %s))"
        " insert into recsys.item_change (model, bucket, item_id, changed_at)"
        " select %s, recsys._item_bucket(found.item_id), found.item_id, %s from"
        f" (select distinct mapped.item_id::text as item_id from ({_sql.escaped(query)}"
        "\n) as mapped(item_id)) as found where found.item_id is not null"
    )
