"""A deadline over connecting and over every statement, kept by the client.

A statement_timeout would cost a round trip, and a server that is frozen, or behind a
dead network, keeps none. So the wait itself is bounded, without a thread: psycopg
drives each statement as a generator, and ``on`` puts a clock between the two. Past the
deadline the statement is cancelled and its end awaited for a short grace; a connection
that does not come back by then is closed.
"""

from __future__ import annotations

import logging
import selectors
from collections.abc import Iterator
from contextvars import ContextVar, Token
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.waiting import Ready, Wait

from recsys._cancel import Awaited, Cancel
from recsys.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
Connection = psycopg.Connection[Any]

OWN_GRACE_S = 0.1
"""How long past the deadline an own connection may take to come back."""
BORROWED_GRACE_S = 0.5
"""As much for the application's: closing it would end the application's transaction."""
_LEAST_S = 0.05


class DeadlineExceeded(DatabaseUnavailable, TimeoutError):
    """The time budget of a request is spent."""

    hint = "A larger timeout_ms gives the database more time; see docs/budget.md."


class Deadline:
    """When a request must be answered; counted from its creation.

    Args:
        timeout_ms: The budget.

    Attributes:
        at: The end, by ``time.monotonic``.
    """

    __slots__ = ("_budget_ms", "at")

    def __init__(self, timeout_ms: float) -> None:
        self._budget_ms = timeout_ms
        self.at = monotonic() + timeout_ms / 1e3

    def remaining(self) -> float:
        """Return the seconds left; negative when there are none."""
        return self.at - monotonic()

    def check(self) -> None:
        """Refuse to begin something when nothing is left.

        Raises:
            DeadlineExceeded: The budget is spent.
        """
        if monotonic() >= self.at:
            raise self.exceeded()

    def exceeded(self, more: str = "") -> DeadlineExceeded:
        """Return the error; ``more`` says what it cost."""
        return DeadlineExceeded(
            f"the database did not answer within {self._budget_ms:g} ms{more}"
        )

    def part(self, share: float, most_s: float) -> Deadline:
        """Return a nearer deadline: a share of what is left, at most so long."""
        return Deadline(max(0.0, min(self.remaining() * share, most_s)) * 1e3)


_current: ContextVar[Deadline | None] = ContextVar("recsys_deadline", default=None)


def current() -> Deadline | None:
    """Return the deadline of the request in progress."""
    return _current.get()


def check() -> None:
    """Refuse to begin a statement when the budget of the request is spent.

    Raises:
        DeadlineExceeded: It is.
    """
    deadline = _current.get()
    if deadline is not None:
        deadline.check()


class until:
    """Make a deadline the current one; a nearer one around it stays.

    Args:
        deadline: None changes nothing.

    Yields:
        The deadline in force.
    """

    __slots__ = ("_deadline", "_token")

    def __init__(self, deadline: Deadline | None) -> None:
        self._deadline = deadline
        self._token: Token[Deadline | None] | None = None

    def __enter__(self) -> Deadline | None:
        deadline = self._deadline
        around = _current.get()
        if deadline is None or (around is not None and around.at <= deadline.at):
            return around
        self._token = _current.set(deadline)
        return deadline

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _current.reset(self._token)


def within(timeout_ms: float | None) -> until:
    """Begin a request with a budget of its own; None for none."""
    return until(None if timeout_ms is None else Deadline(timeout_ms))


class on:
    """Hold the statements of a connection to the current deadline.

    Two threads may be inside for one connection: each keeps its own deadline, and the
    last to leave leaves nothing behind.

    Args:
        conn: An open connection; afterwards it waits as before.
        borrowed: It is the application's: it gets more time to come back.

    Raises:
        DeadlineExceeded: From a statement inside. The statement was cancelled, or the
            connection is closed.
    """

    __slots__ = ("_borrowed", "_bounded", "_conn")

    def __init__(self, conn: Connection, *, borrowed: bool) -> None:
        self._conn = conn
        self._borrowed = borrowed
        self._bounded: _Bounded | None = None

    def __enter__(self) -> None:
        if _current.get() is None:
            return
        self._bounded = _Bounded(self._conn, borrowed=self._borrowed)
        self._conn.__dict__["wait"] = self._bounded

    def __exit__(self, *_: object) -> None:
        mine = self._bounded
        if mine is None:
            return
        mine.ended = True
        own = self._conn.__dict__
        if own.get("wait") is mine:
            # What another thread put here first may have ended meanwhile.
            around = mine.around
            while isinstance(around, _Bounded) and around.ended:
                around = around.around
            if around is None:
                own.pop("wait", None)
            else:
                own["wait"] = around
        if mine.pending is not None and not self._conn.closed:
            own["wait"] = Awaited(self._conn, mine.pending)


class _Late(Exception):
    """The clock ran out while a generator waited for ``state``."""

    def __init__(self, state: Wait) -> None:
        super().__init__()
        self.state = state


