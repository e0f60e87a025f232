"""Read replicas: which may answer now, and never with an older version than was seen.

Once a second, on a request and without a thread, the primary is asked for its WAL
position, its clock and the model's generation, then each replica for what it has
replayed. A replica's own word is not enough: cut off from the primary, it has replayed
all that it ever received. It answers when it is at most so far behind and knows the
newest generation; every replica has a plan of its own, and the towers are shared.

While the primary does not answer nobody can be compared with it: then any replica that
answers may serve.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from time import monotonic

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from recsys import _breaker, _deadline
from recsys._db import Connection
from recsys._deadline import Deadline
from recsys._fallback import reason_of
from recsys._loaded import LoadedVersions
from recsys._own import OwnConnections
from recsys.connections import ConnectionSource
from recsys.errors import ConfigError, RecsysError

logger = logging.getLogger("recsys")

CHECK_S = 1.0
"""How often positions are compared."""
MAX_LAG_S = 5.0
_TRIED = 2
_CHECK_TIMEOUT_S = 0.25
_ALONE_S = 2.0
"""What a replica gets of a request without a budget: the primary is there as well."""
_LONGEST_PAUSE_S = 15.0

_POSITION = """
select
    pg_is_in_recovery(),
    (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
          else pg_current_wal_lsn() end - '0/0'::pg_lsn)::bigint,
    extract(epoch from clock_timestamp())::float8,
    extract(epoch from pg_last_xact_replay_timestamp())::float8,
    extract(epoch from pg_postmaster_start_time())::float8,
    coalesce((select generation from recsys.model where name = %s), 0)
"""


class Behind(RecsysError):
    """A replica answers with an older generation than this process has seen."""


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
        at: When it was asked, by ``time.monotonic``.
    """

    standby: bool
    lsn: int | None
    clock: float
    replayed: float | None
    started: float
    generation: int
    at: float = field(default_factory=monotonic)


@dataclass(slots=True, eq=False)
class Replica:
    """One read replica, as this process knows it.

    Attributes:
        name: Its host, for the log.
        source: Own connections to it.
        versions: The plan as this replica knows it.
        fresh: It may answer.
        due: When it is asked for its position again, by ``time.monotonic``.
        failures: Failed checks in a row.
    """

    name: str
    source: OwnConnections
    versions: LoadedVersions
    fresh: bool = False
    due: float = 0.0
    failures: int = 0

    def paused(self) -> float:
        """Note a failure; return the seconds until the next try."""
        self.failures += 1
        return min(_LONGEST_PAUSE_S, CHECK_S * 2 ** (self.failures - 1))


class Reads:
    """The read replicas of one model in one process; any thread may use it.

    Args:
        model: Name of the model.
        dsns: Connection strings of the replicas.
        versions: Of the primary; the towers are shared.
        max_lag_s: A replica that is further behind does not answer.
    """

    def __init__(
        self,
        model: str,
        dsns: Iterable[str],
        versions: LoadedVersions,
        max_lag_s: float = MAX_LAG_S,
    ) -> None:
        self._model = model
        self._max_lag_s = max_lag_s
        self.replicas = tuple(
            Replica(_name(dsn), OwnConnections(dsn), versions.sibling()) for dsn in dsns
        )
        self._turns = count()
        self._primary: OwnConnections | None = None
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._due = 0.0
        self._failures = 0
        self._samples: deque[Position] = deque(maxlen=120)
        self.generation = 0
        for replica in self.replicas:
            replica.fresh, replica.due, replica.failures = False, 0.0, 0

    def close(self) -> None:
        """Close the idle connections to the replicas."""
        for replica in self.replicas:
            replica.source.close()
        if self._primary is not None:
            self._primary.close()

    def fresh(self, primary: ConnectionSource) -> Iterator[Replica]:
        """Yield the replicas to ask before the primary, two at most, in turns.

        Args:
            primary: Where writes go.
        """
        if self._pid != os.getpid():
            self._reset()
        if monotonic() >= self._due:
            self._due = monotonic() + CHECK_S  # this request looks, others go on
            self._look(primary)
        found = [replica for replica in self.replicas if replica.fresh]
        first = next(self._turns) % len(found) if found else 0
        yield from (found[first:] + found[:first])[:_TRIED]

    def saw(self, generation: int) -> None:
        """Note the generation of an answer: none before it is used any more."""
        self.generation = max(self.generation, generation)

    def failed(self, replica: Replica, exc: Exception) -> None:
        """Leave a replica alone that did not answer, or not well enough."""
        if reason_of(exc) is None:
            if isinstance(exc, Behind):
                replica.fresh = False
            return
        self._stale(replica, str(exc))
        replica.due = monotonic() + replica.paused()

    def budget(self) -> Deadline:
        """Return the deadline of a replica: the primary may still have to answer."""
        deadline = _deadline.current()
        return Deadline(_ALONE_S * 1e3) if deadline is None else deadline.part(0.5, inf)

    # positions ----------------------------------------------------------------------

    def _look(self, primary: ConnectionSource) -> None:
        """Compare every replica that is due with the primary."""
        newest = self._of_primary(primary)
        positions: list[tuple[Replica, Position]] = []
        for replica in self.replicas:
            if monotonic() < replica.due:
                continue
            try:
                positions.append((replica, self._position(replica.source)))
                replica.failures = 0
            except Exception as exc:  # whatever it is, the primary can answer
                self._stale(replica, str(exc))
                replica.due = monotonic() + replica.paused()
        if newest is not None:
            self.generation = newest.generation
        elif positions:
            best = max(position.generation for _, position in positions)
            self.generation = min(self.generation, best)
        for replica, position in positions:
            lag = 0.0 if newest is None else lag_s(self._samples, position)
            if lag > self._max_lag_s:
                self._stale(replica, f"it is {lag:.1f} s behind")
            elif position.generation < self.generation:
                self._stale(replica, "it does not know the latest switch yet")
            elif not replica.fresh:
                replica.fresh = True
                logger.info("replica %s answers", replica.name)

    def _of_primary(self, primary: ConnectionSource) -> Position | None:
        if isinstance(primary, OwnConnections):
            source = primary
        else:
            # Not the application's: its transaction may be aborted or old.
            if self._primary is None:
                self._primary = OwnConnections(primary.dsn())
            source = self._primary
        try:
            found = self._position(source)
        except Exception as exc:  # a replica may serve meanwhile
            self._failures += 1
            # Its time-out is paid by a request: ask ever less often.
            pause = min(_LONGEST_PAUSE_S, CHECK_S * 2 ** (self._failures - 1))
            self._due = monotonic() + pause
            logger.warning("the primary of the replicas does not answer: %s", exc)
            return None
        self._failures = 0
        if found.standby:
            return None
        self._samples.append(found)
        return found

    def _position(self, source: OwnConnections) -> Position:
        around = _deadline.current()
        limit = (
            Deadline(_CHECK_TIMEOUT_S * 1e3)
            if around is None
            else around.part(0.25, _CHECK_TIMEOUT_S)
        )
        with (
            _deadline.until(limit),
            source.use() as conn,
            _deadline.on(conn, borrowed=False),
        ):
            return position(conn, self._model)

    def _stale(self, replica: Replica, why: str) -> None:
        if replica.fresh:
            logger.warning(
                "replica %s does not answer for now: %s",
                replica.name,
                why.strip().split("\n")[0],
            )
        replica.fresh = False


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


