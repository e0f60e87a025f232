"""Interleavings that were bugs once, or nearly."""

from __future__ import annotations

import threading
import time

from between import after, before, last_chunk
from scene import MODEL, Scene, differences

from recsys import _db, rollout
from recsys.backfill import backfill
from recsys.sync import sync_items
from recsys.worker.loop import Worker


def test_truncate_forgets_what_a_backfill_has_read(scene: Scene) -> None:
    """Nobody but the backfill knows these items: no version has their vectors."""

    def truncate() -> None:
        scene.run(
            "truncate product",
            "insert into product (id, title, shelf) values (901, 'red shoe', 1)",
        )
        scene.drain()

    with _db.connect(scene.dsn) as conn:
        rollout.promote(conn, MODEL, None, reason="stop")
        rollout.retire(conn, MODEL, 1)
    number = scene.add_version(7, ready=False)
    with last_chunk(scene, truncate, unseen=True):
        backfill(scene.dsn, MODEL, number)
    scene.drain()

    assert differences(scene.dsn) == []


def test_item_synced_in_the_moment_a_backfill_writes_it(scene: Scene) -> None:
    scene.run("delete from recsys.item_vector_shop_1 where item_id = 5")
    scene.run("delete from recsys.item_embedding_shop_1 where item_id = 5")
    with _db.connect(scene.dsn) as application:

        def sync() -> None:
            application.execute("update product set title = 'other' where id = 5")
            assert sync_items(application, [5])

        with before('copy "recsys"."item_vector_shop_1"', sync):
            backfill_in_thread = _Background(scene, 1)
            backfill_in_thread.wait_for_lock()
            application.commit()
            backfill_in_thread.join()
    scene.drain()

    assert backfill_in_thread.error is None
    assert differences(scene.dsn) == []


def test_item_gets_a_brand_while_the_brand_is_renamed(scene: Scene) -> None:
    """The trigger of the brand cannot see the product yet, nor it the new name."""
    with _db.connect(scene.dsn) as application:
        application.execute("update brand set name = 'new name' where id = 7")
        scene.run("update product set brand_id = 7 where id = 5")
        scene.drain()
        application.commit()
    scene.drain()

    assert differences(scene.dsn) == []


class _Background:
    """A backfill in a thread, and the moment when it waits for a lock."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.error: BaseException | None = None
        self._scene = scene

        def run() -> None:
            try:
                backfill(scene.dsn, MODEL, number)
            except BaseException as exc:
                self.error = exc

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def wait_for_lock(self) -> None:
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            " and datname = current_database()"
        )
        for _ in range(500):
            if self._scene.value(waiting):
                return
            time.sleep(0.02)
        raise AssertionError("nothing waits for a lock")

    def join(self) -> None:
        self._thread.join(60)


def test_index_build_holds_up_nothing_but_its_own_version(scene: Scene) -> None:
    number = scene.add_version(7, ready=False)

    def meanwhile() -> None:
        """The index is there, and its transaction has not ended."""
        scene.run("update product set title = 'other words' where id < 40")
        start = time.monotonic()
        Worker(scene.dsn, batch=100, run_tasks=False).drain()
        assert time.monotonic() - start < 3
        assert not any(
            "version 1" in line for line in differences(scene.dsn, queue_empty=False)
        )
        with _db.connect(scene.dsn) as application:
            application.execute("update product set title = 'third' where id = 50")
            assert sync_items(application, [50])

    with after("create index", meanwhile):
        backfill(scene.dsn, MODEL, number)
    time.sleep(2)
    scene.drain()

    assert differences(scene.dsn) == []


def test_look_up_that_is_gone_queues_every_item(scene: Scene) -> None:
    with _db.connect(scene.dsn) as application:
        application.execute("update brand set name = 'new name' where id = 7")
        scene.run(
            "update product set brand_id = 7 where id = 5",
            "update recsys.capture set lookups = '{}'",
        )
        scene.drain()
        application.commit()
    scene.drain()

    assert scene.value("select count(*) from recsys.item_lookup") == 0
    assert differences(scene.dsn) == []
