"""The transaction of an update: nobody else writes vectors of the model meanwhile.

The order is that of a worker: lock the buckets, then read the source. With all of them
locked no worker and no backfill writes a vector, and no second update is published. So
whoever computes a vector of one of these items later reads the rows as they are now;
``sync_items``, which takes no bucket, has queued its items: a worker comes after it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from psycopg import errors as pg

from recsys._db import Connection
from recsys._late import lock_out
from recsys.errors import VersionStateError
from recsys.versions import ModelVersion
from recsys.worker.apply import Follower, LiveModel

_LOCK_TIMEOUT = "20s"
"""For the buckets: workers hold them for a batch."""
_ROW_TIMEOUT = "200ms"
_ITEMS_AT_ONCE = 500
_LIVE = ("ready", "serving")


@contextmanager
def alone(conn: Connection, version: ModelVersion) -> Generator[Follower]:
    """Hold every bucket of the model in a transaction, which is committed at the end.

    Yields:
        What brings vectors of the version.

    Raises:
        VersionStateError: The version is no longer live, or the workers did not let go
            of the items.
    """
    with conn.transaction():
        _lock(conn, version)
        yield _follower(conn, version)


def _lock(conn: Connection, version: ModelVersion) -> None:
    limit = "select set_config('lock_timeout', %s, true)"
    conn.execute(limit, (_LOCK_TIMEOUT,))
    try:
        lock_out(conn, version)
    except pg.LockNotAvailable as exc:
        raise VersionStateError(
            f"the items of {version.model!r} are in work for more than {_LOCK_TIMEOUT}",
            hint="Try again; 'recsys status' shows the workers.",
        ) from exc
    conn.execute(limit, (_ROW_TIMEOUT,))


def _follower(conn: Connection, version: ModelVersion) -> Follower:
    for follower in LiveModel(version.model).followers(conn):
        if follower.version.number == version.number and not follower.indexing:
            if follower.loaded is None:
                raise VersionStateError(follower.problem)
            if follower.version.state in _LIVE:
                return follower
    raise VersionStateError(
        f"version {version.number} of {version.model!r} is no longer live",
        hint="'recsys versions' lists them.",
    )


def bring(
    conn: Connection, follower: Follower, ids: Sequence[str], max_load: float = 1.0
) -> None:
    """Bring the vectors of some items, as a worker does."""
    live = LiveModel(follower.version.model)
    for first in range(0, len(ids), _ITEMS_AT_ONCE):
        start = time.perf_counter()
        live.bring(conn, [follower], sorted(ids[first : first + _ITEMS_AT_ONCE]))
        time.sleep((time.perf_counter() - start) * (1 / max_load - 1))
