"""sync_items: visible at once, inside the application's own transaction."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import world
from psycopg import sql
from psycopg.rows import dict_row
from world import Shop

from recsys import _db, capture, rollout, sync_items
from recsys.config import IdType, from_mapping
from recsys.errors import ConfigError, DatabaseUnavailable, UnknownModel
from recsys.worker.loop import Worker

NEW = "insert into product values (901, 'red mug', 'Acme', 9, now(), 1)"


@pytest.fixture
def app(shop: Shop) -> Iterator[_db.Connection]:
    """The application's connection: a transaction begins by itself."""
    with _db.connect(shop.dsn) as conn:
        yield conn


@pytest.fixture
def outside(shop: Shop) -> Iterator[_db.Connection]:
    """Somebody else's connection."""
    with _db.connect(shop.dsn, autocommit=True) as conn:
        yield conn


def has(conn: _db.Connection, item: object, suffix: str = "shop_1") -> bool:
    tables = ("item_vector", "item_embedding")
    found = {
        conn.execute(
            f"select from recsys.{table}_{suffix} where item_id::text = %s".encode(),
            (str(item),),
        ).fetchone()
        is not None
        for table in tables
    }
    assert len(found) == 1, "a vector without its history row, or the reverse"
    return found.pop()


def queue(conn: _db.Connection) -> list[str]:
    return [i for (i,) in conn.execute("select item_id from recsys.item_change")]


def test_visible_inside_at_once_and_outside_from_the_commit(
    app: _db.Connection, outside: _db.Connection
) -> None:
    app.execute(NEW)

    assert sync_items(app, [901])

    assert has(app, 901)
    assert has(app, 901, "shop_2")
    assert not has(outside, 901)
    app.commit()
    assert has(outside, 901)
    assert has(outside, 901, "shop_2")
    assert queue(outside) == ["901"], "a worker confirms it"
    assert Worker(outside.info.dsn).drain().items == 1


def test_a_deleted_item_is_gone_at_once(app: _db.Connection) -> None:
    app.execute("delete from product where id = 5")

    assert sync_items(app, [5])

    assert not has(app, 5)
    assert not has(app, 5, "shop_2")


def test_rolled_back_with_the_transaction(
    app: _db.Connection, outside: _db.Connection
) -> None:
    app.execute(NEW)
    assert sync_items(app, [901])

    app.rollback()

    assert not has(outside, 901)
    assert queue(outside) == []


def test_an_error_inside_leaves_the_transaction_as_it_was(
    app: _db.Connection, outside: _db.Connection
) -> None:
    outside.execute(
        "alter table recsys.item_vector_shop_2"
        " add constraint poison check (item_id <> 901)"
    )
    app.execute(NEW)

    assert not sync_items(app, [901])

    assert not has(app, 901), "all versions or none"
    app.execute("update product set title = 'still usable' where id = 901")
    app.commit()
    assert queue(outside) == ["901"]


def test_no_setting_stays_behind(app: _db.Connection, outside: _db.Connection) -> None:
    outside.execute(
        "alter table recsys.item_vector_shop_1 add check (item_id <> 1) not valid"
    )
    app.execute("set local lock_timeout = '7s'")
    app.execute(NEW)

    assert sync_items(app, [901])
    assert app.execute("show lock_timeout").fetchone() == ("7s",)
    app.execute("update product set title = 'blue lamp' where id = 1")
    assert not sync_items(app, [1])
    assert app.execute("show lock_timeout").fetchone() == ("7s",)


def test_it_does_not_wait_for_another_transaction(
    app: _db.Connection, outside: _db.Connection
) -> None:
    with outside.transaction():
        outside.execute(
            "select from recsys.item_vector_shop_1 where item_id = 5 for update"
        )
        app.execute("update product set title = 'blue lamp' where id = 5")

        assert not sync_items(app, [5])

    app.commit()
    assert queue(outside) == ["5"]


def test_a_role_that_may_not_write_vectors_leaves_it_to_the_worker(
    app: _db.Connection, outside: _db.Connection
) -> None:
    role = sql.Identifier(f"recsys_sync_{os.getpid()}")
    outside.execute(sql.SQL("create role {0}; grant recsys_app to {0}").format(role))
    outside.execute(sql.SQL("grant all on product to {}").format(role))
    try:
        app.execute(sql.SQL("set role {}").format(role))
        app.execute(NEW)

        assert not sync_items(app, [901])

        app.execute("update product set title = 'usable' where id = 901")
        app.commit()
        assert queue(outside) == ["901"]
        assert Worker(outside.info.dsn).drain().items == 1
        assert has(outside, 901)
    finally:
        app.execute("reset role")
        app.commit()
        outside.execute(sql.SQL("drop owned by {0}; drop role {0}").format(role))


def test_an_autocommit_connection_gets_a_transaction_of_its_own(
    outside: _db.Connection,
) -> None:
    outside.execute(NEW)

    assert sync_items(outside, [901])

    assert has(outside, 901)
    assert outside.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert outside.execute("show lock_timeout").fetchone() == ("0",)


