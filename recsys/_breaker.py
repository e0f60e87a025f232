"""A circuit breaker per database and process: stop asking one that does not answer.

After a few failures in a row the breaker opens: requests get their fallback at once
instead of waiting for a timeout each. When its time is over, one request tries; its
success closes the breaker, its failure opens it for twice as long.

No lock: a fork could inherit it locked. Every step is one assignment or one
``setdefault`` of a dict; two threads that race count one failure for two, and at worst
two requests try instead of one.
"""

from __future__ import annotations

import logging
import os
from time import monotonic

from recsys._reason import Reason, reason_of
from recsys.artifacts import StillLoading
from recsys.errors import (
    DatabaseUnavailable,
    UnknownItem,
    UnknownModel,
    VersionStateError,
)

logger = logging.getLogger(__name__)

FAILURES = 5
"""Failures in a row that open a breaker."""
FIRST_S = 1.0
"""How long it stays open the first time."""
LONGEST_S = 30.0
"""How long it stays open at most."""
TRIAL_S = 10.0
"""After so long a trial that was never reported counts no more."""

_COUNTED: tuple[Reason, ...] = ("timeout", "database")
"""What speaks against the database; the others speak against the caller's session."""

_OF_THE_DATABASE = (UnknownItem, UnknownModel, VersionStateError)
"""What is found out by asking it."""


class CircuitOpen(DatabaseUnavailable):
    """The database failed several times in a row and is left alone for a moment."""

    hint = "It is tried again by itself; 'recsys doctor' says what is wrong with it."


class Breaker:
    """Counts what becomes of the requests to one database.

    Args:
        name: Of the database, for the log.
    """

    __slots__ = ("_failed", "_openings", "_pid", "_trials", "_until", "name")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._reset()

    def _reset(self) -> None:
        self._failed = 0
        self._openings = 0
        self._until = 0.0
        self._trials: dict[int, float] = {}
        self._pid = os.getpid()

    @property
    def state(self) -> str:
        """Return "closed", "open" or "half-open"."""
        if not self._openings:
            return "closed"
        return "open" if monotonic() < self._until else "half-open"

    def watched(self) -> _Watched:
        """Let a request through and learn from its end.

        An error that the database gives the caller, such as that of a filter, shows
        that it answers; an argument that is refused before it was asked shows nothing.

        Raises:
            CircuitOpen: Not now.
        """
        return _Watched(self)

    def ended(self, exc: BaseException | None) -> None:
        """Note how a request ended that was let through."""
        reason = reason_of(exc) if isinstance(exc, Exception) else None
        if isinstance(exc, StillLoading):
            self._trials = {}  # slow, but it answers
        elif reason in _COUNTED:
            self.failed(str(exc))
        elif exc is None or (reason is None and _answered(exc)):
            self.succeeded()
        elif self._trials:
            self._trials = {}  # it said nothing of the database: another may try

    def admit(self) -> None:
        """Let one request through, or none.

        Raises:
            CircuitOpen: Not now.
        """
        if self._pid != os.getpid():
            self._reset()  # a child of a fork asks for itself
        if not self._openings:
            return
        now = monotonic()
        if now < self._until:
            raise CircuitOpen(
                f"{self.name or 'the database'} failed {self._failed} times in a row; "
                f"it is asked again in {self._until - now:.1f} s"
            )
        # One trial per opening: whoever sets the key is it.
        mine = now + TRIAL_S
        given = self._trials.setdefault(self._openings, mine)
        if given is mine:
            return
        if given < now:
            self._trials.pop(self._openings, None)
        raise CircuitOpen(f"{self.name or 'the database'} is being tried")

    def succeeded(self) -> None:
        """Note that the database answered."""
        if self._openings:
            logger.warning("%s answers again", self.name or "the database")
            self._openings = 0
            self._trials = {}
        self._failed = 0

    def failed(self, why: str = "") -> None:
        """Note that it did not."""
        self._failed += 1
        trial = bool(self._openings) and monotonic() >= self._until
        if trial or (not self._openings and self._failed >= FAILURES):
            self._openings += 1
            self._trials = {}
            wait = min(LONGEST_S, FIRST_S * 2 ** (self._openings - 1))
            self._until = monotonic() + wait
            logger.error(
                "%s failed %d times in a row and is left alone for %.0f s: %s",
                self.name or "the database",
                self._failed,
                wait,
                why.strip().split("\n")[0],
            )


def _answered(exc: BaseException) -> bool:
    """Say whether an error shows that the database answered.

    A wrong argument may be refused before it was asked.
    """
    one: BaseException | None = exc
    while one is not None:
        if isinstance(one, _OF_THE_DATABASE) or getattr(one, "sqlstate", None):
            return True
        one = getattr(one, "orig", None) or one.__cause__
    return False


class _Watched:
    """One request through a breaker; a class because every request pays for it."""

    __slots__ = ("_breaker",)

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def __enter__(self) -> None:
        self._breaker.admit()

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        self._breaker.ended(exc)


_breakers: dict[str, Breaker] = {}
_KEPT = 64


def of(endpoint: str, name: str = "") -> Breaker:
    """Return this process' breaker of a database.

    Args:
        endpoint: What tells databases apart: a connection string, an alias.
        name: For the log; without a password.
    """
    found = _breakers.get(endpoint)
    if found is None:
        if len(_breakers) >= _KEPT:
            _breakers.clear()
        found = _breakers.setdefault(endpoint, Breaker(name))
    return found
