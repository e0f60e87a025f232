"""recommend() inside an application whose database misbehaves."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from island import Island, wait_for
from psycopg.pq import TransactionStatus

from recsys import Recommender, _breaker, _db
from recsys._deadline import DeadlineExceeded
from recsys.errors import DatabaseUnavailable, SourceError
from recsys.types import Page

CHEAP = ("select id from product where price < %s", [20])


@contextmanager
def locked(primary: Island) -> Iterator[None]:
    """Somebody else keeps everybody from the item vectors."""
    with psycopg.connect(primary.dsn) as conn:
        conn.execute("lock table recsys.item_vector_shop_1 in access exclusive mode")
        yield


def took(started: float) -> float:
    return time.monotonic() - started


def cheap(primary: Island) -> set[object]:
    return {row[0] for row in primary.execute("select id from product where price<20")}


# past the budget ---------------------------------------------------------------------


@pytest.mark.parametrize("borrowed", [False, True])
def test_past_its_budget_the_last_good_answer_is_returned(
    primary: Island, borrowed: bool
) -> None:
    with (
        _db.connect(primary.dsn) as conn,
        Recommender(
            "shop",
            connection=conn if borrowed else None,
            dsn=None if borrowed else primary.dsn,
            timeout_ms=2000,
        ) as shop,
    ):
        good = shop.recommend(7, k=10)
        alike = shop.similar_items(42, k=10)
        # What was read holds a lock until the transaction ends.
        conn.rollback()
        with locked(primary):
            started = time.monotonic()
            page = shop.recommend(7, k=10, timeout_ms=100)
            other = shop.recommend(
                7, k=10, exclude=[good.ids[0], good.ids[3]], timeout_ms=100
            )
            same = shop.similar_items(42, k=10, timeout_ms=100)
            assert took(started) < 1.0
        after = shop.recommend(7, k=10)

    assert good.degraded is None
    assert (page.items, page.degraded, page.version) == (good.items, "timeout", 1)
    assert page.request_id != good.request_id
    assert (same.items, same.degraded) == (alike.items, "timeout")
    kept = [i for i in good.ids if i not in (good.ids[0], good.ids[3])]
    assert (other.ids[:8], len(other)) == (kept, 10)
    assert (after.items, after.degraded) == (good.items, None)


def test_the_transaction_of_the_application_stays_usable(primary: Island) -> None:
    with _db.connect(primary.dsn) as conn:
        shop = Recommender("shop", connection=conn)
        shop.recommend(7)  # loads pgvector, which brings settings
        conn.commit()
        conn.execute("create temp table basket (id int) on commit drop")
        conn.execute("insert into basket values (1)")
        settings = conn.execute("select name, setting from pg_settings").fetchall()
        with locked(primary):
            for _ in range(3):
                assert shop.recommend(7, timeout_ms=80).degraded == "timeout"
        assert conn.info.transaction_status == TransactionStatus.INTRANS
        conn.execute("insert into basket values (2)")

        assert conn.execute("select id from basket").fetchall() == [(1,), (2,)]
        assert shop.recommend(7, timeout_ms=5000).degraded is None
        now = conn.execute("select name, setting from pg_settings").fetchall()
        assert now == settings
        assert "wait" not in vars(conn)


def _view_that_fails(conn: _db.Connection, shop: Recommender) -> None:
    with conn.transaction():
        conn.execute("insert into event select 7, 99, 'lost', now()")
        assert len(shop.recommend(7)) == 20
        raise ZeroDivisionError


def test_an_error_of_the_application_afterwards_undoes_only_its_own(
    primary: Island,
) -> None:
    with _db.connect(primary.dsn, autocommit=True) as conn:
        shop = Recommender("shop", connection=conn, timeout_ms=2000)
        with pytest.raises(ZeroDivisionError):
            _view_that_fails(conn, shop)
        with conn.transaction():
            assert len(shop.recommend(7)) == 20
            with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
                conn.execute("select 1/0")
            assert len(shop.recommend(7)) == 20
        lost = "select from event where customer_id = 7 and product_id = 99"
        assert (
            conn.execute(lost + " and created_at > now() - interval '1 h'").rowcount
            == 0
        )


def test_a_statement_timeout_of_the_application_is_a_fallback(primary: Island) -> None:
    with _db.connect(primary.dsn) as conn:
        shop = Recommender("shop", connection=conn)
        good = shop.recommend(7)
        conn.rollback()
        conn.execute("set local statement_timeout = '80ms'")
        with locked(primary):
            page = shop.recommend(7)

        assert (page.items, page.degraded) == (good.items, "timeout")
        assert conn.execute("show statement_timeout").fetchone() == ("80ms",)


def test_without_a_fallback_the_budget_raises(primary: Island) -> None:
    with Recommender("shop", dsn=primary.dsn, fallback=False, timeout_ms=3000) as shop:
        assert len(shop.recommend(7)) == 20
        with locked(primary):
            with pytest.raises(TimeoutError, match="within 80 ms"):
                shop.recommend(7, timeout_ms=80)
            with pytest.raises(DeadlineExceeded, match="within 80 ms") as caught:
                shop.similar_items(42, timeout_ms=80)
        assert "docs/budget.md" in caught.value.hint


def test_record_keeps_the_budget_and_raises(primary: Island) -> None:
    with (
        Recommender("shop", dsn=primary.dsn, timeout_ms=100) as shop,
        psycopg.connect(primary.dsn) as other,
    ):
        other.execute("lock table recsys.interaction in access exclusive mode")
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            shop.record(7, 42, "view")
        assert took(started) < 1.0


# an error of the database --------------------------------------------------------


def test_a_server_that_is_gone_and_comes_back(
    primary: Island, caplog: pytest.LogCaptureFixture
) -> None:
    with Recommender("shop", dsn=primary.dsn, timeout_ms=5000) as shop:
        good = shop.recommend(7, k=10)
        for _ in range(2):
            filtered = shop.recommend(8, k=5, among=CHEAP)
            shop._engine.memory._next = 0.0
        with primary.down(), caplog.at_level(logging.WARNING):
            page = shop.recommend(7, k=10)
            stranger = shop.recommend(4_000_000, k=10)
            same = shop.recommend(8, k=5, among=CHEAP)
            strangers = shop.recommend(4_000_000, k=5, among=CHEAP)
            never = shop.recommend(7, k=5, among=(CHEAP[0], [21]))
            for _ in range(20):
                started = time.monotonic()
                broken = shop.recommend(7, k=10)
                assert took(started) < 0.2
        wait_for(lambda: shop.recommend(7, k=10).degraded is None)
        after = shop.recommend(7, k=10)

    assert (page.items, page.degraded) == (good.items, "database")
    assert (len(stranger), stranger.degraded) == (10, "database")
    assert (same.items, broken.items) == (filtered.items, good.items)
    assert broken.degraded == "circuit open"
    assert len(strangers) == 5
    assert {*strangers.ids} <= cheap(primary)
    # A filter nobody asked for yet: no item is known to pass it.
    assert (never.items, never.version, never.degraded) == ((), None, "database")
    assert after.items == good.items
    said = [r for r in caplog.records if "answers from memory" in r.message]
    assert len(said) <= 2  # once a minute for each reason


def test_popular_items_are_the_most_popular(primary: Island) -> None:
    rows = primary.execute(
        "select item_id, (embedding::vector::real[])[9] from recsys.item_vector_shop_1"
        " order by 2 desc, 1 limit 20"
    )
    with Recommender("shop", dsn=primary.dsn) as shop:
        shop.recommend(7)
        with locked(primary):
            found = shop.recommend(4_000_000, timeout_ms=80)

    assert len({*found.ids} & {row[0] for row in rows}) >= 18


def test_pages_of_a_fallback_do_not_repeat(primary: Island) -> None:
    with Recommender("shop", dsn=primary.dsn, timeout_ms=5000) as shop:
        first = shop.recommend(7, k=10)
        with locked(primary):
            second = shop.recommend(7, k=10, after=first, timeout_ms=80)
            third = second.next()
            degraded = shop.recommend(7, k=10, timeout_ms=80)
            then = degraded.next()

    pages = [first, second, third]
    assert [page.degraded for page in pages] == [None, "timeout", "timeout"]
    assert len({i for page in pages for i in page.ids}) == 30
    assert second.earlier == tuple(first.ids)
    assert then.earlier == tuple(first.ids)
    assert not {*then.ids} & {*first.ids}


def test_a_frozen_server_costs_a_few_budgets_and_then_nothing(primary: Island) -> None:
    with Recommender("shop", dsn=primary.dsn, timeout_ms=100) as shop:
        good = shop.recommend(7, timeout_ms=5000)
        with primary.frozen():
            waited: list[float] = []
            pages: list[Page] = []
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                started = time.monotonic()
                pages.append(shop.recommend(7))
                waited.append(took(started))
                time.sleep(0.01)
        wait_for(lambda: shop.recommend(7).degraded is None)

    assert max(waited) < 0.5
    assert {page.items for page in pages} == {good.items}
    reasons = [page.degraded for page in pages]
    assert reasons[: _breaker.FAILURES] == ["timeout"] * _breaker.FAILURES
    assert reasons.count("timeout") <= _breaker.FAILURES + 2
    quick = [t for t, why in zip(waited, reasons, strict=True) if why != "timeout"]
    assert sorted(quick)[len(quick) // 2] < 0.005


def test_a_pool_that_is_exhausted_is_a_fallback(primary: Island) -> None:
    alchemy = pytest.importorskip("sqlalchemy")
    url = primary.dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = alchemy.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    shop = Recommender("shop", connection=engine)
    good = shop.recommend(7)
    with engine.connect():
        pages = [shop.recommend(7) for _ in range(_breaker.FAILURES + 1)]
    assert {page.degraded for page in pages} == {"connection busy"}
    assert {page.items for page in pages} == {good.items}
    assert shop.recommend(7).degraded is None

    # The pool's own limit is what bounds the wait; a budget does not add to it.
    with engine.connect():
        started = time.monotonic()
        page = shop.recommend(7, timeout_ms=50)
        assert took(started) < 0.3
    assert (page.degraded, page.items) == ("connection busy", good.items)
    engine.dispose()


def test_a_connection_that_is_in_use_is_not_waited_for(primary: Island) -> None:
    with _db.connect(primary.dsn) as conn:
        shop = Recommender("shop", connection=conn)
        good = shop.recommend(7)
        with conn.cursor().copy("copy product to stdout") as copy:
            page = shop.recommend(7)
            assert len(list(copy)) == 200
        assert (page.items, page.degraded) == (good.items, "connection busy")
        assert shop.recommend(7).degraded is None


def test_a_closed_connection_is_a_fallback(primary: Island) -> None:
    conn = _db.connect(primary.dsn)
    shop = Recommender("shop", connection=conn)
    good = shop.recommend(7)
    conn.close()

    page = shop.recommend(7)

    assert (page.items, page.degraded) == (good.items, "database")
    with _db.connect(primary.dsn) as other:
        assert shop.on(other).recommend(7).degraded is None


def test_a_wrong_filter_is_no_fallback(primary: Island) -> None:
    with Recommender("shop", dsn=primary.dsn, timeout_ms=2000) as shop:
        shop.recommend(7)
        for _ in range(_breaker.FAILURES + 1):
            with pytest.raises(SourceError):
                shop.recommend(7, among="select id from nowhere")
        assert shop.recommend(7).degraded is None


@pytest.mark.parametrize("code", ["23514", "55000", "38000", "P0001"])
def test_what_a_function_in_a_filter_raises_is_the_applications(
    primary: Island, code: str
) -> None:
    primary.execute(
        "create or replace function refuse() returns bigint language plpgsql as"
        f" $$begin raise exception 'no' using errcode = '{code}'; end$$"
    )
    with (
        Recommender("shop", dsn=primary.dsn, timeout_ms=2000) as shop,
        pytest.raises(SourceError, match="no"),
    ):
        shop.recommend(7, among="select refuse()")


def test_a_limit_of_the_application_is_not_taken_for_ours(primary: Island) -> None:
    """As web servers and task queues set it, by a signal."""

    def strike(*_: object) -> None:
        raise TimeoutError("30 s for a request")

    slow = "select id from product where (select pg_sleep(1)) is not null"
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with Recommender("shop", dsn=primary.dsn) as shop:
            shop.recommend(7)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(TimeoutError, match="30 s for a request"):
                shop.recommend(7, among=slow)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("borrowed", [False, True])
def test_a_server_that_takes_ten_seconds(primary: Island, borrowed: bool) -> None:
    slow = "select id from product where (select pg_sleep(10)) is not null"
    with (
        _db.connect(primary.dsn) as conn,
        Recommender(
            "shop",
            connection=conn if borrowed else None,
            dsn=None if borrowed else primary.dsn,
        ) as shop,
    ):
        good = shop.recommend(7, timeout_ms=5000)
        started = time.monotonic()
        page = shop.recommend(7, among=slow, timeout_ms=300)
        assert 0.3 <= took(started) < 0.6

        assert (page.degraded, page.items) == ("timeout", ())
        left = "select count(*) from pg_stat_activity where query like %s"
        active = left + " and state = 'active' and pid <> pg_backend_pid()"
        assert primary.execute(active, "%pg_sleep(10)%") == [(0,)]
        assert shop.recommend(7, timeout_ms=5000).items == good.items


@pytest.mark.parametrize("budget", [0, -1, "100", True, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(budget: object) -> None:
    with pytest.raises(ValueError, match="timeout_ms"):
        Recommender("shop", timeout_ms=budget)  # type: ignore[arg-type]


def test_what_fell_back_is_logged_as_such(primary: Island) -> None:
    with Recommender("shop", dsn=primary.dsn, impressions="background") as shop:
        shop.recommend(7, k=5)
        with locked(primary):
            page = shop.recommend(7, k=5, timeout_ms=80)
        assert shop.impressions.flush(5)
    rows = primary.execute(
        "select item_ids, degraded, version, error from recsys.impression"
        " where request_id = %s",
        page.request_id,
    )

    assert rows == [([str(one) for one in page.ids], "timeout", 1, None)]


def test_a_failure_is_raised_to_those_who_want_it(primary: Island) -> None:
    with (
        Recommender("shop", dsn="host=/nowhere", fallback=False) as shop,
        pytest.raises(DatabaseUnavailable, match="cannot connect"),
    ):
        shop.recommend(7)
