"""Workers: what was queued reaches every live version, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
import world
from world import Shop

from recsys import _db, capture, capture_check, rollout, versions
from recsys._items import ItemEncoder
from recsys.config import IdType, ModelConfig, from_mapping
from recsys.errors import DatabaseUnavailable, VersionStateError
from recsys.worker import tasks
from recsys.worker.apply import Applied, LiveModel
from recsys.worker.failures import MAX_ATTEMPTS
from recsys.worker.loop import Worker, retry


def followed(**items: Any) -> ModelConfig:
    """The shop's configuration, with the product table watched."""
    raw = world.toml(features=True)
    raw["model"]["shop"]["items"] |= items or {"watch": {"product": "id"}}
    return from_mapping(raw).model("shop")


@pytest.fixture
def app(shop: Shop) -> Iterator[_db.Connection]:
    """The application, on a shop whose products are watched; nothing is queued."""
    with _db.connect(shop.dsn, autocommit=True) as conn:
        with conn.transaction():
            capture.watch(conn, followed())
        conn.execute("update recsys.capture set reconcile_after = null")
        yield conn


def drain(conn: _db.Connection, **options: Any) -> Applied:
    return Worker(conn.info.dsn, **options).drain()


def queue(conn: _db.Connection) -> list[str | None]:
    rows = conn.execute("select item_id from recsys.item_change").fetchall()
    return sorted((i for (i,) in rows), key=lambda i: (i is not None, i))


def failures(conn: _db.Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select number, item_id, attempts, retry_at is null from recsys.item_failure"
        " order by 1, 2"
    ).fetchall()