class _Bounded:
    """``Connection.wait`` with a clock, as psycopg calls it.

    Attributes:
        around: What the connection waited with before, where that is not its class'.
        ended: The block is over; what still comes this way passes through.
        pending: A cancel that the server has not taken up.
    """

    __slots__ = ("_borrowed", "_conn", "_grace", "_wait", "around", "ended", "pending")

    def __init__(self, conn: Connection, *, borrowed: bool) -> None:
        self._conn = conn
        self._grace = BORROWED_GRACE_S if borrowed else OWN_GRACE_S
        self._borrowed = borrowed
        self.ended = False
        self.pending: Cancel | None = None
        self._wait: Any = conn.wait
        self.around: object = conn.__dict__.get("wait")
        if isinstance(self.around, _Bounded):
            self._wait = self.around._wait  # without another thread's clock
        elif isinstance(self.around, Awaited):
            self.pending, self._wait = self.around.cancel, self.around.wait
            self.around = None

    def __call__(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Consume a generator, until the deadline at the latest."""
        deadline = _current.get()  # of the thread that asks
        if self.ended or deadline is None or args or kwargs:
            return self._wait(gen, *args, **kwargs)
        limit = deadline.at
        if monotonic() >= limit:
            # Only what cleans up begins now: a roll-back to the savepoint.
            limit = self._last(deadline)
        if self.pending is not None and self.pending.arrived(limit):
            self.pending = None
        try:
            return self._run(gen, None, limit)
        except _Late as late:
            return self._stop(gen, late.state, deadline)

    def _last(self, deadline: Deadline) -> float:
        return max(deadline.at + self._grace, monotonic() + _LEAST_S)

    def _run(self, gen: PQGen[_T], state: Wait | None, limit: float) -> _T:
        # Between two events psycopg wakes up this often; then the clock is read.
        interval = min(0.1, max(0.001, (limit - monotonic()) / 10))
        return self._wait(_clocked(gen, state, limit), interval=interval)

    def _stop(self, gen: PQGen[_T], state: Wait, deadline: Deadline) -> _T:
        """Cancel the statement and await its end; else close the connection."""
        limit = self._last(deadline)
        cancel = Cancel(self._conn)
        cancel.arrived((limit + monotonic()) / 2)
        try:
            # It may have ended just now: an answer in hand is not thrown away.
            answer = self._run(gen, state, limit)
        except psycopg.errors.QueryCanceled as exc:
            self._settle(cancel, limit)
            raise deadline.exceeded() from exc
        except _Late:
            self._conn.pgconn.finish()
        else:
            self._settle(cancel, limit)
            return answer
        more = "; the connection did not come back and was closed"
        if self._borrowed:
            logger.error("recsys had to close the application's connection%s", more)
        raise deadline.exceeded(more)

    def _settle(self, cancel: Cancel, limit: float) -> None:
        """Leave no cancel on its way that would strike another statement."""
        if cancel.arrived(limit):
            return
        if self._borrowed:
            self.pending = cancel
        else:
            self._conn.pgconn.finish()


def _clocked(gen: PQGen[_T], state: Wait | None, limit: float) -> PQGen[_T]:
    """Pass a generator's states on; stop between two steps when time is up."""
    try:
        if state is None:
            state = next(gen)
        while True:
            ready = yield state
            # What has arrived is read before the clock is.
            state = gen.send(ready)
            if monotonic() >= limit:
                raise _Late(state)
    except StopIteration as stop:
        return stop.value


def connect(dsn: str, *, application_name: str = "recsys") -> Connection:
    """Connect, within the current deadline when there is one.

    Looking up a host name is the one step that cannot be bounded without a thread; the
    resolver's own limits hold for it.

    Args:
        dsn: Connection string; several hosts share the time.
        application_name: What pg_stat_activity calls it.

    Raises:
        DeadlineExceeded: The budget is spent.
        psycopg.OperationalError: No server answers, or it refuses the login.
        psycopg.ProgrammingError: The connection string is malformed.
    """
    deadline = _current.get()
    if deadline is None:
        return psycopg.connect(
            dsn, prepare_threshold=None, application_name=application_name
        )
    attempts = list(_attempts(dsn, application_name))
    for left in range(len(attempts), 0, -1):
        deadline.check()
        end = monotonic() + deadline.remaining() / left
        try:
            conn = _opened(attempts[-left], min(end, deadline.at))
        except (psycopg.OperationalError, _Late) as exc:
            if left > 1:
                continue
            if isinstance(exc, _Late):
                raise deadline.exceeded() from None
            raise
        conn.prepare_threshold = None
        return conn
    raise AssertionError("a connection string has at least one host")


def _attempts(dsn: str, application_name: str) -> Iterator[str]:
    """Yield a connection string per host: libpq would spend all the time on one."""
    params = conninfo_to_dict(dsn, application_name=application_name)
    split = {
        key: str(params[key]).split(",")
        for key in ("host", "hostaddr", "port")
        if "," in str(params.get(key, ""))
    }
    count = max((len(values) for values in split.values()), default=1)
    if any(len(values) != count for values in split.values()):
        yield make_conninfo("", **params)  # libpq says what is wrong with it
        return
    for i in range(count):
        one = {key: values[i] for key, values in split.items()}
        yield make_conninfo("", **{**params, **one})


def _opened(conninfo: str, limit: float) -> Connection:
    gen = generators.connect(conninfo)
    try:
        fileno, state = next(gen)
        while True:
            with selectors.DefaultSelector() as selector:
                selector.register(fileno, _EVENTS[state])
                found = selector.select(max(0.0, limit - monotonic()))
            if not found:
                gen.close()
                raise _Late(state)
            fileno, state = gen.send(Ready.R if found[0][1] & 1 else Ready.W)
    except StopIteration as stop:
        return psycopg.Connection(stop.value)


_EVENTS = {
    Wait.R: selectors.EVENT_READ,
    Wait.W: selectors.EVENT_WRITE,
    Wait.RW: selectors.EVENT_READ | selectors.EVENT_WRITE,
}
