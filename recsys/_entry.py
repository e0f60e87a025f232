"""One request on its way to its row in the log of impressions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg

from recsys import observe
from recsys._answer import Answer
from recsys._db import Connection
from recsys.assignment import Assignment
from recsys.errors import DatabaseUnavailable, RecsysError
from recsys.impressions import ImpressionLog, NotLogged
from recsys.types import Page


class Entry:
    """One request on its way to its row: assigned, then done or failed.

    Args:
        log: Where it goes.
        model: Name of the model.
        k: How many items were asked for.
        unit: What is assigned to a version.
        given: The other columns that are known before the answer.
    """

    __slots__ = ("_given", "_log", "_turn", "_unit", "generation", "watch")

    def __init__(
        self, log: ImpressionLog, model: str, k: int, unit: str | None, **given: Any
    ) -> None:
        self._log = log
        self._unit = unit
        self._given: dict[str, Any] = {"model": model, "k": k, "unit": unit, **given}
        self._turn: dict[str, Any] = {}
        self.watch = observe.Stopwatch()
        self.generation = 0  # of the plan that the answer is made by

    def assigned(self, to: Assignment) -> None:
        """Note who answers; may come again after a switch."""
        self._turn = {"version": to.number, "experiment": to.experiment, "arm": to.arm}
        if to.experiment and to.arm and self._unit is not None:
            self._log.expose(to.experiment, self._unit, to.arm)

    def done(self, conn: Connection, page: Page) -> None:
        """Log the answer.

        Raises:
            NotLogged: As ``ImpressionLog.record``.
        """
        if self._log.mode != "off":
            more = {"items": page.items, "degraded": page.degraded}
            self._log.record(conn, self._answer(page.request_id, **more))

    def answered(self, page: Page) -> None:
        """Tell the observers, after the connection was given back."""
        if observe.active():
            self._turn["version"] = page.version
            self._tell(
                returned=len(page), degraded=page.degraded, request_id=page.request_id
            )

    def fell_back(self, page: Page) -> None:
        """Log an answer that the database had no part in, and tell the observers.

        In mode "transaction" it is counted as lost: there is nothing to write it with.
        What another version answered once is no answer of the arm.
        """
        if page.version != self._turn.get("version"):
            self._turn = {"version": page.version}
        self.answered(page)
        if self._log.mode != "off":
            more = {"items": page.items, "degraded": page.degraded}
            with suppress(NotLogged):
                self._log.record(None, self._answer(page.request_id, **more))

    def failed(
        self, exc: Exception, connection: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        """Log that there was no answer; never raises.

        Args:
            exc: What the caller gets.
            connection: Gives the connection of the request, inside a savepoint.
        """
        said = f"{type(exc).__name__}: {str(exc).strip()}".split("\n")[0][:300]
        if observe.active():
            self._tell(error=said)
        if self._log.mode == "off":
            return
        answer = self._answer(uuid4(), error=said)
        # Connecting once more would make the caller wait as long again.
        gone = isinstance(exc, DatabaseUnavailable | psycopg.OperationalError)
        with suppress(NotLogged, RecsysError, psycopg.Error):
            if gone or self._log.mode == "background":
                self._log.record(None, answer)
            else:
                with connection() as conn:
                    self._log.record(conn, answer)

    def _answer(self, request_id: UUID, **more: Any) -> Answer:
        took = self.watch.total_ms()
        return Answer(request_id, took_ms=took, **self._given, **self._turn, **more)

    def _tell(self, **more: Any) -> None:
        given, watch = self._given, self.watch
        observe.notify(
            observe.Answered(
                model=given["model"],
                channel=given.get("channel", "two-tower"),
                k=given["k"],
                user_id=given.get("user_id"),
                unit=self._unit,
                connection_ms=watch.connection_ms,
                state_ms=watch.state_ms,
                tower_ms=watch.tower_ms,
                candidates_ms=watch.candidates_ms,
                total_ms=watch.total_ms(),
                asked=watch.asked(),
                **self._turn,
                **more,
            )
        )