def value(conn: _db.Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def assert_current(conn: _db.Connection, *numbers: int) -> None:
    """Every item of the source, and no other, has the vectors of a fresh encoding."""
    for number in numbers:
        encoder = ItemEncoder(conn, versions.get(conn, "shop", number))
        with _db.binary_cursor(conn) as cur:
            cur.execute(encoder.select().encode())
            fresh = encoder.encode(cur.fetchall())
        for table, rows in (
            ("item_vector", fresh.vectors),
            ("item_embedding", fresh.history),
        ):
            stored = world.stored_vectors(conn, f"shop_{number}", table)
            assert sorted(stored) == sorted(fresh.ids)
            for item, row in zip(fresh.ids, rows, strict=True):
                rounded = row.astype(np.float16).astype(np.float32)
                np.testing.assert_array_equal(stored[item], rounded)


# applying ---------------------------------------------------------------------------


def test_changes_reach_every_live_version(app: _db.Connection) -> None:
    app.execute("insert into product values (901, 'red mug', 'Acme', 9, now(), 1)")
    app.execute("update product set title = 'blue lamp' where id in (1, 2)")
    app.execute("delete from product where id = 3")
    app.execute("update product set id = 904 where id = 4")

    done = drain(app)

    assert (done.items, done.failed) == (6, 0)
    assert queue(app) == failures(app) == []
    assert_current(app, 1, 2)
    assert drain(app).items == 0


def test_unchanged_vectors_are_not_written_again(app: _db.Connection) -> None:
    places = "select array_agg(ctid::text) from recsys.item_vector_shop_1"
    before = value(app, places)
    app.execute("select recsys._queue_items('shop', array['1', '2', '3'])")

    assert drain(app).items == 3

    assert value(app, places) == before


def test_a_truncated_table_empties_every_version(app: _db.Connection) -> None:
    app.execute("truncate product")

    drain(app)

    assert queue(app) == []
    assert value(app, "select count(*) from recsys.item_vector_shop_1") == 0
    assert value(app, "select count(*) from recsys.item_embedding_shop_2") == 0


def test_a_queue_is_claimed_in_pieces(app: _db.Connection) -> None:
    app.execute("update product set title = 'x ' || id")
    seen: list[int] = []

    done = drain(app, batch=10, on_batch=lambda _, done: seen.append(done.items))

    assert done.items == sum(seen) == 200
    assert max(seen) <= 10
    assert_current(app, 1, 2)


def test_old_versions_do_not_follow(app: _db.Connection) -> None:
    rollout.retire(app, "shop", 2)
    app.execute("update product set title = 'blue lamp' where id = 1")

    assert drain(app).items == 1

    assert_current(app, 1)
    with pytest.raises(AssertionError):
        assert_current(app, 2)


def test_only_the_named_models_are_worked_on(app: _db.Connection) -> None:
    app.execute("update product set title = 'x' where id = 1")

    assert drain(app, models=["other"]).items == 0
    assert queue(app) == ["1"]
    assert drain(app, models=["shop"]).items == 1


def test_a_changed_id_type_in_the_queue_is_one_failure(app: _db.Connection) -> None:
    app.execute("select recsys._queue_items('shop', array['no number', '1'])")

    done = drain(app)

    assert (done.items, done.failed) == (1, 1)
    assert failures(app) == [(1, "no number", 1, False), (2, "no number", 1, False)]


@pytest.mark.parametrize("spelling", ["007", " 7", "+7"])
def test_one_item_in_several_spellings_keeps_its_vectors(
    app: _db.Connection, spelling: str
) -> None:
    app.execute("update product set title = 'blue lamp' where id = 7")
    app.execute("truncate recsys.item_change")
    app.execute("select recsys._queue_items('shop', array[%s, 'no', '8'])", (spelling,))

    done = drain(app)

    assert (done.items, done.failed) == (2, 1)
    assert {item for _, item, *_ in failures(app)} == {"no"}
    assert_current(app, 1, 2)


def test_a_transaction_that_syncs_another_spelling_keeps_the_vector(
    app: _db.Connection,
) -> None:
    app.execute("update product set title = 'blue lamp' where id = 7")

    with app.transaction():
        LiveModel("shop").sync(app, ["007"])

    assert_current(app, 1, 2)


def test_two_spellings_are_worked_on_under_one_bucket(app: _db.Connection) -> None:
    app.execute("select recsys._queue_items('shop', array['007', '7', '08'])")

    assert LiveModel("shop").apply_changes(app, 100).items == 1

    assert queue(app) == ["8"], "under its own bucket's lock, in the next batch"
    assert drain(app).items == 1


@pytest.mark.parametrize(
    ("id_type", "column", "key"),
    [
        ("bigint", "varchar(9)", "lpad(n::text, 5, '0')"),
        ("uuid", "text", "upper(md5(n::text)::uuid::text)"),
        ("uuid", "uuid", "md5(n::text)::uuid"),
        ("text", "char(8)", "lpad(n::text, 5, '0')"),
    ],
)
def test_a_key_of_another_type_than_the_model_s(
    server: str, template: str, id_type: IdType, column: str, key: str
) -> None:
    raw = world.toml(id_type, features=True)
    raw["model"]["shop"]["items"]["sql"] = (
        "select sku as item_id, title, brand, price, created_at from article"
    )
    with world.database(server, template) as dsn, _db.connect(dsn) as conn:
        world.fill_shop(dsn, id_type, items=9, users=3)
        conn.autocommit = True
        conn.execute(
            f"create table article as select {key}::{column} as sku, title, brand,"
            " price, created_at from (select *, row_number() over () as n"
            " from product) as p".encode()
        )
        model = from_mapping(raw).model("shop")
        world.add_version(dsn, model, cold=9, promote=True)
        queue_all = "select recsys._queue_items('shop', array_agg(sku::text)) from "
        conn.execute(f"{queue_all} article".encode())
        conn.execute("update article set title = 'blue lamp'")

        assert drain(conn).failed == 0

        assert_current(conn, 1)
        # And as the vectors' own table spells them.
        conn.execute("update article set title = 'red mug'")
        conn.execute("insert into recsys.item_change (model, bucket) values ('shop',0)")
        assert drain(conn).failed == 0
        assert value(conn, "select count(*) from recsys.item_vector_shop_1") == 9
        assert_current(conn, 1)


# claiming ---------------------------------------------------------------------------


def claim(conn: psycopg.Connection[Any], limit: int = 1000) -> list[str]:
    rows = conn.execute(
        "select item_id from recsys._claim_changes('shop', %s)", (limit,)
    ).fetchall()
    return sorted(i for (i,) in rows)


def test_two_workers_never_hold_the_same_item(app: _db.Connection) -> None:
    app.execute("update product set title = title || '!'")
    with psycopg.connect(app.info.dsn) as one, psycopg.connect(app.info.dsn) as two:
        first = claim(one, 100)
        app.execute("update product set title = title || '!'")

        second = claim(two)

        assert 100 <= len(first) <= 200
        assert second
        buckets = "select distinct recsys._item_bucket(i) from unnest(%s::text[]) as i"
        held = [set(app.execute(buckets, (ids,)).fetchall()) for ids in (first, second)]
        assert not held[0] & held[1]
        one.rollback()
        two.rollback()
    assert len(queue(app)) == 400


def test_the_oldest_bucket_comes_first_and_times_are_the_oldest(
    app: _db.Connection,
) -> None:
    for item in (9, 5, 9, 7):
        app.execute("update product set title = title || '!' where id = %s", (item,))
    oldest = value(app, "select min(changed_at) from recsys.item_change")

    with psycopg.connect(app.info.dsn) as one:
        rows = one.execute(
            "select item_id, changed_at from recsys._claim_changes('shop', 1)"
        ).fetchall()
        one.rollback()
        assert rows == [("9", oldest)]
        assert claim(one) == ["5", "7", "9"]


def test_many_workers_share_a_queue(app: _db.Connection) -> None:
    app.execute("update product set title = title || '!'")
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda _: drain(app, batch=7), range(3)))

    drain(app)

    assert sum(part.items for part in parts) <= 200
    assert queue(app) == []
    assert_current(app, 1, 2)


