"""What answers when the database does not, and what it may never return."""

from __future__ import annotations

import os
import threading
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors as pg

from recsys import _breaker, _fallback
from recsys._breaker import Breaker, CircuitOpen
from recsys._deadline import DeadlineExceeded
from recsys._fallback import NO_FILTER, Memory, key_of, reason_of
from recsys.errors import (
    ConfigError,
    DatabaseUnavailable,
    SourceError,
    UnknownItem,
    VersionStateError,
)
from recsys.types import ItemId, Recommendation


def items(*ids: ItemId, top: float = 1.0) -> list[Recommendation]:
    return [Recommendation(one, top - i / 100) for i, one in enumerate(ids)]


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


# keys --------------------------------------------------------------------------------


@dataclass
class Opaque:
    value: int


def test_two_filters_have_one_key_only_if_every_value_is_the_same() -> None:
    now = datetime.now(UTC)
    same = [1, "a", None, Decimal("1.5"), now, timedelta(1), {"x": [1]}, b"y", {3}]
    assert key_of("f", same) == key_of("f", [*same])
    others: list[object] = [1, 1.0, True, "1", Decimal(1), [1], {"a": 1}, {1}, None]
    assert len({key_of(one) for one in others}) == len(others)
    assert key_of(UUID(int=7)) != key_of(7)


def test_a_value_that_cannot_be_compared_is_not_remembered() -> None:
    assert key_of("f", Opaque(1)) is None
    memory = Memory()
    memory.remember(key_of(Opaque(1)), 1, items(1))
    assert memory.answer(key_of(Opaque(2)), None, 5, ()) == (None, [])


# memory ------------------------------------------------------------------------------


def test_the_last_good_answer_comes_without_what_is_excluded() -> None:
    memory = Memory()
    memory.remember(("u", 7), 3, items(1, 2, 3, 4))

    version, found = memory.answer(("u", 7), NO_FILTER, 2, [1, 3])

    assert (version, [one.item_id for one in found]) == (3, [2, 4])
    assert memory.answer(("u", 8), NO_FILTER, 2, ()) == (None, [])


def test_popular_items_fill_the_page_best_first_and_once() -> None:
    memory = Memory()
    memory.remember("u", 3, items(1, 2, top=-5.0))
    memory.keep_popular(NO_FILTER, 2, items(2, 9, 8, 7, top=40.0))

    version, found = memory.answer("u", NO_FILTER, 4, [8])

    assert (version, [one.item_id for one in found]) == (3, [1, 2, 9, 7])
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    version, found = memory.answer("stranger", NO_FILTER, 2, ())
    assert (version, [one.item_id for one in found]) == (2, [2, 9])


def test_popular_items_of_another_filter_are_never_returned() -> None:
    memory = Memory()
    memory.keep_popular(NO_FILTER, 1, items(1, 2, 3))
    memory.keep_popular(key_of(("cheap", (5,))), 1, items(4))

    cheap = memory.answer(None, key_of(("cheap", (5,))), 3, ())[1]

    assert [one.item_id for one in cheap] == [4]
    assert memory.answer(None, key_of(("cheap", (6,))), 3, ()) == (None, [])
    assert memory.answer(None, None, 3, ()) == (None, [])


def test_memory_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    memory = Memory()
    for user in range(_fallback._PAGES + 10):
        memory.remember(user, 1, items(user))
        memory.remember(0, 1, items(0))
    assert len(memory._pages) == _fallback._PAGES
    assert memory.answer(0, None, 1, ())[0] == 1
    assert memory.answer(1, None, 1, ())[0] is None

    for user in range(200):
        memory.remember(("long", user), 1, items(*range(1000)))
    assert memory._items <= _fallback._ITEMS
    assert memory._items == sum(len(p.items) for p in memory._pages._kept.values())


def test_popular_items_are_read_for_filters_that_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory()
    assert memory.popular_due(NO_FILTER)
    assert not memory.popular_due(NO_FILTER)  # at most one a second
    memory._next = 0.0
    assert not memory.popular_due("new")
    assert memory.popular_due("new")
    memory._next = 0.0
    memory.keep_popular("new", 1, items(1))
    assert not memory.popular_due("new")
    monkeypatch.setattr(_fallback, "POPULAR_EVERY_S", 0.0)
    assert memory.popular_due("new")
    assert not Memory().popular_due(None)


def test_threads_share_a_memory() -> None:
    memory = Memory()
    wrong: list[object] = []

    def work(seed: int) -> None:
        for n in range(3000):
            user = (seed * 7919 + n * 31) % 1500
            memory.remember(user, user, items(user))
            version, found = memory.answer(user, None, 1, ())
            if found and (version, found[0].item_id) != (user, user):
                wrong.append((user, version, found))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert len(memory._pages) <= _fallback._PAGES + len(threads)


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
        _fallback.SessionUnusable("x", "connection busy", ""),
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
