"""Ask one version for one answer, whole: retries, savepoints, log and observers.

Around it the budget: past its deadline, on an error of the database, or while the
breaker is open, the fallback answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TypeVar
from uuid import uuid4

import psycopg

from recsys import _breaker, _candidates, _deadline, observe, retrieval, schema
from recsys._breaker import Breaker
from recsys._db import Connection
from recsys._deadline import Deadline
from recsys._entry import Entry
from recsys._fallback import (
    POPULAR_K,
    POPULAR_MOST_S,
    Memory,
    Plea,
    popular_query,
)
from recsys._loaded import LoadedVersions, Turn
from recsys._own import ConnectionLost, OwnConnections, savepoint
from recsys._reason import Reason, check_session, reason_of
from recsys._replicas import LATE, Behind, Reads, breaker_of
from recsys._wanted import Wanted
from recsys.connections import ConnectionSource
from recsys.errors import ConfigError, DatabaseUnavailable, RecsysError
from recsys.impressions import ImpressionLog, NotLogged
from recsys.types import Page, Recommendation

logger = logging.getLogger("recsys")

_T = TypeVar("_T")
_ATTEMPTS = 4
_SAY_EVERY_S = 60.0
_LEAST_S = 0.005
"""With less time left popular items are not begun with."""

Ask = Callable[[Connection, Turn, observe.Stopwatch], _T | None]
"""Gives an answer, or None when the generation differs from the turn's."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What one process knows of one model; recommenders on it share it.

    Attributes:
        model: Name of the model.
        versions: The plan and the towers.
        impressions: Where answers are logged.
        fallback: Answer from memory when the database does not; else raise.
        memory: What the fallback answers.
        breaker: Of the application's connections; own ones have one per database.
        reads: Replicas that answer before the primary, or None.
        said: When each reason for a fallback was logged last.
    """

    model: str
    versions: LoadedVersions
    impressions: ImpressionLog
    fallback: bool = True
    memory: Memory = field(default_factory=Memory)
    breaker: Breaker = field(default_factory=Breaker)
    reads: Reads | None = None
    said: dict[Reason, float] = field(default_factory=dict[Reason, float])

    def page(
        self,
        source: ConnectionSource,
        ask: Ask[Page],
        unit: str | None,
        entry: Entry,
        plea: Plea,
        timeout_ms: float | None = None,
    ) -> Page:
        """Answer one request for a page; log and tell of it, or of its failure.

        Args:
            source: Gives the connection.
            ask: Makes the page.
            unit: What is assigned to a version.
            entry: What is logged.
            plea: What the fallback needs to know.
            timeout_ms: The budget; None for none.
        """
        self._flush(source)
        deadline = None if timeout_ms is None else Deadline(timeout_ms)
        entry.watch.dsn = source.dsn
        try:
            with _deadline.until(deadline):
                page, served = self._anywhere(source, ask, unit, entry)
        except Exception as exc:
            reason = reason_of(exc) if self.fallback else None
            if reason is None:
                entry.failed(exc, lambda: self._saved(source))
                raise
            page = self._fallen_back(plea, reason)
            self._say(reason, exc)
            entry.fell_back(page)
            return page
        if self.fallback and page.degraded is None:
            self.memory.remember(plea, page, entry.generation)
            limit = _spare(deadline)
            if limit is not None and self.memory.popular_due(plea):
                with _deadline.until(limit):
                    self._read_popular(*served, plea, unit)
        entry.answered(page)
        return page

    def _anywhere(
        self, source: ConnectionSource, ask: Ask[Page], unit: str | None, entry: Entry
    ) -> tuple[Page, tuple[ConnectionSource, LoadedVersions]]:
        """Ask replicas that are fresh, then the primary; return who answered, too."""
        reads = self.reads
        for replica in () if reads is None else reads.fresh(source):
            assert reads is not None
            try:
                with (
                    _deadline.until(reads.budget()),
                    breaker_of(replica).watched(),
                ):
                    served = replica.source, replica.versions
                    page = self.settled(
                        served[0],
                        ask,
                        unit,
                        entry,
                        versions=served[1],
                        degraded=None if replica.fresh else LATE,
                    )
                    return page, served
            except ConfigError:
                raise
            except (psycopg.Error, RecsysError) as exc:
                # The primary may know what a replica does not.
                reads.failed(replica, exc)
        with self._guard(source).watched():
            page = self.settled(source, ask, unit, entry)
        if reads is not None:
            reads.heard()
        return page, (source, self.versions)

    def _flush(self, source: ConnectionSource) -> None:
        """Let a Session send what it holds back, as before any query of its own.

        These are the application's statements: their errors are its own, and no budget
        cuts them off. While the breaker is open no query follows.
        """
        flush: Callable[[], None] | None = getattr(source, "flush", None)
        if flush is not None and self._guard(source).state != "open":
            flush()

    def read(
        self, source: ConnectionSource, ask: Ask[_T], unit: str | None = None
    ) -> _T:
        """Ask the primary for what is no page: no fallback, no budget, no log.

        Args:
            source: Gives the connection.
            ask: Gives the answer.
            unit: What is assigned to a version.
        """
        self._flush(source)
        return self.settled(source, ask, unit)

    def write(
        self,
        source: ConnectionSource,
        ask: Ask[_T],
        unit: str | None,
        timeout_ms: float | None,
    ) -> _T:
        """Write on the primary: once, and not to one that is left alone.

        Args:
            source: Gives the connection.
            ask: Writes.
            unit: What is assigned to a version.
            timeout_ms: The budget; None for none.

        Raises:
            CircuitOpen: The database failed several times in a row.
        """
        self._flush(source)
        # After a lost connection only the caller can tell whether it was stored.
        with _deadline.within(timeout_ms), self._guard(source).watched():
            return self.settled(source, ask, unit, repeatable=False)

    def _guard(self, source: ConnectionSource) -> Breaker:
        if isinstance(source, OwnConnections):
            return _breaker.of(source.dsn())
        return self.breaker

    def _say(self, reason: Reason, exc: Exception) -> None:
        """Log why answers are degraded, once a minute for each reason."""
        now = monotonic()
        if now - self.said.get(reason, -_SAY_EVERY_S) < _SAY_EVERY_S:
            return
        self.said[reason] = now
        logger.warning(
            "model %s answers from memory: %s: %s",
            self.model,
            reason,
            str(exc).strip().split("\n")[0],
            extra={"model": self.model, "degraded": reason},
        )

    def _fallen_back(self, plea: Plea, reason: Reason) -> Page:
        wanted = plea.wanted
        version, items = self.memory.answer(plea)
        return Page(
            items=() if wanted.nothing else tuple(items),
            request_id=uuid4(),
            model=self.model,
            version=version,
            degraded=reason,
            earlier=plea.earlier,
            _more=plea.more,
        )

    def _read_popular(
        self,
        source: ConnectionSource,
        versions: LoadedVersions,
        plea: Plea,
        unit: str | None,
    ) -> None:
        """Read the popular items of a filter, with the version that just answered.

        Never on a connection of the application's: it would see what is not committed
        there and what is set there, and a stall would cost its transaction.
        """
        turn = versions.cached(unit)
        if turn is None or plea.among is None:
            return
        wanted = Wanted(k=POPULAR_K, among=plea.wanted.among)
        query = popular_query(turn.version.tower.dim)
        try:
            with (
                _own_of(source) as own,
                own.use() as conn,
                _deadline.on(conn, borrowed=False),
            ):
                if retrieval.generation(conn, self.model) != turn.generation:
                    return
                found = _candidates.find(conn, turn.version, query, wanted)
        except (psycopg.Error, RecsysError) as exc:  # the request has its answer
            logger.info("popular items of %s were not read: %s", self.model, exc)
            return
        items = tuple(map(Recommendation, found[0], found[1]))
        self.memory.keep_popular(plea.among, turn.version.number, items)

    def settled(
        self,
        source: ConnectionSource,
        ask: Ask[_T],
        unit: str | None,
        entry: Entry | None = None,
        *,
        repeatable: bool = True,
        versions: LoadedVersions | None = None,
        degraded: str | None = None,
    ) -> _T:
        """Ask again when the version moved or the session had ended.

        Args:
            source: Gives the connection.
            ask: Gives the answer.
            unit: What is assigned to a version.
            entry: What is logged, where the answer is a page.
            repeatable: It may be asked again after a lost connection.
            versions: The plan as a replica knows it.
            degraded: Why a page from there is less than a full answer.
        """
        versions = self.versions if versions is None else versions
        watch = observe.Stopwatch() if entry is None else entry.watch
        for attempt in range(_ATTEMPTS):
            answer = None
            try:
                _deadline.check()
                with source.use() as conn, _deadline.on(conn, borrowed=source.borrowed):
                    _deadline.check()  # a pool may have been waited for
                    if source.borrowed:
                        check_session(conn)
                    turn = self._newest(conn, unit, entry, versions)
                    if entry is not None:
                        entry.generation = turn.generation
                    with savepoint(conn):
                        answer = ask(conn, turn, watch)
                        if degraded is not None and isinstance(answer, Page):
                            answer = replace(answer, degraded=degraded)
                        if entry is not None and isinstance(answer, Page):
                            entry.done(conn, answer)
            except NotLogged:
                pass  # counted and said; the answer stands
            except retrieval.VersionGone:
                answer = None
            except ConnectionLost:
                # An idle connection that something between cut: worth one more.
                if attempt or not repeatable or source.borrowed:
                    raise
                continue
            if answer is not None:
                return answer
            versions.forget()
        raise DatabaseUnavailable(
            f"model {self.model!r} was switched {_ATTEMPTS} times during one request",
            hint="Something promotes in a loop: see recsys.switch_log.",
        )

    def _newest(
        self,
        conn: Connection,
        unit: str | None,
        entry: Entry | None,
        versions: LoadedVersions,
    ) -> Turn:
        """Return who answers; refuse a replica that goes back behind a switch."""
        turn = self._turn(conn, unit, entry, versions)
        if self.reads is None:
            return turn
        if versions is not self.versions and turn.generation < self.reads.generation:
            versions.forget()
            turn = self._turn(conn, unit, entry, versions)
            if turn.generation < self.reads.generation:
                raise Behind(f"generation {turn.generation} is not the newest")
        self.reads.saw(turn.generation)
        return turn

    def _turn(
        self,
        conn: Connection,
        unit: str | None,
        entry: Entry | None,
        versions: LoadedVersions,
    ) -> Turn:
        assigned = None if entry is None else entry.assigned
        turn = versions.cached(unit)
        if turn is not None:
            if assigned is not None:
                assigned(turn.assignment)
            return turn
        try:
            with savepoint(conn):
                return versions.turn(conn, unit, assigned)
        except retrieval.ABSENT:
            schema.check(conn)  # a borrowed connection comes unchecked
            raise

    @contextmanager
    def _saved(self, source: ConnectionSource) -> Generator[Connection]:
        with source.use() as conn, savepoint(conn):
            yield conn


def _spare(deadline: Deadline | None) -> Deadline | None:
    """Return what a request may spend on later ones; None when it is too little."""
    if deadline is None:
        return Deadline(POPULAR_MOST_S * 1e3)
    limit = deadline.part(0.25, POPULAR_MOST_S)
    return limit if limit.remaining() > _LEAST_S else None


@contextmanager
def _own_of(source: ConnectionSource) -> Generator[OwnConnections]:
    """Give connections of the recommender's own to the database of a source."""
    if isinstance(source, OwnConnections):
        yield source
        return
    own = OwnConnections(source.dsn())
    try:
        yield own
    finally:
        own.close()
