"""Recommender: what a web application sees, also while versions come and go."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
import world
from psycopg import errors as pg
from psycopg.pq import TransactionStatus
from world import Shop

from recsys import Recommender, _candidates, _db, embedded, rollout
from recsys._fallback import POPULAR_K
from recsys.config import IdType
from recsys.errors import (
    ConfigError,
    DatabaseUnavailable,
    RecsysError,
    SchemaError,
    SourceError,
    UnknownItem,
    UnknownModel,
    VersionStateError,
)
from recsys.ids import check_id


@pytest.fixture(scope="module")
def still(server: str, shop_template: Shop) -> Iterator[Shop]:
    """A copy of the shop for tests that only read."""
    with world.database(server, world.name_of(shop_template.dsn)) as dsn:
        yield Shop(dsn, shop_template.learned)


@pytest.fixture
def model(still: Shop) -> Iterator[Recommender]:
    with Recommender("shop", dsn=still.dsn) as model:
        yield model


def promote(dsn: str, number: int | None) -> None:
    with _db.connect(dsn) as conn:
        rollout.promote(conn, "shop", number, reason="test", force=True)


# answers ---------------------------------------------------------------------------


def test_a_limit_of_the_application_passes_through_what_is_read_beside_a_page(
    model: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a TimeoutError out of a signal handler: nobody else may take it."""
    find = _candidates.find

    def limited(*given: Any) -> Any:
        if given[3].k == POPULAR_K:
            raise TimeoutError("the application's")
        return find(*given)

    monkeypatch.setattr(_candidates, "find", limited)
    with pytest.raises(TimeoutError, match="application"):
        model.recommend(7)