def lag_s(primary: Sequence[Position], replica: Position) -> float:
    """Return how far a replica is behind, in seconds; at most, where it is uncertain.

    Args:
        primary: Positions of the primary, oldest first; the last was asked for just
            before the replica's.
        replica: Its position.

    Returns:
        Infinity when it cannot be told, or the server is no standby of the primary.
    """
    newest = primary[-1]
    if not replica.standby:
        # The primary itself under another name; or a standby that was promoted.
        return 0.0 if replica.started == newest.started else inf
    if replica.lsn is None or newest.lsn is None:
        return inf
    if replica.lsn >= newest.lsn:
        return 0.0
    bounds = [inf]
    if replica.replayed is not None:
        bounds.append(max(0.0, newest.clock - replica.replayed))
    for sample in reversed(primary):
        if sample.lsn is not None and sample.lsn <= replica.lsn:
            bounds.append(replica.at - sample.at)
            break
    return min(bounds)


def breaker_of(replica: Replica) -> _breaker.Breaker:
    """Return the breaker of a replica."""
    return _breaker.of(replica.source.dsn(), f"replica {replica.name}")


def reads_of(
    versions: LoadedVersions, dsns: Iterable[str], max_lag_s: float, impressions: str
) -> Reads | None:
    """Return the replicas of a recommender, None for no replicas.

    Args:
        versions: Of the primary.
        dsns: Connection strings of the replicas.
        max_lag_s: A replica that is further behind does not answer.
        impressions: How answers are logged.

    Raises:
        ConfigError: They are no connection strings, or answers are logged with the
            connection that makes them.
    """
    listed = [dsns] if isinstance(dsns, str) else list(dsns)
    if isinstance(dsns, str) or not all(isinstance(dsn, str) for dsn in listed):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(
            f"reads must be a list of connection strings, got {type(dsns).__name__}",
            hint='Such as reads=["host=replica1 dbname=shop"].',
        )
    if not max_lag_s > 0:
        raise ConfigError(f"max_lag_s must be above 0, got {max_lag_s!r}")
    if not listed:
        return None
    if impressions == "transaction":
        raise ConfigError(
            "a replica cannot store impressions in the transaction of the answer",
            hint="With reads=..., use impressions='background'.",
        )
    return Reads(versions.model, listed, versions, max_lag_s)


def _name(dsn: str) -> str:
    try:
        params = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as exc:
        raise ConfigError(
            f"a connection string in reads is malformed: {str(exc).strip()}",
            hint="Use postgresql://user@host/database or 'host=... dbname=...'.",
        ) from exc
    parts = (params.get("host") or params.get("hostaddr"), params.get("port"))
    return ":".join(str(part) for part in parts if part) or "(local)"
