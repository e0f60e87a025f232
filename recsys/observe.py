"""What observers learn of every answer: who answered, how long each stage took.

An observer is a function; metrics and spans are observers (recsys.prometheus,
recsys.tracing). It runs in the request, after the answer is made: it must be quick, and
whatever it raises is logged and dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from uuid import UUID

from recsys.types import UserId

logger = logging.getLogger("recsys")


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
        error: What the caller got instead, or None.
        request_id: ``page.request_id``; None when there is no page.
        user_id: The application's user id.
        unit: What was assigned to a version.
        state_ms: Milliseconds of the first statement, with the check of the plan.
        tower_ms: Milliseconds of the query tower.
        candidates_ms: Milliseconds of the candidate statement.
        total_ms: Milliseconds from the call to the answer.
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
    state_ms: float = 0.0
    tower_ms: float = 0.0
    candidates_ms: float = 0.0
    total_ms: float = 0.0


Observer = Callable[[Answered], None]
_observers: tuple[Observer, ...] = ()


def add(observer: Observer) -> None:
    """Call a function after every answer of this process."""
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


class Stopwatch:
    """Times of the stages of one request, in milliseconds."""

    __slots__ = ("_last", "candidates_ms", "started", "state_ms", "tower_ms")

    def __init__(self) -> None:
        self.started = self._last = perf_counter()
        self.state_ms = self.tower_ms = self.candidates_ms = 0.0

    def lap(self) -> float:
        """Return the milliseconds since the last lap."""
        now = perf_counter()
        took, self._last = (now - self._last) * 1e3, now
        return took

    def total_ms(self) -> float:
        """Return the milliseconds since the start."""
        return (perf_counter() - self.started) * 1e3
