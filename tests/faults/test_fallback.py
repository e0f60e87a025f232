"""What answers when the database does not, and what it may never return."""

from __future__ import annotations

import os
import threading
import warnings
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors as pg

from recsys import _breaker
from recsys._breaker import Breaker, CircuitOpen
from recsys._deadline import DeadlineExceeded
from recsys._reason import SessionUnusable, reason_of
from recsys.errors import (
    ConfigError,
    DatabaseUnavailable,
    SourceError,
    UnknownItem,
    VersionStateError,
)

# which errors are the database's -----------------------------------------------------


class PoolTimeout(psycopg.OperationalError):
    """As psycopg_pool's, which is told by its name."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DeadlineExceeded("late"), "timeout"),
        (pg.QueryCanceled("by statement_timeout"), "timeout"),
        (pg.LockNotAvailable("by lock_timeout"), "timeout"),
        (CircuitOpen("not now"), "circuit open"),
        (pg.InFailedSqlTransaction("aborted"), "aborted transaction"),
        (PoolTimeout("no connection in 30 s"), "connection busy"),
        (DatabaseUnavailable("no server"), "database"),
        (psycopg.OperationalError("server closed the connection"), "database"),
        (psycopg.InterfaceError("the connection is closed"), "database"),
        (pg.AdminShutdown("terminated"), "database"),
        (pg.SerializationFailure("conflict with recovery"), "database"),
        (pg.DeadlockDetected("deadlock"), "database"),
        (pg.DiskFull("no space"), "database"),
        (pg.TooManyConnections("too many clients"), "database"),
        (pg.IndexCorrupted("broken"), "database"),
        (pg.SyntaxError("filter"), None),
        (pg.UndefinedTable("filter"), None),
        (pg.InsufficientPrivilege("filter"), None),
        (pg.DivisionByZero("filter"), None),
        (pg.CheckViolation("a trigger"), None),
        (pg.UniqueViolation("a trigger"), None),
        (pg.ObjectNotInPrerequisiteState("a view not yet populated"), None),
        (pg.ExternalRoutineException("a function"), None),
        (pg.RaiseException("a function"), None),
        (TimeoutError("the application's own limit"), None),
        (ConfigError("k"), None),
        (SourceError("filter"), None),
        (UnknownItem("42"), None),
        (VersionStateError("none serves"), None),
        (ZeroDivisionError("a bug"), None),
    ],
)
def test_only_what_the_database_did_is_answered_from_memory(
    error: Exception, reason: str | None
) -> None:
    assert reason_of(error) == reason


def test_what_a_framework_wraps_counts_as_what_it_wraps() -> None:
    django = pytest.importorskip("django.db.utils")
    sqlalchemy = pytest.importorskip("sqlalchemy.exc")
    late = pg.QueryCanceled("by statement_timeout")

    wrapped = django.OperationalError("late")
    wrapped.__cause__ = late
    assert reason_of(wrapped) == "timeout"
    assert reason_of(sqlalchemy.OperationalError("select", {}, late)) == "timeout"
    assert reason_of(sqlalchemy.TimeoutError("QueuePool limit")) == "connection busy"
    assert reason_of(sqlalchemy.PendingRollbackError("x")) == "aborted transaction"
    broken = django.ProgrammingError("filter")
    broken.__cause__ = pg.UndefinedTable("filter")
    assert reason_of(broken) is None
    assert reason_of(sqlalchemy.ArgumentError("x")) is None


# breaker -----------------------------------------------------------------------------


def fail(breaker: Breaker, error: Exception) -> None:
    with pytest.raises(type(error)), breaker.watched():
        raise error


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_breaker, "FIRST_S", 0.05)


LATE = DeadlineExceeded("late")


@pytest.mark.usefixtures("quick")
def test_a_breaker_opens_tries_once_and_closes() -> None:
    breaker = Breaker("db")
    for _ in range(_breaker.FAILURES):
        fail(breaker, LATE)
    assert breaker.state == "open"
    fail(breaker, CircuitOpen("not now"))

    threading.Event().wait(0.06)
    assert breaker.state == "half-open"
    breaker.admit()
    with pytest.raises(CircuitOpen, match="being tried"):
        breaker.admit()
    breaker.succeeded()

    assert breaker.state == "closed"
    breaker.admit()


@pytest.mark.usefixtures("quick")
def test_a_trial_that_fails_opens_it_for_twice_as_long() -> None:
    breaker = Breaker("db")
    for _ in range(_breaker.FAILURES):
        fail(breaker, LATE)
    for opening in range(1, 4):
        threading.Event().wait(0.05 * 2 ** (opening - 1) + 0.01)
        fail(breaker, LATE)
        with pytest.raises(CircuitOpen) as caught:
            breaker.admit()
        assert "asked again in" in str(caught.value)
        left = float(str(caught.value).split()[-2])
        assert left == pytest.approx(0.05 * 2**opening, abs=0.06)


@pytest.mark.parametrize(
    "error",
    [
        SourceError("filter"),
        ConfigError("k"),
        pg.InFailedSqlTransaction("aborted"),
        SessionUnusable("x", "connection busy", ""),
        KeyError("a bug"),
    ],
)
def test_what_is_the_callers_fault_opens_nothing(error: Exception) -> None:
    breaker = Breaker("db")
    for _ in range(3 * _breaker.FAILURES):
        fail(breaker, error)
    assert breaker.state == "closed"


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker("db")
    for _ in range(3):
        for _ in range(_breaker.FAILURES - 1):
            fail(breaker, LATE)
        with breaker.watched():
            pass
    assert breaker.state == "closed"


@pytest.mark.usefixtures("quick")
def test_an_interrupted_trial_leaves_room_for_the_next() -> None:
    breaker = Breaker("db")
    for _ in range(_breaker.FAILURES):
        fail(breaker, LATE)
    threading.Event().wait(0.06)
    with pytest.raises(KeyboardInterrupt), breaker.watched():
        raise KeyboardInterrupt
    with breaker.watched():
        pass
    assert breaker.state == "closed"


def test_a_trial_that_was_lost_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_breaker, "FIRST_S", 0.0)
    monkeypatch.setattr(_breaker, "TRIAL_S", 0.02)
    breaker = Breaker("db")
    for _ in range(_breaker.FAILURES):
        fail(breaker, LATE)
    breaker.admit()  # and never reported
    threading.Event().wait(0.03)
    with pytest.raises(CircuitOpen):
        breaker.admit()
    breaker.admit()


def test_a_child_of_a_fork_asks_for_itself() -> None:
    breaker = Breaker("db")
    for _ in range(_breaker.FAILURES):
        fail(breaker, LATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads of other tests
        child = os.fork()
    if child == 0:
        try:
            breaker.admit()
        except CircuitOpen:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert breaker.state == "open"


def test_databases_have_breakers_of_their_own() -> None:
    one, other = f"a{uuid4()}", f"b{uuid4()}"
    assert _breaker.of(one) is _breaker.of(one)
    assert _breaker.of(one) is not _breaker.of(other)
