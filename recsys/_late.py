"""Bring into a version what changed while its index was built.

CREATE INDEX keeps writers out until it is done. The workers do not wait for that, or
the version that serves would wait, too: they note the items (recsys.item_gone), and the
backfill brings them afterwards. Whatever is left in the list when a phase ends is
queued.
"""

from __future__ import annotations

import time

from psycopg import errors as pg

from recsys._db import Connection
from recsys.versions import ModelVersion
from recsys.worker.apply import Follower, LiveModel, LoadedItems

_CHUNK = 500
_FEW = 100
"""So many are left to the workers."""


def lock_out(conn: Connection, version: ModelVersion) -> None:
    """Wait until every worker has ended its batch; the caller's commit lets them on."""
    conn.execute(
        "select recsys._lock_buckets(%s, %s::smallint[])",
        (version.model, list(range(64))),
    )


def queue_rest(conn: Connection, version: ModelVersion) -> None:
    """Move what is noted into the queue; the caller commits."""
    conn.execute(
        "with gone as (delete from recsys.item_gone where model = %(model)s"
        " and number = %(number)s returning item_id)"
        " select recsys._queue_items(%(model)s, array_agg(item_id)) from gone",
        {"model": version.model, "number": version.number},
    )


def catch_up(conn: Connection, version: ModelVersion, max_load: float) -> None:
    """Bring what is noted, chunk by chunk, as a worker would.

    Args:
        conn: Outside a transaction; every chunk is committed.
        version: Its index is there, and its phase still says that it is being built.
        max_load: Share of the time to work.
    """
    row = conn.execute(
        "select count(*) from recsys.item_gone where model = %s and number = %s",
        (version.model, version.number),
    ).fetchone()
    # More come meanwhile; when they come faster than they are brought, the workers, of
    # which there may be many, take over.
    chunks = 2 * (row[0] if row else 0) // _CHUNK
    follower = Follower(version, LoadedItems(conn, version), loading=False)
    conn.commit()
    for _ in range(chunks):
        start = time.perf_counter()
        try:
            if _bring_some(conn, follower) < _FEW:
                break
        except pg.QueryCanceled:
            conn.rollback()
            break  # the workers take fewer at a time
        time.sleep((time.perf_counter() - start) * (1 / max_load - 1))


def _bring_some(conn: Connection, follower: Follower) -> int:
    version = follower.version
    key = (version.model, version.number)
    ids = [
        item
        for (item,) in conn.execute(
            "select item_id from recsys.item_gone where model = %s and number = %s"
            " limit %s",
            (*key, _CHUNK),
        )
    ]
    # The order of a worker: lock, take out of the list, read the source.
    conn.execute(
        "select recsys._lock_buckets(%s, array_agg(distinct recsys._item_bucket(i)))"
        " from unnest(%s::text[]) as i",
        (version.model, ids),
    )
    conn.execute(
        "delete from recsys.item_gone where model = %s and number = %s"
        " and item_id = any(%s)",
        (*key, ids),
    )
    conn.execute("set local lock_timeout = '200ms'")
    LiveModel(version.model).bring(conn, [follower], sorted(ids))
    conn.commit()
    return len(ids)
