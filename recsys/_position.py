"""How far a server is: its WAL position, its clock, its generation of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from time import monotonic

from psycopg.rows import tuple_row

from recsys._db import Connection

_POSITION = """
select
    pg_is_in_recovery(),
    (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
          else pg_current_wal_lsn() end - '0/0'::pg_lsn)::bigint,
    extract(epoch from clock_timestamp())::float8,
    extract(epoch from pg_last_xact_replay_timestamp())::float8,
    extract(epoch from pg_postmaster_start_time())::float8,
    coalesce(m.generation, 0),
    concat_ws(
        '/', d.oid, m.created_at,
        case when not pg_is_in_recovery()
            then left(pg_walfile_name(pg_current_wal_lsn()), 8) end)
from pg_catalog.pg_database as d
left join recsys.model as m on m.name = %s
where d.datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class Position:
    """What one server says of itself.

    Attributes:
        standby: It replays the WAL of another one.
        lsn: WAL replayed, or written, in bytes; None when it cannot be told.
        clock: Its time.
        replayed: Time of the last commit it replayed, by the primary's clock.
        started: When it was started: tells servers apart.
        generation: Of the model.
        identity: Of the primary: its database, model and timeline. Generations of two
            identities are not comparable.
        at: When it was asked, by ``time.monotonic``.
    """

    standby: bool
    lsn: int | None
    clock: float
    replayed: float | None
    started: float
    generation: int
    identity: str
    at: float = field(default_factory=monotonic)


def position(conn: Connection, model: str) -> Position:
    """Ask a server how far it is.

    Args:
        conn: An open connection.
        model: Name of the model.
    """
    with conn.cursor(row_factory=tuple_row) as cur:
        row = cur.execute(_POSITION, (model,)).fetchone()
    assert row is not None
    return Position(*row)


def lag_s(
    primary: Sequence[Position], replica: Position, *, compared: bool = True
) -> float:
    """Return how far a replica is behind, in seconds; at most, where it is uncertain.

    Args:
        primary: Positions of the primary, oldest first.
        replica: Its position.
        compared: The primary's last one was asked for just before the replica's. Else
            the primary may have written anything since.

    Returns:
        Infinity when it cannot be told, or the server is no standby of the primary.
    """
    if not primary:
        return inf
    newest = primary[-1]
    since = 0.0 if compared else max(0.0, replica.at - newest.at)
    if not replica.standby:
        # The primary itself under another name; or a standby that was promoted.
        return 0.0 if replica.started == newest.started else inf
    if replica.lsn is None or newest.lsn is None:
        return inf
    if replica.lsn >= newest.lsn:
        return since
    bounds = [inf]
    if replica.replayed is not None:
        bounds.append(max(0.0, newest.clock - replica.replayed) + since)
    for sample in reversed(primary):
        if sample.lsn is not None and sample.lsn <= replica.lsn:
            bounds.append(replica.at - sample.at)
            break
    return min(bounds)