# failures ---------------------------------------------------------------------------


def poison(conn: _db.Connection, item: int, *numbers: int) -> None:
    """Have the vectors of an item refused by some versions."""
    for n in numbers:
        conn.execute(
            f"alter table recsys.item_vector_shop_{n}"
            f" add constraint poison check (item_id <> {item}) not valid".encode()
        )


def cure(conn: _db.Connection, *numbers: int) -> None:
    for n in numbers:
        conn.execute(
            f"alter table recsys.item_vector_shop_{n} drop constraint poison".encode()
        )


def test_one_poisonous_item_does_not_hold_up_the_rest(app: _db.Connection) -> None:
    poison(app, 7, 1, 2)
    app.execute("update product set title = 'blue lamp'")

    done = drain(app)

    assert (done.items, done.failed) == (199, 1)
    assert queue(app) == []
    assert failures(app) == [(1, "7", 1, False), (2, "7", 1, False)]
    assert "violates check constraint" in value(
        app, "select error from recsys.item_failure where number = 1"
    )
    app.execute("delete from product where id = 7")
    drain(app)
    assert failures(app) == []
    assert_current(app, 1, 2)


def test_a_failure_of_one_version_is_no_failure_of_another(
    app: _db.Connection,
) -> None:
    poison(app, 7, 2)
    app.execute("update product set title = 'blue lamp' where id in (7, 8)")

    drain(app)

    assert failures(app) == [(2, "7", 1, False)]
    assert_current(app, 1)


def test_a_row_that_the_source_cannot_compute_fails_alone(
    app: _db.Connection,
) -> None:
    app.execute(
        "alter table product rename to product_rows;"
        "create view product as select id, title, brand,"
        " price / (case when id = 7 then 0 else 1 end) as price, created_at"
        " from product_rows"
    )
    app.execute("update product_rows set title = 'blue lamp' where id in (6, 7, 8)")

    drain(app)

    assert failures(app) == [(1, "7", 1, False), (2, "7", 1, False)]
    assert "division by zero" in value(app, "select error from recsys.item_failure")


def test_back_off_then_dead_letter_then_retry(app: _db.Connection) -> None:
    poison(app, 7, 1)
    app.execute("update product set title = 'blue lamp' where id = 7")
    drain(app)
    waits = []
    for attempt in range(1, MAX_ATTEMPTS):
        assert failures(app) == [(1, "7", attempt, False)]
        assert app.execute("select from recsys.dead_letter").fetchall() == []
        waits.append(
            value(app, "select round(extract(epoch from retry_at - failed_at))::int"
                       " from recsys.item_failure")
        )  # fmt: skip
        assert drain(app).failed == 0, "not before its time"
        app.execute("update recsys.item_failure set retry_at = now()")
        assert drain(app).failed == 1

    assert waits == [5, 20, 80, 320, 1280]
    assert failures(app) == [(1, "7", MAX_ATTEMPTS, True)]
    dead = app.execute(
        "select model, number, item_id, attempts from recsys.dead_letter"
    )
    assert dead.fetchall() == [("shop", 1, "7", MAX_ATTEMPTS)]
    assert value(app, "select dead_letters from recsys.change_status") == 1
    assert drain(app).failed == 0
    cure(app, 1)
    assert retry(app, "shop") == 1
    assert drain(app).items == 1
    assert failures(app) == []
    assert_current(app, 1, 2)


