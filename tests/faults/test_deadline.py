"""A deadline holds over connecting and every statement, whatever the server does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from island import Island
from psycopg.pq import TransactionStatus

from recsys import _deadline
from recsys._deadline import (
    BORROWED_GRACE_S,
    OWN_GRACE_S,
    Deadline,
    DeadlineExceeded,
)
from recsys.errors import DatabaseUnavailable

SLACK_S = 0.2
"""What a busy machine may add."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds + SLACK_S


@contextmanager
def held(conn: psycopg.Connection, ms: float, *, borrowed: bool) -> Iterator[None]:
    with _deadline.until(Deadline(ms)), _deadline.on(conn, borrowed=borrowed):
        yield


def running(primary: Island, what: str) -> int:
    query = (
        "select count(*) from pg_stat_activity where state = 'active' and query = %s"
    )
    return int(str(primary.execute(query, what)[0][0]))


def test_a_statement_is_cancelled_on_the_server(primary: Island) -> None:
    with psycopg.connect(primary.dsn, autocommit=True) as conn:
        with (
            at_most(0.2),
            pytest.raises(DeadlineExceeded, match="within 100 ms") as caught,
            held(conn, 100, borrowed=False),
        ):
            conn.execute("select pg_sleep(3)")

        assert isinstance(caught.value, DatabaseUnavailable | TimeoutError)
        assert running(primary, "select pg_sleep(3)") == 0
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_transaction_of_the_application_goes_on(primary: Island) -> None:
    with psycopg.connect(primary.dsn) as conn:
        conn.execute("create temp table mine (n integer)")
        conn.execute("insert into mine values (1)")
        for _ in range(2):
            with (
                at_most(0.2),
                pytest.raises(DeadlineExceeded),
                held(conn, 100, borrowed=True),
                conn.transaction(),
            ):
                conn.execute("insert into mine select 2 + pg_sleep(3)::text::int")

        assert conn.info.transaction_status == TransactionStatus.INTRANS
        assert conn.execute("select n from mine").fetchall() == [(1,)]
        assert "wait" not in vars(conn)
        conn.commit()


def _one_by_one(conn: psycopg.Connection) -> Iterator[int]:
    for n in range(10):
        conn.execute("select pg_sleep(0.13)")  # the third crosses the deadline
        yield n


def test_statements_share_the_time(primary: Island) -> None:
    done: list[int] = []
    with (
        psycopg.connect(primary.dsn, autocommit=True) as conn,
        at_most(0.4),
        pytest.raises(DeadlineExceeded),
        held(conn, 300, borrowed=False),
    ):
        done.extend(_one_by_one(conn))

    assert 1 <= len(done) <= 2


def test_nothing_changes_without_a_deadline(primary: Island) -> None:
    with psycopg.connect(primary.dsn) as conn:
        with _deadline.on(conn, borrowed=True):
            assert "wait" not in vars(conn)
        assert _deadline.current() is None


def test_the_nearer_of_two_deadlines_holds(primary: Island) -> None:
    near, far = Deadline(50), Deadline(5000)
    with _deadline.until(near), _deadline.until(far) as inner:
        assert inner is near
    with _deadline.until(far), _deadline.until(near) as inner:
        assert inner is near
    assert _deadline.current() is None