def test_pages_follow_each_other_until_nothing_is_left(
    model: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    excluded: list[int] = []
    find = _candidates.find

    def watched(*given: Any) -> Any:
        excluded.append(len(given[3].exclude))
        return find(*given)

    monkeypatch.setattr(_candidates, "find", watched)
    page = model.recommend(7, k=30, exclude=iter([1, 2]))
    shown = list(page.ids)
    while page:
        page = page.next()
        shown += page.ids

    assert len(shown) == len(set(shown)) > 150
    assert not {1, 2} & set(shown)
    # What was shown goes along once, not once for every page before.
    assert excluded[-1] == len(shown) + 2


@pytest.mark.parametrize("warmed", [True, False])
def test_a_warm_process_has_loaded_the_version(still: Shop, warmed: bool) -> None:
    with (
        Recommender("shop", dsn=still.dsn, timeout_ms=300, fallback=False) as model,
        _db.connect(still.dsn) as conn,
    ):
        if warmed:
            assert model.warm() == 1
        conn.execute("lock table recsys.artifact in access exclusive mode")

        if warmed:
            assert len(model.recommend(7, timeout_ms=5000)) == 20
        else:
            with pytest.raises(DatabaseUnavailable):
                model.recommend(7)


def test_a_page_is_a_sequence_best_first(model: Recommender) -> None:
    page = model.recommend(7, k=5)

    assert len(page) == len(page.ids) == len(list(page)) == 5
    assert page[0].item_id == page.ids[0]
    assert [r.score for r in page] == sorted((r.score for r in page), reverse=True)
    assert (page.model, page.version) == ("shop", 1)
    assert isinstance(page.request_id, UUID)
    assert model.recommend(7, k=5).request_id != page.request_id
    assert model.recommend(7, k=5).items == page.items


def test_the_answer_is_the_query_tower_over_the_stored_vectors(
    still: Shop, model: Recommender
) -> None:
    with _db.connect(still.dsn) as conn:
        vectors = world.stored_vectors(conn, "shop_1")
    for user in (1, 7, 30):
        query, seen = model.query_vector(user)

        page = model.recommend(user, k=20)

        assert page.ids == world.exact_order(vectors, query, without=seen)[:20]


def test_seen_items_are_left_out_unless_wanted(still: Shop, model: Recommender) -> None:
    with _db.connect(still.dsn) as conn:
        rows = conn.execute("select product_id from event where customer_id = 7")
        had = {row[0] for row in rows}

    without = model.recommend(7, k=1000).ids
    everything = model.recommend(7, k=1000, exclude_seen=False).ids

    assert set(without) == set(range(1, 201)) - had
    assert set(everything) == set(range(1, 201))
    assert had
    assert set(model.query_vector(7)[1]) == had


def test_an_unknown_user_still_gets_k(model: Recommender) -> None:
    assert len(model.recommend(999_999, k=30)) == 30
    assert len(model.recommend(k=30)) == 30


def test_user_features_reach_the_tower(model: Recommender, still: Shop) -> None:
    with _db.connect(still.dsn) as conn:
        conn.execute(
            "insert into customer values (601, 'de'), (602, 'fr'), (603, 'de')"
        )

    german, french, also = (model.recommend(user, k=50) for user in (601, 602, 603))

    assert german.items == also.items
    assert german.items != french.items


def test_the_context_reaches_the_tower(model: Recommender) -> None:
    phone = model.recommend(7, k=50, context={"device": "phone"})
    desk = model.recommend(7, k=50, context={"device": "desk"})
    unheard = model.recommend(7, k=50, context={"device": "🛸" * 10_000_000})
    absent = model.recommend(7, k=50, context={})

    assert phone.items != desk.items
    assert unheard.items != phone.items
    assert len(unheard) == len(absent) == 50


def test_a_session_is_answered_from_its_items(model: Recommender) -> None:
    page = model.recommend(history=[3, 14, 15], k=10)
    other = model.recommend(history=[99], k=10)

    assert len(page) == len(other) == 10
    assert page.items != other.items
    assert not set(page.ids) & {3, 14, 15}


def test_unknown_items_of_a_session_are_passed_over(model: Recommender) -> None:
    page = model.recommend(history=[3, 14, 15], k=10)

    assert model.recommend(history=[3, 10**9, 14, 15], k=10).items == page.items


def test_an_empty_session_is_answered_like_nobody(model: Recommender) -> None:
    empty = model.recommend(history=[], k=10)

    assert empty.items == model.recommend(k=10).items
    assert empty.items == model.recommend(history=[10**9], k=10).items


def test_a_sessions_repeated_items_count_every_time(model: Recommender) -> None:
    twice = model.recommend(history=[3, 3, 99], k=10)

    assert twice.items != model.recommend(history=[3, 99], k=10).items


def test_excluded_items_are_replaced_by_the_next_best(model: Recommender) -> None:
    ids = model.recommend(7, k=30).ids

    page = model.recommend(7, k=10, exclude=ids[:20])

    assert page.ids == ids[20:30]


def test_similar_items_never_hold_the_item_itself(model: Recommender) -> None:
    page = model.similar_items(42, k=1000)

    assert len(page) == 199
    assert 42 not in page.ids
    assert all(-1.01 <= r.score <= 1.01 for r in page)
    first = page.ids[0]
    assert model.similar_items(42, k=5, exclude=[first]).ids == page.ids[1:6]


@pytest.mark.parametrize("id_type", ["uuid", "text"])
@pytest.mark.parametrize("features", [False, True])
def test_other_id_types_come_back_in_the_applications_type(
    dsn: str, id_type: IdType, features: bool
) -> None:
    world.fill_shop(dsn, id_type)
    world.add_version(dsn, world.shop_config(id_type, features=features), promote=True)
    seven = world.make_id(id_type, 7)

    with Recommender("shop", dsn=dsn) as model:
        known = model.recommend(seven, k=10)
        session = model.recommend(history=[seven], k=10, exclude=known.ids)
        similar = model.similar_items(seven, k=10)
        model.record(seven, seven, "view")

    everything = {world.make_id(id_type, n) for n in range(1, 201)}
    for page in (known, session, similar):
        assert len(page) == 10
        assert set(page.ids) <= everything
    assert not set(known.ids) & set(session.ids)


# wrong arguments -------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 1001, 10**9, True, "5", 5.0, None])
def test_k_outside_1_to_1000_is_refused(model: Recommender, k: Any) -> None:
    for ask in (model.recommend, model.similar_items):
        with pytest.raises(ConfigError, match="k must be a whole number from 1 to"):
            ask(7, k=k)


@pytest.mark.parametrize(
    "value", ["7", 7.0, True, b"7", uuid4(), 2**63, -(2**63) - 1, (7,), np.int64(7)]
)
def test_ids_of_the_wrong_type_are_refused(model: Recommender, value: Any) -> None:
    for ask in (
        lambda: model.recommend(value),
        lambda: model.recommend(history=[1, value]),
        lambda: model.recommend(7, exclude=[value]),
        lambda: model.similar_items(value),
        lambda: model.record(value, 7, "view"),
        lambda: model.record(7, value, "view"),
    ):
        with pytest.raises(ConfigError, match="must be bigint"):
            ask()


@pytest.mark.parametrize(
    ("value", "id_type", "hint"),
    [
        (2**63, "bigint", "bigint holds -2^63 to 2^63 - 1"),
        ("7", "bigint", "int(value)"),
        (True, "bigint", "int(value)"),
        ("a\x00b", "text", "the id cannot be there"),
        (7, "text", "str(value)"),
    ],
)
def test_the_hint_about_an_id_helps(value: Any, id_type: IdType, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_id("user_id", value, id_type)

    assert hint in caught.value.hint


def test_text_ids_that_postgres_cannot_hold_are_refused(dsn: str) -> None:
    world.fill_shop(dsn, "text")
    world.add_version(dsn, world.shop_config("text"), promote=True)

    with Recommender("shop", dsn=dsn) as model:
        for value in ("a\x00b", "\ud800"):
            with pytest.raises(ConfigError, match="must be text"):
                model.recommend(value)
        for value in ("", "🍏", "x" * 100_000, "'; drop table product; --"):
            assert len(model.recommend(value, k=5)) == 5


def test_what_is_not_there_is_named(still: Shop, model: Recommender) -> None:
    with pytest.raises(UnknownItem, match="item 9999") as item:
        model.similar_items(9999)
    assert "backfill" in item.value.hint
    with Recommender("nope", dsn=still.dsn) as nope:
        for ask in (nope.recommend, nope.similar_items, nope.query_vector):
            with pytest.raises(UnknownModel, match="'nope'"):
                ask(7)


def test_nothing_serving_says_what_to_do(shop: Shop) -> None:
    promote(shop.dsn, None)

    with (
        Recommender("shop", dsn=shop.dsn) as model,
        pytest.raises(VersionStateError, match="serving") as caught,
    ):
        model.recommend(7)

    assert "recsys promote shop" in caught.value.hint


def test_a_history_that_is_too_long_is_refused(model: Recommender) -> None:
    assert len(model.recommend(history=[1] * 10_000, k=5)) == 5
    with pytest.raises(ConfigError, match="too long"):
        model.recommend(history=[1] * 10_001)


def test_no_server_and_a_bad_dsn_are_named() -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot connect") as caught:
        Recommender("shop", dsn="host=/nowhere", fallback=False).recommend(7)
    assert "recsys doctor" in caught.value.hint
    with pytest.raises(ConfigError, match="malformed"):
        Recommender("shop", dsn="nonsense").recommend(7)


@pytest.mark.parametrize("budget", [0.2, 0, True, "200", 3_600_001])
def test_a_budget_that_nothing_fits_in_is_refused(budget: Any) -> None:
    with pytest.raises(ConfigError, match="timeout_ms") as caught:
        Recommender("shop", timeout_ms=budget)
    assert "such as 200" in caught.value.hint


@pytest.mark.parametrize("borrowed", [False, True])
def test_a_database_without_the_schema_says_so(empty_dsn: str, borrowed: bool) -> None:
    with _db.connect(empty_dsn) as conn:
        options: dict[str, Any] = (
            {"connection": conn} if borrowed else {"dsn": empty_dsn}
        )
        with (
            Recommender("shop", **options) as model,
            pytest.raises(SchemaError, match="no recsys schema") as caught,
        ):
            model.recommend(7)

    assert "recsys upgrade" in caught.value.hint


# record ----------------------------------------------------------------------------


def test_record_keeps_the_interaction(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        page = model.recommend(7, k=1)
        when = datetime(2026, 2, 3, tzinfo=UTC)
        model.record(7, 42, "cart", occurred_at=when, request_id=page.request_id)
        model.record(7, 43, "view")

    with _db.connect(shop.dsn) as conn:
        first, second = conn.execute(
            "select model, user_id, item_id, kind, occurred_at, request_id"
            " from recsys.interaction order by item_id"
        ).fetchall()
    assert first == ("shop", "7", "42", "cart", when, page.request_id)
    assert second[:4] == ("shop", "7", "43", "view")
    assert abs((datetime.now(UTC) - second[4]).total_seconds()) < 60
    assert second[5] is None


def test_record_can_write_to_the_applications_own_table(dsn: str) -> None:
    world.fill_shop(dsn)
    statement = (
        "insert into event (customer_id, product_id, kind, created_at) values"
        " (%(user_id)s, %(item_id)s, %(kind)s, %(occurred_at)s)"
    )
    world.add_version(dsn, world.shop_config(record=statement), promote=True)

    with Recommender("shop", dsn=dsn) as model:
        best = model.recommend(7, k=1).ids[0]
        model.record(7, best, "purchase")

        assert best not in model.recommend(7, k=1000).ids


def test_an_unknown_kind_is_refused_and_nothing_stored(shop: Shop) -> None:
    with (
        Recommender("shop", dsn=shop.dsn) as model,
        pytest.raises(ConfigError, match="'veiw'") as caught,
    ):
        model.record(7, 42, "veiw")
    assert "purchase" in caught.value.hint
    with _db.connect(shop.dsn) as conn:
        assert conn.execute("select from recsys.interaction").fetchone() is None


# borrowed connections --------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_on_a_borrowed_connection_nothing_is_committed(shop: Shop, begun: bool) -> None:
    with _db.connect(shop.dsn) as conn:
        if begun:
            conn.execute("update product set title = 'mine' where id = 1")
        with Recommender("shop", connection=conn) as model:
            model.recommend(7, k=5)
            model.record(7, 42, "view")
            assert conn.info.transaction_status == TransactionStatus.INTRANS
            conn.rollback()
            model.record(7, 42, "view")  # now with the version loaded
            conn.rollback()

        assert conn.execute("select from recsys.interaction").fetchone() is None
        mine = "select from product where title = 'mine'"
        assert conn.execute(mine.encode()).fetchone() is None


def test_an_autocommit_connection_stays_one(shop: Shop) -> None:
    with _db.connect(shop.dsn, autocommit=True) as conn:
        with Recommender("shop", connection=conn) as model:
            model.recommend(7)
            model.record(7, 42, "view")

        assert conn.info.transaction_status == TransactionStatus.IDLE
        assert conn.execute("select from recsys.interaction").fetchone() is not None


def test_an_error_inside_leaves_the_callers_transaction_usable(shop: Shop) -> None:
    broken = "insert into no_such_table values (%(user_id)s)"
    with _db.connect(shop.dsn) as conn:
        conn.execute("update product set title = 'mine' where id = 1")
        with Recommender("shop", connection=conn) as model:
            with pytest.raises(RecsysError):
                model.recommend(7, among="select nonsense")
            with pytest.raises(UnknownItem):
                model.similar_items(9999)
            with pytest.raises(UnknownModel):
                Recommender("nope", connection=conn).recommend(7)
            conn.execute(
                "update recsys.model_version set spec = jsonb_set(spec,"
                " '{interactions,record}', to_jsonb(%s::text))",
                (broken,),
            )
            with pytest.raises((RecsysError, psycopg.Error)):
                Recommender("shop", connection=conn).record(7, 42, "view")

            assert conn.info.transaction_status == TransactionStatus.INTRANS
            assert len(model.recommend(7, k=5)) == 5
        conn.commit()
        mine = "select from product where title = 'mine'"
        assert conn.execute(mine.encode()).fetchone() is not None


def test_an_aborted_transaction_is_named_and_left_to_its_owner(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        with pytest.raises(pg.DivisionByZero):
            conn.execute("select 1/0")
        with Recommender("shop", connection=conn) as model:
            for _ in range(2):
                assert model.recommend(7).degraded == "aborted transaction"
                with pytest.raises(DatabaseUnavailable, match="failed before"):
                    model.record(7, 42, "view")
            conn.rollback()
            assert len(model.recommend(7, k=5)) == 5


def test_a_borrowed_connection_keeps_its_row_factory_and_adapters(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        conn.row_factory = psycopg.rows.dict_row  # type: ignore[assignment]
        with Recommender("shop", connection=conn) as model:
            assert len(model.recommend(7, k=5)) == 5
            assert len(model.similar_items(42, k=5)) == 5
            model.record(7, 42, "view")
            model.query_vector(7)

        assert conn.execute("select 1 as x").fetchone() == {"x": 1}


# switches --------------------------------------------------------------------------


def test_a_request_after_the_commit_sees_the_new_version(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as a, Recommender("shop", dsn=shop.dsn) as b:
        for number in (1, 2, 1, 2, 2, 1):
            promote(shop.dsn, number)

            assert a.recommend(7).version == number
            assert b.similar_items(42).version == number
            assert b.recommend(7).items == a.recommend(7).items


def test_another_process_sees_the_new_version(shop: Shop) -> None:
    code = """
        import sys
        from recsys import Recommender
        with Recommender("shop", dsn=sys.argv[1]) as model:
            for line in sys.stdin:
                print(model.recommend(7).version, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), shop.dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    with process:
        for number in (1, 2, 1, 2):
            promote(shop.dsn, number)
            process.stdin.write("ask\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == str(number)
        process.stdin.close()


def test_a_switch_is_not_seen_before_its_commit(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn, Recommender("shop", dsn=shop.dsn) as model:
        rollout.promote(conn, "shop", 2, reason="test", force=True)
        assert model.recommend(7).version == 1
        conn.rollback()
        assert model.recommend(7).version == 1


def test_one_version_makes_the_whole_answer_while_promotions_go_on(
    shop: Shop,
) -> None:
    """The two versions rank differently, so a mix of towers and items would show."""
    users = range(1, 11)
    expected: dict[tuple[int, int], Any] = {}
    similar: dict[int, Any] = {}
    for number in (2, 1):
        promote(shop.dsn, number)
        with Recommender("shop", dsn=shop.dsn) as model:
            for user in users:
                expected[number, user] = model.recommend(user, k=20).items
            similar[number] = model.similar_items(42).items
    assert all(expected[1, user] != expected[2, user] for user in users)

    stop, failures, served = threading.Event(), [], []

    def switch() -> None:
        with _db.connect(shop.dsn) as conn:
            number = 1
            while not stop.is_set():
                number = 3 - number
                rollout.promote(conn, "shop", number, reason="test", force=True)
                conn.commit()
                stop.wait(0.01)

    model = Recommender("shop", dsn=shop.dsn)

    def ask(offset: int) -> None:
        with model:
            for i in range(100):
                user = users[(i + offset) % len(users)]
                page = model.recommend(user, k=20)
                served.append(page.version)
                if page.items != expected[page.version, user]:
                    failures.append((user, page))
                if i % 5 == 0:
                    alike = model.similar_items(42)
                    if alike.items != similar[alike.version]:
                        failures.append((42, alike))

    switcher = threading.Thread(target=switch)
    askers = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    switcher.start()
    for thread in askers:
        thread.start()
    for thread in askers:
        thread.join()
    stop.set()
    switcher.join()

    assert failures == []
    assert len(served) == 400
    assert set(served) == {1, 2}


def test_requests_survive_versions_that_are_dropped_and_made(shop: Shop) -> None:
    model = world.shop_config(features=True)
    stop, errors = threading.Event(), []
    shared = Recommender("shop", dsn=shop.dsn)

    def ask() -> None:
        with shared:
            while not stop.is_set():
                try:
                    assert len(shared.recommend(7, k=5)) == 5
                except Exception as exc:
                    errors.append(exc)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for seed in (11, 12, 13):
            number, _ = world.add_version(shop.dsn, model, seed=seed, promote=True)
            time.sleep(0.1)
            with _db.connect(shop.dsn) as conn:
                rollout.drop(conn, "shop", number)
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert errors == []


def test_a_version_dropped_between_two_statements_is_no_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys import retrieval

    promote(shop.dsn, 2)
    original, dropped = retrieval.state, []

    def state(*args: Any, **options: Any) -> Any:
        found = original(*args, **options)
        if not dropped:
            dropped.append(True)
            with _db.connect(shop.dsn) as conn:
                rollout.drop(conn, "shop", 2)
        return found

    monkeypatch.setattr(retrieval, "state", state)
    with Recommender("shop", dsn=shop.dsn) as model:
        assert model.recommend(7).version == 1
    assert dropped


def test_a_filter_on_a_missing_table_is_no_dropped_version(model: Recommender) -> None:
    with pytest.raises(RecsysError, match="among"):
        model.recommend(7, among="select id from recsys_export")


# processes and servers -------------------------------------------------------------


def test_a_forked_child_and_its_parent_both_go_on(shop: Shop) -> None:
    code = """
        import os, sys
        from recsys import Recommender
        model = Recommender("shop", dsn=sys.argv[1])
        before = model.recommend(7).items
        for _ in range(3):
            child = os.fork()
            if child == 0:
                same = all(model.recommend(7).items == before for _ in range(3))
                model.close()
                sys.exit(0 if same else 3)
            assert model.recommend(7).items == before
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert model.recommend(7).items == before
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), shop.dsn],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout.strip(), done.returncode) == ("done", 0), done.stderr


def test_a_killed_session_is_replaced(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        before = model.recommend(7).items
        for ask in (lambda: model.recommend(7), lambda: model.similar_items(42)):
            with _db.connect(shop.dsn, autocommit=True) as conn:
                conn.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )

            with suppress(DatabaseUnavailable):
                ask()
            assert len(ask()) == 20
        assert model.recommend(7).items == before


def test_a_restarted_server_is_no_lasting_harm(tmp_path: Path) -> None:
    folder = tmp_path / "pgdata"
    dsn = embedded.start(folder)
    try:
        from recsys import schema

        schema.upgrade(dsn)
        world.fill_shop(dsn)
        world.add_version(dsn, world.shop_config(), promote=True)
        with Recommender("shop", dsn=dsn, fallback=False) as model:
            before = model.recommend(7).items
            embedded.stop(folder)
            for _ in range(2):
                with pytest.raises(DatabaseUnavailable) as caught:
                    model.recommend(7)
                assert caught.value.hint
            embedded.start(folder)

            try:
                page = model.recommend(7)
            except DatabaseUnavailable:
                page = model.recommend(7)
            assert page.items == before
    finally:
        embedded.stop(folder)


def test_an_idle_connection_that_was_cut_is_not_noticed(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        before = model.recommend(7).items
        with _db.connect(shop.dsn, autocommit=True) as conn:
            conn.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )

        assert model.recommend(7).items == before


# what the sources hold and lack -----------------------------------------------------


def test_an_interaction_without_item_costs_nothing(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        conn.execute("alter table event alter product_id drop not null")
        conn.execute("insert into event values (7, null, 'view', now())")

    with Recommender("shop", dsn=shop.dsn) as model:
        page = model.recommend(7, k=20)

    assert len(page) == 20
    with _db.connect(shop.dsn) as conn:
        rows = conn.execute("select item_id from recsys.recommend('shop', 7)")
        assert len(rows.fetchall()) == 20


def test_a_source_that_fails_is_no_switch(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        model.recommend(7)
        with _db.connect(shop.dsn) as conn:
            conn.execute("alter table event rename to happening")

        with pytest.raises(SourceError, match="event") as caught:
            model.recommend(7)

    assert "doctor" in caught.value.hint


def test_a_process_that_only_records_follows_the_switch(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        model.record(7, 42, "view")
        config = world.shop_config(features=True)
        wishes = replace(config.interactions, weights={"view": 1.0, "wish": 2.0})
        config = replace(config, interactions=wishes)
        world.add_version(shop.dsn, config, promote=True)

        model.record(7, 43, "wish")

    with _db.connect(shop.dsn) as conn:
        rows = conn.execute("select kind from recsys.interaction order by occurred_at")
        assert [row[0] for row in rows] == ["view", "wish"]


def test_djangos_client_side_cursors_are_left_to_django(still: Shop) -> None:
    with psycopg.connect(still.dsn, cursor_factory=psycopg.ClientCursor) as conn:
        page = Recommender("shop", connection=conn).recommend(7, k=5)
        like = Recommender("shop", connection=conn).similar_items(page.ids[0], k=5)

    assert len(page) == len(like) == 5