def test_a_dead_item_lives_again_by_its_next_change(app: _db.Connection) -> None:
    poison(app, 7, 1)
    app.execute("update product set title = 'blue lamp' where id = 7")
    drain(app)
    app.execute("update recsys.item_failure set attempts = 99, retry_at = null")
    cure(app, 1)

    app.execute("update product set title = 'red lamp' where id = 7")
    drain(app)

    assert failures(app) == []
    assert_current(app, 1)


def test_there_is_nothing_to_retry(app: _db.Connection) -> None:
    with pytest.raises(VersionStateError, match="no failed item"):
        retry(app, "shop")
    poison(app, 7, 1)
    app.execute("update product set title = 'blue lamp' where id = 7")
    drain(app)
    with pytest.raises(VersionStateError, match="no failed item"):
        retry(app, "shop", ["8"])
    assert retry(app, "shop", ["7", "8"]) == 1


def test_a_retired_version_takes_its_failures_along(app: _db.Connection) -> None:
    poison(app, 7, 2)
    app.execute("update product set title = 'blue lamp' where id = 7")
    drain(app)

    rollout.retire(app, "shop", 2)

    assert failures(app) == []


def test_a_source_that_broke_fails_every_item_until_it_is_mended(
    app: _db.Connection,
) -> None:
    capture.unwatch(app, "shop")
    app.execute("alter table product rename column brand to make")
    app.execute("select recsys._queue_items('shop', array['1', '2'])")

    assert drain(app).failed == 2
    assert "brand" in value(app, "select error from recsys.item_failure limit 1")
    app.execute("alter table product rename column make to brand")
    retry(app, "shop")
    drain(app)

    assert failures(app) == []


@pytest.mark.parametrize("what", ["source", "tower"])
def test_a_version_that_cannot_be_loaded_does_not_hold_up_the_others(
    app: _db.Connection, what: str
) -> None:
    app.execute(
        "update recsys.model_version set spec = jsonb_set(spec, '{items,sql}',"
        " to_jsonb(replace(spec #>> '{items,sql}', 'brand', 'make as brand')))"
        " where number = 2"
        if what == "source"
        else "delete from recsys.artifact as a using recsys.model_version as v"
        " where v.number = 2 and a.sha256 = v.artifacts ->> 'item_tower'"
    )
    app.execute("update product set title = 'blue lamp' where id in (1, 2)")

    assert drain(app).failed == 2

    assert queue(app) == []
    assert failures(app) == [(2, "1", 1, False), (2, "2", 1, False)]
    assert_current(app, 1)


def test_a_row_in_the_applications_hands_is_tried_later_without_counting(
    app: _db.Connection,
) -> None:
    app.execute("update product set title = 'blue lamp' where id in (1, 2, 3)")
    with psycopg.connect(app.info.dsn) as other:
        other.execute(
            "select from recsys.item_vector_shop_1 where item_id = 2 for update"
        )

        done = LiveModel("shop").apply_changes(app, 100)

        assert (done.items, done.failed) == (3, 0)
        assert failures(app) == []
        assert queue(app) == ["2"]
    assert drain(app).items == 1
    assert_current(app, 1, 2)


def test_a_broken_source_does_not_keep_the_others_from_everything(
    app: _db.Connection,
) -> None:
    break_source(app, 2, "brand", "make as brand")
    app.execute("alter table product disable trigger user")
    app.execute("update product set title = 'blue lamp' where id in (1, 2)")
    app.execute("delete from product where id = 3")
    app.execute("insert into product values (901, 'red mug', 'Acme', 9, now(), 1)")
    app.execute("insert into recsys.item_change (model, bucket) values ('shop', 0)")

    drain(app)

    assert queue(app) == []
    assert_current(app, 1)
    assert {number for number, *_ in failures(app)} == {2}


