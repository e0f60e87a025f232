"""Slow requests: kept with their plans, bounded, out of the application's way."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import world
from psycopg import errors as pg
from psycopg.pq import TransactionStatus
from world import Shop

from recsys import Recommender, _db, clean_up, observe, slow
from recsys.errors import ConfigError
from recsys.observe import Answered

Watch = Callable[..., slow.SlowRequests]


@pytest.fixture
def keeping() -> Iterator[Watch]:
    """Adds an observer that finds every request slow; takes it away again."""
    added: list[slow.SlowRequests] = []

    def watch(slow_ms: float = 0.0, **options: Any) -> slow.SlowRequests:
        one = slow.SlowRequests(slow_ms, **{"every_s": 0.0, **options})
        observe.add(one)
        added.append(one)
        return one

    yield watch
    for one in added:
        observe.remove(one)
        assert one.join()


@pytest.fixture(scope="module")
def still(server: str, shop_template: Shop) -> Iterator[Shop]:
    with world.database(server, world.name_of(shop_template.dsn)) as dsn:
        yield Shop(dsn, shop_template.learned)


@pytest.fixture
def log(still: Shop) -> Iterator[_db.Connection]:
    with _db.connect(still.dsn, autocommit=True) as conn:
        conn.execute("delete from recsys.slow_request")
        yield conn


def rows(conn: _db.Connection) -> list[dict[str, Any]]:
    return slow.kept(conn, "shop", 1000)


def row(**more: Any) -> str:
    given = {"model": "shop", "channel": "x", "k": 5, "returned": 5, "total_ms": 1.5}
    return json.dumps({**given, **more})


# what is kept -----------------------------------------------------------------------


def test_a_slow_request_is_kept_with_the_plans_of_its_statements(
    still: Shop, log: _db.Connection, keeping: Watch
) -> None:
    observer = keeping()
    with Recommender("shop", dsn=still.dsn) as shop:
        page = shop.recommend(
            7, k=5, among=("select id from product where price < %s", [50])
        )
        assert observer.join()

    (found,) = rows(log)
    assert found["request_id"] == page.request_id
    assert (found["version"], found["channel"], found["user_id"]) == (
        1,
        "two-tower",
        "7",
    )
    assert (found["k"], found["returned"], found["error"]) == (5, 5, None)
    times = [found[f"{stage}_ms"] for stage in observe.STAGES]
    assert all(ms > 0 for ms in times)
    assert sum(times) <= found["total_ms"] * 1.01
    assert times[observe.STAGES.index(found["slowest"])] == max(times)
    assert found["filter"] == "select id from product where price < 50"
    assert found["plan_error"] is None
    state, index, exact = found["plan"].split("\n\n")
    assert "-- state\n" in state
    assert "event" in state  # the interaction source, planned as the function does
    assert "item_vector_shop_1_hnsw" in index
    assert "(price < " in exact
    assert "Sort" in exact
    assert "0,0,0" not in found["plan"]


def test_sessions_and_similar_items_are_explained_too(
    still: Shop, log: _db.Connection, keeping: Watch
) -> None:
    observer = keeping()
    with Recommender("shop", dsn=still.dsn) as shop:
        shop.recommend(history=[1, 2, 3], k=5)
        assert observer.join()
        shop.similar_items(42, k=5)
        assert observer.join()

    similar, session = rows(log)
    assert similar["channel"] == "similar"
    assert similar["plan"].startswith("-- candidates, by the index\n")
    assert "unnest" in session["plan"].lower() or "Function Scan" in session["plan"]
    assert similar["plan_error"] is session["plan_error"] is None


@pytest.mark.parametrize("id_type", ["uuid", "text"])
def test_other_id_types_are_explained(dsn: str, keeping: Watch, id_type: Any) -> None:
    world.fill_shop(dsn, id_type)
    world.add_version(dsn, world.shop_config(id_type), promote=True)
    observer = keeping()
    with Recommender("shop", dsn=dsn) as shop, _db.connect(dsn) as conn:
        user, item = uuid4(), conn.execute("select id from product").fetchone()
        assert item
        shop.recommend(user if id_type == "uuid" else str(user), k=5)
        assert observer.join()
        shop.recommend(history=[item[0]], k=5)
        assert observer.join()

        assert [r["plan_error"] for r in rows(conn)] == [None, None]


def test_a_failure_and_a_timeout_are_kept(
    still: Shop, log: _db.Connection, keeping: Watch
) -> None:
    observer = keeping()
    with (
        Recommender("shop", dsn=still.dsn) as shop,
        pytest.raises(Exception, match="no_such_column"),
    ):
        shop.recommend(7, among="select no_such_column from product")
    assert observer.join()
    observe.remove(observer)
    late = keeping(slow_ms=1000, dsn=still.dsn)
    late(Answered("shop", "two-tower", 5, degraded="timeout", total_ms=20.0))
    assert late.join()

    timeout, failure = rows(log)
    assert failure["error"].startswith("SourceError: ")
    assert "no_such_column" in failure["plan_error"]
    assert timeout["degraded"] == "timeout"
    assert timeout["plan_error"] == "the database was not reached"


def test_a_filter_cannot_do_more_than_be_planned(
    still: Shop, log: _db.Connection
) -> None:
    """Nor by a second statement, nor by one that writes."""
    seen: list[Answered] = []
    with Recommender("shop", dsn=still.dsn) as shop:
        see = seen.append
        observe.add(see)
        shop.recommend(7)
        observe.remove(see)
    event = replace(seen[0], channel="similar")
    assert event.asked is not None
    for among in (
        "select id from product); delete from recsys.slow_request; select (1",
        "select 1::bigint where recsys._keep_slow_request(null::json)",
        "with gone as (delete from product returning id) select id from gone",
    ):
        asked = replace(event.asked, among=among)
        assert slow.keep(still.dsn, replace(event, asked=asked))

    nested, called, several = rows(log)
    assert "multiple commands" in several["plan_error"]
    assert nested["plan"] is None
    assert called["plan_error"] is None, "planned, not run: it may not write here"
    assert log.execute("select count(*) from product").fetchone() == (200,)


# how much ---------------------------------------------------------------------------


def test_a_bad_minute_keeps_one_request(
    still: Shop, log: _db.Connection, keeping: Watch
) -> None:
    observer = keeping(every_s=60.0)
    with Recommender("shop", dsn=still.dsn) as shop:
        for user in range(1, 8):
            shop.recommend(user, k=3)

    assert observer.join()
    assert (observer.kept, observer.passed_over, observer.failed) == (1, 6, 0)
    assert len(rows(log)) == 1


def test_fast_requests_start_nothing(
    still: Shop, log: _db.Connection, keeping: Watch
) -> None:
    observer = keeping(slow_ms=60_000)
    before = threading.active_count()
    with Recommender("shop", dsn=still.dsn) as shop:
        shop.recommend(7)

    assert threading.active_count() == before
    assert (observer.kept, observer.passed_over) == (0, 0)
    assert rows(log) == []


def test_the_table_is_bounded_in_number_and_length(log: _db.Connection) -> None:
    log.execute(
        "select recsys._keep_slow_request(json_build_object('model', 'shop', 'k', 5,"
        " 'channel', 'x', 'total_ms', 1, 'returned', n)) from generate_series(0, 200) n"
    )
    long = "ü" * 100_000
    last = row(returned=201, plan=long, filter=long, error=long, user_id=long)
    log.execute("select recsys._keep_slow_request(%s::json)", (last,))

    found = rows(log)
    assert [r["returned"] for r in found] == list(range(201, 1, -1))
    kept = [len(found[0][name]) for name in ("plan", "filter", "error", "user_id")]
    assert kept == [20_000, 4_000, 500, 200]


def test_an_unknown_model_is_not_kept(log: _db.Connection) -> None:
    query = "select recsys._keep_slow_request(%s::json)"

    assert log.execute(query, (row(model="nobody"),)).fetchone() == (False,)


def test_the_clean_up_forgets(shop: Shop) -> None:
    with _db.connect(shop.dsn, autocommit=True) as conn:
        for _ in range(3):
            conn.execute("select recsys._keep_slow_request(%s::json)", (row(),))
        conn.execute(
            "update recsys.slow_request set occurred_at = now() - %s"
            " where id < (select max(id) from recsys.slow_request)",
            (slow.KEEP + timedelta(minutes=1),),
        )

        clean_up.run(conn, "shop")

        assert len(rows(conn)) == 1


def test_what_is_kept_of_a_user_can_be_erased(shop: Shop) -> None:
    with _db.connect(shop.dsn, autocommit=True) as conn:
        for user in ("7", "77", None, "7"):
            kept = row(user_id=user)
            conn.execute("select recsys._keep_slow_request(%s::json)", (kept,))

        assert slow.erase(conn, 7) == 2
        assert sorted(str(r["user_id"]) for r in rows(conn)) == ["77", "None"]


# out of the way ---------------------------------------------------------------------


def test_nothing_happens_on_the_applications_connection(
    still: Shop, log: _db.Connection, keeping: Watch
) -> None:
    observer = keeping()
    with _db.connect(still.dsn) as conn, Recommender("shop", connection=conn) as shop:
        shop.recommend(7)
        assert conn.info.transaction_status == TransactionStatus.INTRANS
        assert observer.join()
        conn.rollback()

    assert len(rows(log)) == 1, "kept although the application rolled back"


def test_a_table_that_is_locked_does_not_hold_anybody_up(
    still: Shop, log: _db.Connection, keeping: Watch
) -> None:
    observer = keeping()
    with _db.connect(still.dsn) as locker:
        locker.execute("lock table recsys.slow_request")
        with Recommender("shop", dsn=still.dsn) as shop:
            assert len(shop.recommend(7)) == 20
        assert observer.join(2.0)
        log.execute("set statement_timeout = '2s'")
        query = "select recsys._keep_slow_request(%s::json)"
        assert log.execute(query, (row(),)).fetchone() == (False,)
        locker.rollback()

    assert (observer.kept, observer.failed) == (0, 1)


def test_a_database_that_is_gone_is_a_warning(
    still: Shop, keeping: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    observer = keeping(dsn="host=/nowhere dbname=gone")
    with (
        caplog.at_level(logging.WARNING, "recsys.slow"),
        Recommender("shop", dsn=still.dsn) as shop,
    ):
        assert len(shop.recommend(7)) == 20
        assert observer.join()

    assert observer.failed == 1
    assert "cannot connect" in caplog.text


def test_a_server_that_never_answers_is_given_up(
    keeping: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "_BUDGET_MS", 300)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"host=127.0.0.1 port={silent.getsockname()[1]} dbname=x user=x"
        observer = keeping(dsn=dsn)
        observe.notify(Answered("shop", "two-tower", 5, total_ms=1.0))

        assert observer.join(1.5)
    assert observer.failed == 1


def test_a_child_of_a_fork_keeps_its_own(
    still: Shop, log: _db.Connection, keeping: Watch
) -> None:
    observer = keeping()
    with Recommender("shop", dsn=still.dsn) as shop:
        shop.recommend(7)
        assert observer.join()
        child = os.fork()
        if child == 0:
            try:
                shop.recommend(8)
                observer.join()
            finally:
                os._exit(0)
        os.waitpid(child, 0)

    assert {r["user_id"] for r in rows(log)} == {"7", "8"}


def test_negative_settings_are_refused() -> None:
    for options in ({"slow_ms": -1.0}, {"every_s": -1.0}):
        with pytest.raises(ConfigError, match="0 or more"):
            slow.SlowRequests(**options)


# who may ----------------------------------------------------------------------------


def test_a_request_process_adds_and_cannot_read(still: Shop) -> None:
    with _db.connect(world.as_role(still.dsn, "recsys_app"), autocommit=True) as conn:
        found = conn.execute("select recsys._keep_slow_request(%s::json)", (row(),))
        assert found.fetchone() == (True,)
        for query in (
            "select from recsys.slow_request",
            "select from recsys.slow_log",
            "delete from recsys.slow_request",
        ):
            with pytest.raises(pg.InsufficientPrivilege):
                conn.execute(query.encode())


def test_analysts_read_the_view_only(still: Shop) -> None:
    role = world.as_role(still.dsn, "recsys_analyst")
    with _db.connect(role, autocommit=True) as conn:
        assert slow.kept(conn, "shop") is not None
        for query in (
            "select from recsys.slow_request",
            "select recsys._keep_slow_request('{}')",
        ):
            with pytest.raises(pg.InsufficientPrivilege):
                conn.execute(query.encode())


def test_the_plans_are_made_with_the_applications_privileges(
    shop: Shop, keeping: Watch
) -> None:
    observer = keeping()
    with psycopg.connect(shop.dsn, autocommit=True) as conn:
        conn.execute("grant select on customer, event, product to recsys_app")
        app = Recommender("shop", dsn=world.as_role(shop.dsn, "recsys_app"))
        app.recommend(7, among="select id from product")
        assert observer.join()
        app.close()

        (found,) = rows(conn)
        assert found["plan_error"] is None
        assert "-- candidates, filter and exact sort" in found["plan"]
