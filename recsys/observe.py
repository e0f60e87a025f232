"""What observers learn of every answer: who answered, how long each stage took.

An observer is a function; metrics, spans and slow requests are observers
(recsys.prometheus, recsys.tracing, recsys.slow). It runs in the request, after the
answer is made and the connection given back: it must be quick, and whatever it raises
is logged and dropped. Without observers a request pays for a few looks at the clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING
from uuid import UUID

from recsys.types import ItemId, Page, UserId

if TYPE_CHECKING:
    from recsys._loaded import Loaded

logger = logging.getLogger("recsys")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asked the database for, by reference: enough to explain it.

    Attributes:
        dsn: Gives a connection string to the same database.
        version: The version that was asked.
        among: The filter as it was given, or as SQL with its parameters.
        history: The items of a session, when they were given.
    """

    dsn: Callable[[], str]
    version: Loaded
    among: object | None = None
    history: Sequence[ItemId] | None = None


@dataclass(slots=True)
class Answered:
    """One request that ended, well or not.

    Attributes:
        model: Name of the model.
        channel: "two-tower" or "similar".
        k: How many items were asked for.
        version: The version that answered; None when none did.
        experiment: The experiment the unit takes part in, or None.
        arm: Its arm, or None.
        returned: How many items were returned.
        degraded: Why it is less than a full answer, or None.
        error: What the caller got instead, such as "UnknownItem: ...", or None.
        request_id: ``page.request_id``; None when there is no page.
        user_id: The application's user id.
        unit: What was assigned to a version.
        connection_ms: Milliseconds until a connection and the version were at hand.
        state_ms: Milliseconds of the first statement: history and user features, or
            the item's vector.
        tower_ms: Milliseconds of the query tower.
        candidates_ms: Milliseconds of the candidate statement.
        total_ms: Milliseconds from the call to the answer.
        asked: What the database was asked for; None when it was not reached.
    """

    model: str
    channel: str
    k: int
    version: int | None = None
    experiment: str | None = None
    arm: str | None = None
    returned: int = 0
    degraded: str | None = None
    error: str | None = None
    request_id: UUID | None = None
    user_id: UserId | None = None
    unit: str | None = None
    connection_ms: float = 0.0
    state_ms: float = 0.0
    tower_ms: float = 0.0
    candidates_ms: float = 0.0
    total_ms: float = 0.0
    asked: Asked | None = None

    @property
    def short(self) -> bool:
        """Fewer items were returned than asked for, and nothing failed."""
        return self.error is None and self.returned < self.k


STAGES = ("connection", "state", "tower", "candidates")
"""In their order; ``Answered`` has the milliseconds of each. "hydrate" comes later."""

Observer = Callable[[Answered], None]
_observers: tuple[Observer, ...] = ()


def add(observer: Observer) -> None:
    """Call a function after every answer of this process.

    One with a method ``hydrated(page, ms, channel)`` is also told how long it took to
    turn a page into the application's objects.
    """
    global _observers
    _observers = (*_observers, observer)


def remove(observer: Observer) -> None:
    """Call it no longer; nothing happens if it was not added."""
    global _observers
    _observers = tuple(one for one in _observers if one is not observer)


def active() -> bool:
    """Say whether anybody wants to be told."""
    return bool(_observers)


def notify(event: Answered) -> None:
    """Tell every observer; what one raises is logged and dropped."""
    for observer in _observers:
        try:
            observer(event)
        except Exception:
            logger.exception("an observer of recsys failed")


def hydrated(page: Page, ms: float, channel: str = "two-tower") -> None:
    """Tell the observers how long it took to fetch the objects of a page.

    Args:
        page: The answer.
        ms: Milliseconds.
        channel: "two-tower" or "similar".
    """
    for observer in _observers:
        told = getattr(observer, "hydrated", None)
        if told is None:
            continue
        try:
            told(page, ms, channel)
        except Exception:
            logger.exception("an observer of recsys failed")


class LogAnswers:
    """An observer that writes log records with the request in their fields.

    A full answer is logged at DEBUG, a slow or a short one at INFO, one that is less
    than full at WARNING. Failures raise in the caller, who logs them: at DEBUG here.
    Every field of ``Answered`` but ``asked`` is an attribute of the record, its name
    prefixed with ``recsys_``.

    Args:
        slow_ms: Milliseconds from which an answer is slow.
        log: Where to; default the logger "recsys".
    """

    def __init__(
        self, slow_ms: float = 200.0, log: logging.Logger | None = None
    ) -> None:
        self._slow_ms = slow_ms
        self._log = logger if log is None else log

    def __call__(self, event: Answered) -> None:
        """Log one answer."""
        level = logging.DEBUG
        if event.degraded:
            level = logging.WARNING
        elif event.error is None and (event.short or event.total_ms >= self._slow_ms):
            level = logging.INFO
        if not self._log.isEnabledFor(level):
            return
        outcome = f"{event.returned}/{event.k} items"
        if event.error or event.degraded:
            outcome = f"{outcome}, {event.error or event.degraded}"
        self._log.log(
            level,
            "%s %s version %s: %s in %.1f ms (connection %.1f, state %.1f, tower %.1f,"
            " candidates %.1f) %s",
            event.model,
            event.channel,
            event.version,
            outcome,
            event.total_ms,
            event.connection_ms,
            event.state_ms,
            event.tower_ms,
            event.candidates_ms,
            event.request_id,
            extra={f"recsys_{name}": getattr(event, name) for name in _LOGGED},
        )


_LOGGED = tuple(name for name in Answered.__slots__ if name != "asked")


class Stopwatch:
    """Times of the stages of one request, in milliseconds, and what it asked."""

    __slots__ = (
        "_last",
        "among",
        "candidates_ms",
        "connection_ms",
        "dsn",
        "history",
        "started",
        "state_ms",
        "tower_ms",
        "version",
    )

    def __init__(self) -> None:
        self.started = self._last = perf_counter()
        self.connection_ms = self.state_ms = self.tower_ms = self.candidates_ms = 0.0
        self.version: Loaded | None = None
        self.dsn: Callable[[], str] | None = None
        self.among: object | None = None
        self.history: Sequence[ItemId] | None = None

    def asking(
        self,
        version: Loaded,
        among: object | None,
        history: Sequence[ItemId] | None = None,
    ) -> None:
        """Note what is asked, and that everything until now was the connection.

        An attempt that another one follows counts as part of it.
        """
        now = perf_counter()
        self.connection_ms, self._last = (now - self.started) * 1e3, now
        self.version = version
        self.among = among
        self.history = history

    def lap(self) -> float:
        """Return the milliseconds since the last lap."""
        now = perf_counter()
        took, self._last = (now - self._last) * 1e3, now
        return took

    def total_ms(self) -> float:
        """Return the milliseconds since the start."""
        return (perf_counter() - self.started) * 1e3

    def asked(self) -> Asked | None:
        """Return what was asked; None when no version was at hand."""
        if self.version is None or self.dsn is None:
            return None
        return Asked(self.dsn, self.version, self.among, self.history)