def break_source(conn: _db.Connection, number: int, old: str, new: str) -> None:
    conn.execute(
        "update recsys.model_version set spec = jsonb_set(spec, '{items,sql}',"
        " to_jsonb(replace(spec #>> '{items,sql}', %s, %s))) where number = %s",
        (old, new, number),
    )


def look_up_later(conn: _db.Connection, query: str, times: int = 1) -> None:
    """As if rows of the joined table maker had changed."""
    conn.execute("create domain filled as text not null")
    conn.execute("create table maker (id bigint, name filled)")
    conn.execute(
        "update recsys.capture"
        " set lookups = jsonb_build_object('public.maker', %s::text)",
        (query,),
    )
    conn.execute(
        "insert into recsys.item_lookup (model, source, keys)"
        " select 'shop', 'public.maker', %s from generate_series(1, %s)",
        ('[{"id": 1, "name": "Acme"}]' if times > 1 else '[{"id": 1}]', times),
    )


@pytest.mark.parametrize(
    "query", ["select id from changed", "select pg_sleep(30)::text from product"]
)
def test_a_look_up_that_fails_queues_everything(
    app: _db.Connection, query: str
) -> None:
    look_up_later(app, query)
    if "sleep" in query:
        app.execute("alter domain filled drop not null")
    dsn = with_setting(app, "statement_timeout=2s")

    assert Worker(dsn).drain().items == 200

    assert queue(app) == []
    assert value(app, "select count(*) from recsys.item_lookup") == 0


def with_setting(conn: _db.Connection, setting: str) -> str:
    """DSN of a role that has a setting."""
    return psycopg.conninfo.make_conninfo(conn.info.dsn, options=f"-c {setting}")


def test_look_ups_that_wait_do_not_hold_up_changes(app: _db.Connection) -> None:
    app.execute("update product set title = 'blue lamp' where id = 1")
    with psycopg.connect(app.info.dsn) as other:
        other.execute("lock table recsys.item_lookup in access exclusive mode")

        assert LiveModel("shop").apply_changes(app, 100).items == 1


def test_drain_leaves_no_look_up_behind(app: _db.Connection) -> None:
    look_up_later(app, "select id from changed where false", times=250)

    drain(app)

    assert value(app, "select count(*) from recsys.item_lookup") == 0


def test_what_is_too_long_is_the_fault_of_its_item(app: _db.Connection) -> None:
    break_source(
        app, 2, "from product",
        "from product where to_tsvector('simple', title) is not null",
    )  # fmt: skip
    app.execute("update product set title = 'blue lamp' where id in (1, 2)")
    app.execute(
        "update product set title = (select string_agg(md5(g::text), ' ')"
        " from generate_series(1, 60000) as g) where id = 7"
    )
    app.execute(
        "insert into recsys.item_change (model, bucket, item_id)"
        " select 'shop', recsys._item_bucket(i), i from (select"
        " string_agg(md5(g::text), '') from generate_series(1, 100) as g) as x(i)"
    )

    done = drain(app)

    assert (done.items, done.failed) == (2, 2)
    assert queue(app) == []
    assert {item for _, item, *_ in failures(app)} == {"7"}, "a long id is dropped"


def test_an_item_slower_than_the_statement_timeout_fails_alone(
    app: _db.Connection,
) -> None:
    break_source(
        app, 2, "from product",
        "from product where case id when 7 then pg_sleep(30) is not null else true end",
    )  # fmt: skip
    app.execute("update product set title = 'blue lamp' where id between 5 and 9")

    done = Worker(with_setting(app, "statement_timeout=1s"), batch=4).drain()

    assert (done.items, done.failed) == (4, 1)
    assert failures(app) == [(2, "7", 1, False)]
    assert "statement_timeout" in value(app, "select error from recsys.item_failure")
    assert queue(app) == []
    assert_current(app, 1)


def test_own_connections_see_what_was_committed_while_they_waited(
    app: _db.Connection,
) -> None:
    name = "default_transaction_isolation"
    for level in ("repeatable\\ read", "serializable"):
        with _db.connect(with_setting(app, f"{name}={level}")) as conn:
            found = value(conn, "select current_setting('transaction_isolation')")
            assert found == "read committed"


