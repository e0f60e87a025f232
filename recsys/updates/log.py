"""What is written down of updates: the table ``recsys.id_update`` and what it read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from recsys import _db
from recsys._db import Connection
from recsys.versions import ModelVersion

_MOST_RECORDS = 1_000


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


def write(conn: Connection, version: ModelVersion, record: Record, changed: int) -> int:
    """Write down an update; returns its number."""
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


def know(
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


def published(conn: Connection, version: ModelVersion) -> list[int]:
    """Return the updates that are published and not undone, newest first."""
    rows = conn.execute(
        "select id from recsys.id_update where model = %s and number = %s"
        " and state = 'published' order by id desc",
        (version.model, version.number),
    )
    return [update for (update,) in rows]


def is_whole(conn: Connection, update: int) -> bool:
    """Whether all rows from before an update are kept."""
    row = conn.execute(
        "select changed = (select count(*) from recsys.id_update_row as r"
        " where r.update_id = u.id) from recsys.id_update as u where u.id = %s",
        (update,),
    ).fetchone()
    return bool(row and row[0])


def mark_undone(conn: Connection, updates: list[int], reason: str) -> None:
    """Say of updates that they are undone, and forget the rows before them."""
    conn.execute(
        "update recsys.id_update set state = 'undone', reason = %s where id = any(%s)",
        (reason or None, updates),
    )
    conn.execute(
        "delete from recsys.id_update_row where update_id = any(%s)", (updates,)
    )


def forget(conn: Connection, version: ModelVersion, keep: int) -> None:
    """Bound what is kept of former updates.

    Args:
        conn: An open connection.
        version: The version.
        keep: Published updates that can be undone. Their records stay, however many
            were refused since, and so does the latest that was learned from: it says
            until when, also when it is undone.
    """
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
        "delete from recsys.id_update"
        f" where id in ({newest} order by id desc offset %(most)s)"
        f" and id not in ({newest} and state = 'published'"
        " order by id desc limit %(keep)s)"
        f" and id not in ({newest} and state <> 'refused'"
        " order by until desc nulls last limit 1)".encode(),
        {**key, "most": _MOST_RECORDS, "keep": keep},
    )
