"""What the breaker learns from, and whom it stops."""

from __future__ import annotations

import time

import psycopg
import pytest
from island import Island
from psycopg import errors as pg

from recsys import Recommender, _breaker
from recsys._breaker import Breaker, CircuitOpen
from recsys._deadline import DeadlineExceeded
from recsys.artifacts import StillLoading
from recsys.errors import ConfigError, SourceError, UnknownItem


def half_open() -> Breaker:
    breaker = Breaker("db")
    for _ in range(_breaker.FAILURES):
        breaker.ended(DeadlineExceeded("late"))
    breaker._until = 0.0
    assert breaker.state == "half-open"
    return breaker


def ended(breaker: Breaker, exc: Exception) -> str:
    with pytest.raises(type(exc)), breaker.watched():
        raise exc
    return breaker.state


def caused(exc: Exception, by: Exception) -> Exception:
    exc.__cause__ = by
    return exc


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("k"),
        KeyError("a bug"),
        psycopg.ProgrammingError("cannot adapt type 'Opaque'"),
        StillLoading("late"),
    ],
)
def test_a_trial_that_never_reached_the_database_decides_nothing(
    error: Exception,
) -> None:
    breaker = half_open()
    assert ended(breaker, error) == "half-open"
    with breaker.watched():  # the next one may try at once
        pass
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    "error",
    [
        UnknownItem("42"),
        pg.UndefinedTable("filter"),
        caused(SourceError("filter"), pg.UndefinedTable("filter")),
    ],
)
def test_an_error_that_the_database_gave_closes_it(error: Exception) -> None:
    assert ended(half_open(), error) == "closed"


def test_a_wrong_argument_in_between_does_not_start_the_count_again() -> None:
    breaker = Breaker("db")
    for _ in range(_breaker.FAILURES):
        ended(breaker, ConfigError("k"))
        breaker.ended(DeadlineExceeded("late"))
    assert breaker.state == "open"


def test_a_write_counts_and_is_stopped_as_well(primary: Island) -> None:
    with Recommender("shop", dsn=primary.dsn, timeout_ms=3000) as shop:
        good = shop.recommend(7)
        shop._timeout_ms = 80
        with psycopg.connect(primary.dsn) as other:
            other.execute("lock table recsys.interaction in access exclusive mode")
            for _ in range(_breaker.FAILURES):
                with pytest.raises(DeadlineExceeded):
                    shop.record(7, 42, "view")
            started = time.monotonic()
            with pytest.raises(CircuitOpen):
                shop.record(7, 42, "view")
            assert time.monotonic() - started < 0.05
            page = shop.recommend(7)
    assert page.degraded == "circuit open"
    assert set(page.ids) <= set(good.ids)