# the process ------------------------------------------------------------------------


def start(dsn: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "recsys", "--dsn", dsn, "worker", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RECSYS_CONFIG": "/nonexistent"},
    )


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def seen(conn: _db.Connection) -> list[tuple[Any, ...]]:
    return conn.execute("select pid, items from recsys.worker").fetchall()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_after_its_batch(
    app: _db.Connection, how: signal.Signals
) -> None:
    process = start(app.info.dsn, "--batch", "5", "--no-tasks")
    until(lambda: seen(app) != [])
    assert seen(app)[0][0] == process.pid
    app.execute("update product set title = title || '!'")
    until(lambda: len(queue(app)) < 200)

    process.send_signal(how)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 0, err
    assert "Traceback" not in err + out
    assert "Worker ended" in err + out
    assert seen(app) == []
    drain(app)
    assert_current(app, 1, 2)


def test_a_killed_worker_leaves_its_batch_to_the_next(app: _db.Connection) -> None:
    app.execute("update product set title = title || '!'")
    process = start(app.info.dsn, "--batch", "5", "--no-tasks")
    until(lambda: len(queue(app)) < 195)
    process.kill()
    process.communicate(timeout=30)

    drain(app)

    assert queue(app) == []
    assert_current(app, 1, 2)
    assert len(seen(app)) == 1, "a dead worker shows by its time"


@pytest.fixture
def running(app: _db.Connection) -> Iterator[Worker]:
    """A worker in a thread."""
    worker = Worker(app.info.dsn, poll_s=0.02, run_tasks=False)
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: seen(app) != [])
    yield worker
    worker.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_a_worker_finds_the_server_again(app: _db.Connection, running: Worker) -> None:
    del running
    app.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    app.execute("update product set title = 'blue lamp' where id = 1")

    until(lambda: queue(app) == [])

    assert_current(app, 1, 2)


def test_a_worker_outlives_a_server_that_takes_no_writes(
    app: _db.Connection, running: Worker
) -> None:
    """After a fail-over the old primary may still answer, as a standby."""
    end = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    name = app.info.dbname
    read_only = f"alter database {name} set default_transaction_read_only = "
    app.execute((read_only + "on").encode())
    app.execute(end)
    time.sleep(1)
    app.execute((read_only + "off").encode())
    app.execute("update product set title = 'blue lamp' where id = 1")

    until(lambda: queue(app) == [])

    assert_current(app, 1, 2)
    del running


def test_slow_looks_at_an_empty_queue_become_rare(
    app: _db.Connection, running: Worker
) -> None:
    del running
    app.execute("create sequence looks")
    app.execute(
        "create or replace function recsys._claim_changes(p_model text, p_limit int)"
        " returns table (item_id text, changed_at timestamptz) language plpgsql"
        " set search_path from current as $$ begin"
        " perform nextval('public.looks'), pg_sleep(0.2); end $$"
    )

    time.sleep(3)

    assert value(app, "select last_value from looks") <= 3


def test_a_version_dropped_under_a_worker_is_let_go(
    app: _db.Connection, running: Worker
) -> None:
    del running
    app.execute("update product set title = 'blue lamp' where id = 1")
    until(lambda: queue(app) == [])

    with app.transaction():
        rollout.drop(app, "shop", 2)
    app.execute("update product set title = 'red lamp' where id = 1")

    until(lambda: queue(app) == [])
    assert_current(app, 1)


def test_a_worker_without_a_server_says_so() -> None:
    with pytest.raises(DatabaseUnavailable):
        Worker("host=/nowhere").run()


# periodic tasks ---------------------------------------------------------------------


def test_a_task_is_run_once_by_two_runners(
    app: _db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def slow(conn: _db.Connection, model: str) -> str:
        ran.append(model)
        time.sleep(0.2)
        return "slept"

    monkeypatch.setattr(tasks, "TASKS", {"slow": tasks.Task(slow, timedelta(hours=1))})
    tasks.plan(app)

    def runner(_: int) -> int:
        with _db.connect(app.info.dsn, autocommit=True) as conn:
            return tasks.run_due(conn)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(runner, range(2)))

    assert sorted(done) == [0, 1]
    assert ran == ["shop"]
    row = app.execute(
        "select result, error, next_at > now() + interval '50 minutes', took > '0.1s'"
        " from recsys.schedule where task = 'slow'"
    ).fetchone()
    assert row == ("slept", None, True, True)


