"""Ask one version for one answer, whole: retries, savepoints, log and observers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from recsys import observe, retrieval, schema
from recsys._db import Connection
from recsys._loaded import LoadedVersions, Turn
from recsys._own import ConnectionLost, savepoint
from recsys.connections import ConnectionSource
from recsys.errors import DatabaseUnavailable
from recsys.impressions import Entry, ImpressionLog, NotLogged
from recsys.types import Page

_T = TypeVar("_T")
_ATTEMPTS = 4

Ask = Callable[[Connection, Turn, observe.Stopwatch], _T | None]
"""Gives an answer, or None when the generation differs from the turn's."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What one process knows of one model; recommenders on it share it.

    Attributes:
        model: Name of the model.
        versions: The plan and the towers.
        impressions: Where answers are logged.
    """

    model: str
    versions: LoadedVersions
    impressions: ImpressionLog

    def page(
        self, source: ConnectionSource, ask: Ask[Page], unit: str | None, entry: Entry
    ) -> Page:
        """Answer one request for a page; log and tell of it, or of its failure.

        Args:
            source: Gives the connection.
            ask: Makes the page.
            unit: What is assigned to a version.
            entry: What is logged.
        """
        try:
            page = self.settled(source, ask, unit, entry)
        except Exception as exc:
            entry.failed(exc, lambda: self._saved(source))
            raise
        entry.answered(page)
        return page

    def settled(
        self,
        source: ConnectionSource,
        ask: Ask[_T],
        unit: str | None,
        entry: Entry | None = None,
        *,
        repeatable: bool = True,
    ) -> _T:
        """Ask again when the version moved or the session had ended.

        Args:
            source: Gives the connection.
            ask: Gives the answer.
            unit: What is assigned to a version.
            entry: What is logged, where the answer is a page.
            repeatable: It may be asked again after a lost connection.
        """
        watch = observe.Stopwatch() if entry is None else entry.watch
        watch.dsn = source.dsn
        for attempt in range(_ATTEMPTS):
            answer = None
            try:
                with source.use() as conn:
                    turn = self._turn(conn, unit, entry)
                    with savepoint(conn):
                        answer = ask(conn, turn, watch)
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
            self.versions.forget()
        raise DatabaseUnavailable(
            f"model {self.model!r} was switched {_ATTEMPTS} times during one request",
            hint="Something promotes in a loop: see recsys.switch_log.",
        )

    def _turn(self, conn: Connection, unit: str | None, entry: Entry | None) -> Turn:
        assigned = None if entry is None else entry.assigned
        turn = self.versions.cached(unit)
        if turn is not None:
            if assigned is not None:
                assigned(turn.assignment)
            return turn
        try:
            with savepoint(conn):
                return self.versions.turn(conn, unit, assigned)
        except retrieval.ABSENT:
            schema.check(conn)  # a borrowed connection comes unchecked
            raise

    @contextmanager
    def _saved(self, source: ConnectionSource) -> Generator[Connection]:
        with source.use() as conn, savepoint(conn):
            yield conn