@pytest.mark.parametrize("borrowed", [False, True])
def test_a_connection_to_a_frozen_server_is_given_up(
    primary: Island, borrowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    grace = BORROWED_GRACE_S if borrowed else OWN_GRACE_S
    with psycopg.connect(primary.dsn) as conn:
        with (
            primary.frozen(),
            at_most(0.1 + grace),
            pytest.raises(DeadlineExceeded, match="did not come back"),
            held(conn, 100, borrowed=borrowed),
            conn.transaction(),
        ):
            conn.execute("select 1")

        assert conn.closed
    assert ("application's connection" in caplog.text) == borrowed


@contextmanager
def cancels_come_late(primary: Island, after: threading.Event) -> Iterator[None]:
    """Sessions go on; what takes up a cancel does so a while after an event."""
    postmaster = primary.processes()[0]

    def wake() -> None:
        after.wait(5)
        time.sleep(0.2)
        postmaster.resume()

    waker = threading.Thread(target=wake)
    postmaster.suspend()
    waker.start()
    try:
        yield
    finally:
        after.set()
        waker.join()


def test_a_late_cancel_does_not_strike_the_application(primary: Island) -> None:
    again = threading.Event()
    with psycopg.connect(primary.dsn) as conn, cancels_come_late(primary, again):
        conn.execute("create temp table mine (n integer)")
        with held(conn, 100, borrowed=True):
            conn.execute("select pg_sleep(0.4)")  # ends by itself, within the grace
        again.set()

        for _ in range(4):
            conn.execute("insert into mine select 1 from pg_sleep(0.1)")

        assert conn.execute("select count(*) from mine").fetchone() == (4,)
        assert "wait" not in vars(conn)


def test_the_next_request_waits_for_a_late_cancel_within_its_budget(
    primary: Island,
) -> None:
    again = threading.Event()
    with psycopg.connect(primary.dsn) as conn, cancels_come_late(primary, again):
        with held(conn, 100, borrowed=True):
            conn.execute("select pg_sleep(0.4)")
        again.set()
        with held(conn, 2000, borrowed=True):
            assert conn.execute("select 1 from pg_sleep(0.3)").fetchone() == (1,)
        assert "wait" not in vars(conn)


def test_an_own_connection_that_a_cancel_may_strike_is_closed(primary: Island) -> None:
    with (
        psycopg.connect(primary.dsn, autocommit=True) as conn,
        cancels_come_late(primary, threading.Event()),
    ):
        with held(conn, 100, borrowed=False):
            conn.execute("select pg_sleep(0.15)")
        assert conn.closed


@pytest.mark.parametrize("order", ["first in, first out", "last in, first out"])
def test_two_threads_on_one_connection_leave_nothing_behind(
    primary: Island, order: str
) -> None:
    inside, out = [threading.Event() for _ in "ab"], [threading.Event() for _ in "ab"]

    def hold(mine: int) -> None:
        with held(conn, 200, borrowed=True):
            inside[mine].set()
            out[mine].wait(5)

    with psycopg.connect(primary.dsn, autocommit=True) as conn:
        threads = [threading.Thread(target=hold, args=(mine,)) for mine in (0, 1)]
        for thread, is_in in zip(threads, inside, strict=True):
            thread.start()
            is_in.wait(5)
        # A thread without a deadline is none of theirs.
        assert conn.execute("select 1 from pg_sleep(0.3)").fetchone() == (1,)
        for mine in (0, 1) if order.startswith("first") else (1, 0):
            out[mine].set()
            threads[mine].join()

        assert "wait" not in vars(conn)
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_thread_keeps_its_deadline_when_another_leaves(primary: Island) -> None:
    with psycopg.connect(primary.dsn, autocommit=True) as conn:
        first = _deadline.on(conn, borrowed=True)
        with _deadline.until(Deadline(150)):
            first.__enter__()
            second = threading.Thread(target=_hold_shortly, args=(conn,))
            second.start()
            second.join()
            with pytest.raises(DeadlineExceeded):
                conn.execute("select pg_sleep(2)")
            first.__exit__()
        assert "wait" not in vars(conn)


def _hold_shortly(conn: psycopg.Connection) -> None:
    with held(conn, 5000, borrowed=True):
        conn.execute("select 1")


def test_a_frozen_server_is_not_connected_to_for_long(primary: Island) -> None:
    with (
        primary.frozen(),
        at_most(0.1),
        pytest.raises(DeadlineExceeded),
        _deadline.until(Deadline(100)),
    ):
        _deadline.connect(primary.dsn)


def test_a_second_host_has_its_share_of_the_time(
    primary: Island, tmp_path: Path
) -> None:
    params = psycopg.conninfo.conninfo_to_dict(primary.dsn)
    silent = Path("/tmp") / f"{tmp_path.name[-20:]}-{time.monotonic_ns()}"
    silent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(silent / ".s.PGSQL.5432"))
        listener.listen()
        both = psycopg.conninfo.make_conninfo(
            primary.dsn, host=f"{silent},{params['host']}"
        )

        with at_most(0.3), _deadline.until(Deadline(400)):
            conn = _deadline.connect(both)

    with conn:
        assert conn.info.host == params["host"]
        assert conn.prepare_threshold is None
    (silent / ".s.PGSQL.5432").unlink()
    silent.rmdir()


def test_a_connection_is_like_one_of_psycopg(primary: Island) -> None:
    query = "select current_setting('application_name'), current_setting('TimeZone')"
    with psycopg.connect(primary.dsn, application_name="recsys") as conn:
        wanted = conn.execute(query).fetchone()
    with _deadline.until(Deadline(5000)), _deadline.connect(primary.dsn) as conn:
        assert conn.execute(query).fetchone() == wanted


@pytest.mark.parametrize(
    ("dsn", "error"),
    [
        ("host=/nowhere", psycopg.OperationalError),
        ("host=/nowhere,/neither port=1,2,3", psycopg.OperationalError),
        ("nonsense", psycopg.ProgrammingError),
    ],
)
def test_what_cannot_connect_says_so_at_once(dsn: str, error: type[Exception]) -> None:
    with at_most(0.1), pytest.raises(error), _deadline.until(Deadline(5000)):
        _deadline.connect(dsn)