def test_the_error_of_a_task_is_seen_and_does_not_stop_the_others(
    app: _db.Connection,
) -> None:
    app.execute("alter table product rename to away")
    tasks.plan(app)

    ran = tasks.run_due(app)

    assert ran == len(tasks.TASKS)
    errors = app.execute(
        "select task, error from recsys.schedule where error is not null"
    ).fetchall()
    assert [task for task, _ in errors] == ["compare ids"]
    assert "product" in errors[0][1]
    app.execute("alter table away rename to product")
    app.execute("update recsys.schedule set next_at = now() where error is not null")
    assert tasks.run_due(app) == 1
    assert (
        app.execute("select from recsys.schedule where error is not null").rowcount == 0
    )


@pytest.mark.parametrize(
    ("statement", "said"),
    [("select pg_sleep(9)", "QueryCanceled"), ("", "ValueError: no such luck")],
)
def test_whatever_a_task_raises_is_recorded(
    app: _db.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    statement: str,
    said: str,
) -> None:
    def broken(conn: _db.Connection, model: str) -> str:
        del model
        if statement:
            conn.execute(statement.encode())
        raise ValueError("no such luck")

    monkeypatch.setattr(
        tasks,
        "TASKS",
        {
            "a": tasks.Task(broken, timedelta(hours=1)),
            "b": tasks.Task(lambda *_: "fine", timedelta(hours=1)),
        },
    )
    app.execute("set statement_timeout = '200ms'")
    tasks.plan(app)

    assert tasks.run_due(app) == 2

    error = value(app, "select error from recsys.schedule where task = 'a'")
    assert said in error
    assert value(app, "select result from recsys.schedule where task = 'b'") == "fine"
    assert ("Traceback" in caplog.text) == (not statement)


