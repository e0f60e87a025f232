"""Publishing an update and undoing it: each is one transaction.

The order is that of a worker: lock the buckets, then read the source. With all of them
locked no worker and no backfill writes a vector, and no second update is published. So
whoever computes a vector of one of these items later reads the rows as they are now;
``sync_items``, which takes no bucket, has queued its items: a worker comes after it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import errors as pg
from psycopg.types.json import Jsonb

from recsys import _db, _sql, artifacts, embeddings
from recsys._db import Connection, HalfvecArray
from recsys.errors import VersionStateError
from recsys.types import ItemId
from recsys.updates.objective import Float32
from recsys.versions import ModelVersion
from recsys.worker.apply import Follower, LiveModel

_LOCK_TIMEOUT = "20s"
"""For the buckets: workers hold them for a batch."""
_ROW_TIMEOUT = "200ms"
_ITEMS_AT_ONCE = 500
_MOST_RECORDS = 1_000
_LIVE = ("ready", "serving")


@dataclass(frozen=True, slots=True)
class Position:
    """Where the updates of a version stand.

    Attributes:
        last: Number of the newest update, 0 before the first.
        undone: How many were undone.
        until: Time of the newest interaction that was trained on, the full training
            included; None: unknown.
        refused: Time of the newest interaction of a refused update, where that is the
            newest update.
    """

    last: int
    undone: int
    until: datetime | None
    refused: datetime | None


@dataclass(frozen=True, slots=True)
class Record:
    """One update on its way into ``recsys.id_update``.

    Attributes:
        state: "published" or "refused".
        began_at: When it began.
        since: Beginning of the time that was read.
        until: Time of the newest interaction that was read.
        read: Interactions that were new.
        trained: Of them, those that were learned from.
        left_out: The others, by reason.
        metrics: Quality before the update; see the table.
        reason: Why it was refused.
    """

    state: str
    began_at: datetime
    since: datetime
    until: datetime
    read: int
    trained: int
    left_out: Mapping[str, int]
    metrics: Mapping[str, Any]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class NewRows:
    """ID rows to publish.

    Attributes:
        ids: Item ids, shape (U,).
        served: Served rows, shape (U, d).
        history: History-side rows, shape (U, d).
    """

    ids: list[ItemId]
    served: Float32
    history: Float32


def position(conn: Connection, version: ModelVersion) -> Position:
    """Read where the updates of a version stand."""
    row = conn.execute(
        "select coalesce(max(u.id), 0), count(*) filter (where u.state = 'undone'),"
        " max(u.until) filter (where u.state <> 'refused'),"
        " (array_agg(u.until order by u.id desc)"
        " filter (where u.id = newest.id and u.state = 'refused'))[1]"
        " from recsys.id_update as u, (select max(id) as id from recsys.id_update"
        " where model = %(model)s and number = %(number)s) as newest"
        " where u.model = %(model)s and u.number = %(number)s",
        {"model": version.model, "number": version.number},
    ).fetchone()
    last, undone, until, refused = row or (0, 0, None, None)
    if until is None:
        trained = version.spec.get("trained_until")
        until = datetime.fromisoformat(trained) if trained else None
    return Position(last, undone, until, refused)


def record_refusal(conn: Connection, version: ModelVersion, record: Record) -> None:
    """Write down an update that is not published."""
    with conn.transaction():
        _insert(conn, version, record, 0)


def publish(
    conn: Connection,
    version: ModelVersion,
    began: Position,
    rows: NewRows,
    record: Record,
    *,
    hashes: NDArray[np.int64],
    times: NDArray[np.float64],
    overlap_s: float,
    keep: int,
    max_load: float = 1.0,
) -> int:
    """Write the rows that differ, and the vectors that follow from them.

    Args:
        conn: Outside a transaction, READ COMMITTED; one is made and committed.
        version: The version.
        began: Where its updates stood when this one read the rows.
        rows: The new rows.
        record: What to write down.
        hashes: Of the interactions that were read, shape (n,).
        times: Their times in seconds since 1970, shape (n,).
        overlap_s: For how long they are kept to be known again.
        keep: Updates whose previous rows are kept.
        max_load: Share of the time to work, above 0 to 1.

    Returns:
        ID rows written.

    Raises:
        VersionStateError: The version is no longer live, another update came in
            between, or the workers did not let go of the items.
    """
    with _alone(conn, version) as follower:
        _check_unchanged(conn, version, began)
        changed = _changed(conn, version, rows)
        update = _insert(conn, version, record, len(changed.ids))
        _remember(conn, version, update, changed.ids)
        _write(conn, version, changed, _halfvec_oid(conn))
        _bring(conn, follower, [str(item) for item in changed.ids], max_load)
        _know(conn, version, record.until, hashes, times, overlap_s)
        _forget(conn, version, keep)
    return len(changed.ids)


def undo(
    conn: Connection, version: ModelVersion, updates: int = 1, reason: str = ""
) -> list[int]:
    """Bring back the rows before the newest published updates, newest first.

    The interactions they were trained on stay known: the next update does not learn
    from them again, the next full update does.

    Returns:
        The updates that were undone.

    Raises:
        VersionStateError: There are fewer whose previous rows are kept.
    """
    done: list[int] = []
    with _alone(conn, version) as follower:
        touched: set[str] = set()
        for _ in range(updates):
            row = conn.execute(
                "select u.id from recsys.id_update as u where u.model = %s"
                " and u.number = %s and u.state = 'published'"
                " order by u.id desc limit 1",
                (version.model, version.number),
            ).fetchone()
            kept = (
                row
                and conn.execute(
                    "select changed = (select count(*) from recsys.id_update_row as r"
                    " where r.update_id = u.id)"
                    " from recsys.id_update as u where u.id = %s",
                    (row[0],),
                ).fetchone()
            )
            if not row or not kept or not kept[0]:
                raise VersionStateError(
                    f"version {version.number} of {version.model!r} has no"
                    f"{' further' if done else ''} update that can be undone",
                    hint="'recsys updates' lists them; --all goes back to the rows"
                    " as they were trained.",
                )
            touched.update(_restore(conn, version, row[0]))
            _mark_undone(conn, [row[0]], reason)
            done.append(row[0])
        _bring(conn, follower, sorted(touched), 1.0)
    return done


def undo_all(conn: Connection, version: ModelVersion, reason: str = "") -> list[int]:
    """Bring back the rows as they were trained, from the version's artifact.

    Returns:
        The updates that were undone.
    """
    learned = embeddings.unpack(
        artifacts.get(conn, version.artifacts["embeddings"]),
        version.config.item_id,
        version.config.train.dim,
    )
    with _alone(conn, version) as follower:
        published = [
            i
            for (i,) in conn.execute(
                "select id from recsys.id_update where model = %s and number = %s"
                " and state = 'published' order by id desc",
                (version.model, version.number),
            )
        ]
        trained = NewRows(
            list(learned.item_ids),
            learned.served.astype(np.float32),
            learned.history.astype(np.float32),
        )
        changed = _changed(conn, version, trained)
        _write(conn, version, changed, _halfvec_oid(conn))
        id_type = version.config.item_id
        added = conn.execute(
            _sql.trusted(
                f"delete from recsys.id_embedding_{version.suffix}"
                f" where not item_id = any(%s::{id_type}[]) returning item_id::text"
            ),
            (trained.ids,),
        ).fetchall()
        _mark_undone(conn, published, reason)
        ids = [str(item) for item in changed.ids] + [item for (item,) in added]
        _bring(conn, follower, ids, 1.0)
    return published


class _alone:
    """A transaction that holds every bucket of the model, with the version in it."""

    def __init__(self, conn: Connection, version: ModelVersion) -> None:
        self._conn = conn
        self._version = version
        self._transaction = conn.transaction()

    def __enter__(self) -> Follower:
        self._transaction.__enter__()
        try:
            return self._enter()
        except BaseException as exc:
            self._transaction.__exit__(type(exc), exc, exc.__traceback__)
            raise

    def _enter(self) -> Follower:
        conn, version = self._conn, self._version
        limit = "select set_config('lock_timeout', %s, true)"
        conn.execute(limit, (_LOCK_TIMEOUT,))
        try:
            conn.execute(
                "select recsys._lock_buckets(%s, %s::smallint[])",
                (version.model, list(range(64))),
            )
        except pg.LockNotAvailable as exc:
            raise VersionStateError(
                f"the items of {version.model!r} are in work for more than"
                f" {_LOCK_TIMEOUT}",
                hint="Try again; 'recsys status' shows the workers.",
            ) from exc
        conn.execute(limit, (_ROW_TIMEOUT,))
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

    def __exit__(self, *exc: Any) -> bool | None:
        return self._transaction.__exit__(*exc)


def _check_unchanged(conn: Connection, version: ModelVersion, began: Position) -> None:
    now = position(conn, version)
    if (now.last, now.undone) != (began.last, began.undone):
        raise VersionStateError(
            f"another update of version {version.number} of {version.model!r} was"
            " published or undone meanwhile",
            hint="Nothing was written; the next one begins from there.",
        )


def _changed(conn: Connection, version: ModelVersion, rows: NewRows) -> NewRows:
    """Return the rows that differ from those stored, as halfvec holds them."""
    id_type, dim = version.config.item_id, version.config.train.dim
    with _db.binary_cursor(conn) as cur:
        stored = cur.execute(
            _sql.trusted(
                "select given.place, halfvec_send(e.served), halfvec_send(e.history)"
                f" from unnest(%s::{id_type}[])"
                " with ordinality as given(item_id, place)"
                f" join recsys.id_embedding_{version.suffix} as e using (item_id)"
            ),
            (rows.ids,),
        ).fetchall()
    at = np.array([row[0] for row in stored], np.int64) - 1
    same = np.ones(len(at), np.bool_)
    for side, now in ((1, rows.served), (2, rows.history)):
        before = _db.unpack_halfvecs(b"".join(row[side] for row in stored), dim)
        same &= (before == now[at].astype(np.float16)).all(1)
    differs = np.ones(len(rows.ids), np.bool_)
    differs[at[same]] = False
    keep = np.flatnonzero(differs)
    return NewRows([rows.ids[i] for i in keep], rows.served[keep], rows.history[keep])


def _insert(
    conn: Connection, version: ModelVersion, record: Record, changed: int
) -> int:
    row = conn.execute(
        "insert into recsys.id_update (model, number, state, began_at, since, until,"
        " read, trained, left_out, changed, metrics, reason)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning id",
        (
            version.model,
            version.number,
            record.state,
            record.began_at,
            record.since,
            record.until,
            record.read,
            record.trained,
            Jsonb(dict(record.left_out)),
            changed,
            Jsonb(dict(record.metrics)),
            record.reason,
        ),
    ).fetchone()
    return int(row[0]) if row else 0


def _remember(
    conn: Connection, version: ModelVersion, update: int, ids: Sequence[ItemId]
) -> None:
    """Keep the rows as they are before the update."""
    id_type = version.config.item_id
    conn.execute(
        _sql.trusted(
            "insert into recsys.id_update_row (update_id, item_id, served, history)"
            " select %s, given.item_id::text, e.served, e.history"
            f" from unnest(%s::{id_type}[]) as given(item_id)"
            f" left join recsys.id_embedding_{version.suffix} as e using (item_id)"
        ),
        (update, list(ids)),
    )


def _write(
    conn: Connection, version: ModelVersion, rows: NewRows, halfvec: int
) -> None:
    if not rows.ids:
        return
    statement = _sql.trusted(
        f"insert into recsys.id_embedding_{version.suffix} as e"
        " (item_id, served, history, bias)"
        # Without a popularity of its own an item has that of a cold one.
        " select given.*, 'NaN'::real"
        f" from unnest(%s::{version.config.item_id}[], %s::halfvec[], %s::halfvec[])"
        " as given on conflict (item_id) do update"
        " set served = excluded.served, history = excluded.history"
    )
    with _db.binary_cursor(conn) as cur:
        cur.execute(
            statement,
            (
                rows.ids,
                HalfvecArray(rows.served, halfvec),
                HalfvecArray(rows.history, halfvec),
            ),
        )


def _restore(conn: Connection, version: ModelVersion, update: int) -> list[str]:
    """Put the rows back as they were before an update; returns their ids."""
    id_type, suffix = version.config.item_id, version.suffix
    conn.execute(
        _sql.trusted(
            f"update recsys.id_embedding_{suffix} as e"
            " set served = r.served, history = r.history"
            " from recsys.id_update_row as r where r.update_id = %s"
            f" and r.served is not null and e.item_id = r.item_id::{id_type}"
        ),
        (update,),
    )
    conn.execute(
        _sql.trusted(
            f"delete from recsys.id_embedding_{suffix} as e"
            " using recsys.id_update_row as r where r.update_id = %s"
            f" and r.served is null and e.item_id = r.item_id::{id_type}"
        ),
        (update,),
    )
    return [
        item
        for (item,) in conn.execute(
            "delete from recsys.id_update_row where update_id = %s returning item_id",
            (update,),
        )
    ]


def _mark_undone(conn: Connection, updates: list[int], reason: str) -> None:
    conn.execute(
        "update recsys.id_update set state = 'undone', reason = %s where id = any(%s)",
        (reason or None, updates),
    )
    conn.execute(
        "delete from recsys.id_update_row where update_id = any(%s)", (updates,)
    )


def _bring(
    conn: Connection, follower: Follower, ids: Sequence[str], max_load: float
) -> None:
    """Bring the vectors of some items, as a worker does."""
    live = LiveModel(follower.version.model)
    for first in range(0, len(ids), _ITEMS_AT_ONCE):
        start = time.perf_counter()
        live.bring(conn, [follower], sorted(ids[first : first + _ITEMS_AT_ONCE]))
        time.sleep((time.perf_counter() - start) * (1 / max_load - 1))


def _know(
    conn: Connection,
    version: ModelVersion,
    until: datetime,
    hashes: NDArray[np.int64],
    times: NDArray[np.float64],
    overlap_s: float,
) -> None:
    """Keep what the next update will read again; forget what it will not."""
    horizon = until - timedelta(seconds=overlap_s)
    conn.execute(
        "delete from recsys.id_update_seen where model = %s and number = %s"
        " and occurred_at < %s",
        (version.model, version.number, horizon),
    )
    recent = times >= horizon.timestamp() - 1e-3
    conn.execute(
        "insert into recsys.id_update_seen (model, number, hash, occurred_at)"
        " select %s, %s, h, to_timestamp(t) from unnest(%s::bigint[], %s::float8[])"
        " as given(h, t) on conflict do nothing",
        (
            version.model,
            version.number,
            _db.BigintArray(hashes[recent].tolist()),
            times[recent].tolist(),
        ),
    )


def _forget(conn: Connection, version: ModelVersion, keep: int) -> None:
    """Bound what is kept of former updates."""
    key = {"model": version.model, "number": version.number}
    newest = (
        "select id from recsys.id_update"
        " where model = %(model)s and number = %(number)s"
    )
    conn.execute(
        "delete from recsys.id_update_row where update_id in ("
        f"{newest} and state = 'published' order by id desc offset %(keep)s)".encode(),
        {**key, "keep": keep},
    )
    conn.execute(
        "delete from recsys.id_update where id in"
        f" ({newest} order by id desc offset %(most)s)".encode(),
        {**key, "most": _MOST_RECORDS},
    )


def _halfvec_oid(conn: Connection) -> int:
    row = conn.execute("select 'halfvec'::regtype::oid").fetchone()
    return int(row[0]) if row else 0