def test_the_callers_connection_may_have_factories_of_its_own(
    app: Any,
) -> None:
    """Dictionaries for rows, or cursors that know no binary, such as Django's."""
    app.row_factory = dict_row
    app.cursor_factory = psycopg.ClientCursor
    app.execute(NEW)

    assert sync_items(app, [901])
    assert app.row_factory is dict_row
    assert app.cursor_factory is psycopg.ClientCursor


def test_repeated_missing_and_no_items(app: _db.Connection) -> None:
    assert sync_items(app, [])
    assert sync_items(app, [1, 1, 12345678])
    assert has(app, 1)


@pytest.mark.parametrize("ids", ["900", b"900", 900, None, ["900"], [None], ["abc"]])
def test_what_are_no_ids_of_the_model_is_refused(
    app: _db.Connection, outside: _db.Connection, ids: Any
) -> None:
    with pytest.raises(ConfigError, match="item_ids must be"):
        sync_items(app, ids)

    app.commit()
    assert queue(outside) == []


def test_a_connection_string_is_no_connection(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="conn must be a psycopg connection"):
        sync_items(shop.dsn, [1])  # type: ignore[arg-type]


def test_a_locked_queue_keeps_nobody_waiting_and_loses_nothing(
    app: _db.Connection, outside: _db.Connection
) -> None:
    def sync() -> bool:
        with outside.transaction():
            outside.execute("lock table recsys.item_change in access exclusive mode")
            app.execute("update product set title = 'blue lamp' where id = 5")
            return sync_items(app, [5])

    app.execute("set statement_timeout = '5s'")
    app.commit()
    with pytest.raises(DatabaseUnavailable, match="is locked"):
        sync()
    app.rollback()
    raw = world.toml(features=True)
    raw["model"]["shop"]["items"]["watch"] = {"product": "id"}
    with outside.transaction():
        capture.watch(outside, from_mapping(raw).model("shop"))

    assert not sync()

    app.execute("select")
    app.commit()
    counted = outside.execute("select is_called from recsys.capture_failure")
    assert counted.fetchone() == (True,), "a worker queues every item"


def test_a_model_must_be_named_when_there_are_several(
    app: _db.Connection, shop: Shop
) -> None:
    other = world.shop_config(features=True, name="other")
    world.add_version(shop.dsn, other)
    app.execute(NEW)

    with pytest.raises(ConfigError, match="several models: other, shop"):
        sync_items(app, [901])
    with pytest.raises(UnknownModel):
        sync_items(app, [901], model="nope")
    assert sync_items(app, [901], model="other")

    assert has(app, 901, "other_1")
    assert not has(app, 901, "shop_1")


@pytest.mark.parametrize("id_type", ["uuid", "text"])
def test_ids_of_every_type(server: str, template: str, id_type: IdType) -> None:
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, id_type, items=30, users=5)
        world.add_version(dsn, world.shop_config(id_type, features=True))
        first, new = world.make_id(id_type, 1), world.make_id(id_type, 901)
        with _db.connect(dsn) as conn:
            world.add_products(conn, id_type, [901])
            conn.execute("delete from product where id = %s", (first,))

            assert sync_items(conn, [first, new])

            assert has(conn, new)
            assert not has(conn, first)


def test_a_version_that_came_or_went_since_the_last_call(
    app: _db.Connection, shop: Shop
) -> None:
    assert sync_items(app, [1])
    app.commit()
    with _db.connect(shop.dsn) as conn:
        rollout.drop(conn, "shop", 2)
    world.add_version(shop.dsn, world.shop_config(features=True), seed=3)
    app.execute(NEW)

    assert sync_items(app, [901])

    assert has(app, 901, "shop_3")


def test_two_databases_in_one_process(app: _db.Connection, server: str) -> None:
    """The same model and towers, in a database with other type numbers."""
    assert sync_items(app, [1])
    with world.database(server) as dsn:
        from recsys import schema

        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("create type shifts_the_next_numbers as (a int)")
        schema.upgrade(dsn)
        world.fill_shop(dsn)
        world.add_version(dsn, world.shop_config(features=True), seed=1)
        with _db.connect(dsn) as conn:
            assert sync_items(conn, [1, 2])
            assert has(conn, 1)


def test_many_threads_at_once(shop: Shop) -> None:
    said: list[Any] = []

    def write(n: int) -> None:
        with _db.connect(shop.dsn) as conn:
            conn.execute("update product set title = 'x' where id = %s", (n,))
            said.append(sync_items(conn, [n]))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert said == [True] * 8


def test_a_child_process_makes_its_own_towers(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        assert sync_items(conn, [1])
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with _db.connect(shop.dsn) as conn:
                conn.execute(NEW)
                code = 0 if sync_items(conn, [901]) and has(conn, 901) else 2
        finally:
            os._exit(code)

    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