def test_a_task_whose_connection_died_says_so(
    app: _db.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def die(conn: _db.Connection, model: str) -> str:
        del model
        conn.execute("select pg_terminate_backend(pg_backend_pid())")
        return ""

    monkeypatch.setattr(tasks, "TASKS", {"a": tasks.Task(die, timedelta(hours=1))})
    tasks.plan(app)
    with _db.connect(app.info.dsn, autocommit=True) as conn:
        with pytest.raises(psycopg.OperationalError):
            tasks.run_due(conn)
        assert conn.closed

    assert "'a' of model 'shop' failed: AdminShutdown" in caplog.text


def test_a_step_of_a_ramp_does_not_wait_for_the_interval_of_its_task(
    app: _db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def note(conn: _db.Connection, model: str) -> str:
        del conn
        ran.append(model)
        return ""

    monkeypatch.setattr(tasks, "TASKS", {"ramp": tasks.Task(note, timedelta(hours=1))})
    tasks.plan(app)
    tasks.run_due(app)
    app.execute(
        "insert into recsys.ramp (model, number, steps, every, next_at)"
        " values ('shop', 2, '{1,5}', '1 second', now() + interval '0.3 s')"
    )
    tasks.plan(app)
    assert tasks.run_due(app) == 0, "not due"
    time.sleep(0.4)

    tasks.plan(app)
    assert tasks.run_due(app) == 1

    tasks.plan(app)
    assert tasks.run_due(app) == 0, "it waits for its guardrails: not every second"
    assert ran == ["shop", "shop"]


def test_an_interval_of_ones_own_stays(app: _db.Connection) -> None:
    tasks.plan(app)
    app.execute("update recsys.schedule set every = '2 days' where task = 'clean up'")

    tasks.plan(app)

    every = "select every from recsys.schedule where task = 'clean up'"
    assert value(app, every) == timedelta(days=2)


# sources without triggers -----------------------------------------------------------


@pytest.fixture
def swept(server: str, template: str) -> Iterator[_db.Connection]:
    """A shop that is not watched; its products carry the time of their last change."""
    source = (
        "select id as item_id, title, brand, price, created_at, changed as updated"
        " from product"
    )
    model = followed(sql=source, updated_at="updated", sweep_s=1)
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=50)
        with _db.connect(dsn, autocommit=True) as conn:
            conn.execute(
                "alter table product add changed timestamptz not null"
                " default now() - interval '1 day'"
            )
            world.add_version(dsn, model, promote=True)
            sweep(conn)
            conn.execute("delete from recsys.item_change")
            yield conn


def sweep(conn: _db.Connection) -> str:
    conn.execute("update recsys.capture set sweep_at = now()")
    return capture_check.check(conn, "shop")


def test_the_first_sweep_finds_everything_the_next_what_changed(
    swept: _db.Connection,
) -> None:
    assert sweep(swept) == ""
    swept.execute(
        "update product set title = 'blue lamp', changed = now() where id = 5"
    )
    swept.execute("update product set price = 3 where id = 6")

    assert "1 item by updated_at" in sweep(swept)
    assert queue(swept) == ["5"]
    assert value(swept, "select capture from recsys.change_status") == "sweep"
    drain(swept)
    swept.execute("update recsys.capture set sweep_at = now() + interval '1 hour'")
    assert capture_check.check(swept, "shop") == "", "not before its time"


def test_a_sweep_finds_new_and_deleted_items_by_id(swept: _db.Connection) -> None:
    swept.execute("delete from product where id = 5")
    swept.execute("insert into product values (901, 'a', 'Acme', 1, now(), 1)")

    assert "2 items differ by id" in sweep(swept)
    drain(swept)

    assert_current(swept, 1)


def test_a_change_that_commits_late_is_not_missed(swept: _db.Connection) -> None:
    """updated_at says when its transaction began; sweeps ran in between."""
    with psycopg.connect(swept.info.dsn) as writer:
        writer.execute("update product set title = 'x', changed = now() where id = 5")
        began = writer.execute("select now()").fetchone()
        sweep(swept)
        swept_to = value(swept, "select swept_to from recsys.capture")
        writer.commit()

    assert began
    assert swept_to <= began[0]
    swept.execute("delete from recsys.item_change")
    sweep(swept)
    assert "5" in queue(swept)


def test_a_watched_model_with_updated_at_is_swept_for_the_rest(
    swept: _db.Connection,
) -> None:
    """A table that cannot be watched stays behind one that is."""
    swept.execute("create table other (id bigint)")
    source = "select id as item_id from product where id in (select id from other)"
    raw = world.toml(features=False)
    raw["model"]["shop"]["items"] = {"sql": source, "watch": {"other": "id"}}
    with swept.transaction():
        capture.watch(swept, from_mapping(raw).model("shop"))
    swept.execute("update recsys.capture set reconcile_after = null")

    swept.execute(
        "update product set title = 'blue lamp', changed = now() where id = 5"
    )

    assert "1 item by updated_at" in sweep(swept)


def test_compare_ids_queues_what_a_version_lacks_or_has_too_many(
    app: _db.Connection,
) -> None:
    assert capture_check.compare_ids(app, "shop") == ""
    app.execute("delete from recsys.item_vector_shop_2 where item_id = 5")
    app.execute(
        "insert into recsys.item_vector_shop_1 select 999, embedding"
        " from recsys.item_vector_shop_1 limit 1"
    )

    assert capture_check.compare_ids(app, "shop") == "2 items differ by id"

    assert queue(app) == ["5", "999"]
    drain(app)
    assert_current(app, 1)


def test_a_full_disk_gives_the_batch_back_and_loses_nothing(shop: Shop) -> None:
    with _db.connect(shop.dsn, autocommit=True) as conn:
        conn.execute(
            "create function full_disk() returns trigger language plpgsql as $$ begin"
            " raise exception 'No space left on device' using errcode = 'disk_full';"
            " end $$; create trigger full_disk before insert on"
            " recsys.item_embedding_shop_1 for each row execute function full_disk()"
        )
        conn.execute("select recsys._queue_items('shop', '{3,4}')")
        with pytest.raises(psycopg.errors.DiskFull):
            LiveModel("shop").apply_changes(conn, 100)

        queued = conn.execute("select count(*) from recsys.item_change").fetchone()
        failed = conn.execute("select count(*) from recsys.item_failure").fetchone()
        assert (queued, failed) == ((2,), (0,))
        conn.execute("drop function full_disk cascade")
        assert LiveModel("shop").apply_changes(conn, 100).items == 2
