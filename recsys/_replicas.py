"""Read replicas: which may answer now, and never with an older version than was seen.

Once a second, on a request and without a thread, the primary is asked for its WAL
position, its clock and the model's generation, then each replica for what it has
replayed. A replica's own word is not enough: cut off from the primary, it has replayed
all that it ever received. It answers when it is at most so far behind and knows the
newest generation; every replica has a plan of its own, and the towers are shared.

While the primary does not answer, what a replica lacks grows with the time since it was
last compared, and past the bound it serves no more. Once the primary is known to be
down, late replicas serve all the same, and their pages say so; never with an older
generation than this process has seen.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from math import inf
from time import monotonic

import psycopg
from psycopg.conninfo import conninfo_to_dict

from recsys import _breaker, _deadline
from recsys._deadline import Deadline
from recsys._loaded import LoadedVersions
from recsys._own import ConnectionLost, OwnConnections
from recsys._position import Position, lag_s, position
from recsys._reason import reason_of
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
"""Of a replica that fails; the primary is asked every second, to see it come back."""
_DOWN_AFTER = 3
"""Failed looks in a row after which the primary counts as down."""
_SAMPLES = 120

LATE = "stale replica"
"""``degraded`` of a page that a replica made which may be behind its bound."""


class Behind(RecsysError):
    """A replica answers with an older generation than this process has seen."""


@dataclass(slots=True, eq=False)
class Replica:
    """One read replica, as this process knows it.

    Attributes:
        name: Its host, for the log.
        source: Own connections to it.
        versions: The plan as this replica knows it.
        fresh: It may answer.
        late: It knows every switch, but may be further behind than its bound: it may
            answer once the primary is down.
        due: When it is asked for its position again, by ``time.monotonic``.
        failures: Failed checks in a row.
    """

    name: str
    source: OwnConnections
    versions: LoadedVersions
    fresh: bool = False
    late: bool = False
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
        self._refused = False
        # Replaced, never changed: other threads read it meanwhile.
        self._samples: tuple[Position, ...] = ()
        # Appended to by any thread; one assignment could undo another's.
        self._seen = [0]
        for replica in self.replicas:
            replica.fresh = replica.late = False
            replica.due, replica.failures = 0.0, 0

    @property
    def generation(self) -> int:
        """Return the newest generation that this process has seen."""
        return max(self._seen)

    @property
    def down(self) -> bool:
        """Say whether the primary is known not to answer, not only slow for once."""
        return self._refused or self._failures >= _DOWN_AFTER

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
        if not found and self.down:
            found = [replica for replica in self.replicas if replica.late]
        first = next(self._turns) % len(found) if found else 0
        yield from (found[first:] + found[:first])[:_TRIED]

    def saw(self, generation: int) -> None:
        """Note the generation of an answer: none before it is used any more."""
        if generation > self.generation:
            self._seen.append(generation)

    def heard(self) -> None:
        """Note that the primary answered a request, whatever became of the looks."""
        if self.down:
            logger.warning("the primary of the replicas answers again")
        if self._failures:
            self._failures, self._refused = 0, False

    def failed(self, replica: Replica, exc: Exception) -> None:
        """Leave a replica alone that did not answer, or not well enough."""
        if reason_of(exc) is None:
            if isinstance(exc, Behind):
                replica.fresh = replica.late = False
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
        for replica in self.replicas:
            if monotonic() < replica.due:
                continue
            try:
                found = self._position(replica.source)
            except (psycopg.Error, RecsysError) as exc:
                self._stale(replica, str(exc))
                replica.due = monotonic() + replica.paused()
            else:
                replica.failures = 0
                self._judge(replica, found, newest is not None)

    def _judge(self, replica: Replica, found: Position, compared: bool) -> None:
        """Say whether a replica may answer.

        Args:
            replica: The replica.
            found: Its position.
            compared: The primary was asked just before. Else its last position counts,
                and the time since then is added to the lag.
        """
        if found.generation < self.generation:
            self._stale(replica, "it does not know the latest switch yet")
            return
        lag = lag_s(self._samples, found, compared=compared)
        if lag > self._max_lag_s:
            why = f"it is {lag:.1f} s behind" if lag < inf else "its lag is unknown"
            self._stale(replica, why)
            replica.late = True
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
            try:
                found = self._position(source)
            except ConnectionLost:  # an idle one; whether a new one can be had tells
                found = self._position(source)
        except (psycopg.Error, RecsysError) as exc:
            before = self.down
            self._failures += 1
            self._refused = _is_refusal(exc)
            if self.down and not before:
                said = str(exc).strip().split("\n")[0]
                logger.warning("the primary of the replicas does not answer: %s", said)
            return None
        self.heard()
        if found.standby:
            return None
        self._sampled(found)
        return found

    def _sampled(self, found: Position) -> None:
        """Keep a position of the primary."""
        samples = self._samples
        if samples and samples[-1].identity != found.identity:
            # Created anew, or another server took over: what it says is what holds.
            logger.warning("the primary of the replicas is another one")
            self._samples = (found,)
            self._seen = [found.generation]
            return
        self._samples = (*samples[1 - _SAMPLES :], found)
        self.saw(found.generation)

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
        replica.fresh = replica.late = False


def _is_refusal(exc: Exception) -> bool:
    """Say whether nobody listens; in a language not known here, failures are counted.

    libpq gives no code, and a server that has no room for one more refuses as well.
    """
    refused = "refused" in str(exc) or "No such file" in str(exc)
    return refused and not isinstance(exc, TimeoutError)


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
