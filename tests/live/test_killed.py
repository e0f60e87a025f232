"""A worker or a backfill that dies between any two statements loses nothing."""

from __future__ import annotations

import itertools

from between import Died, death_at
from scene import MODEL, Scene, differences

from recsys.backfill import backfill
from recsys.worker.loop import Worker


def test_worker_dies_before_any_statement_of_a_batch(scene: Scene) -> None:
    for n in itertools.count(1):
        scene.run(
            f"update product set title = 'words {n}' where id < 20",
            f"delete from product where id = {20 + n}",
            f"update brand set name = 'brand {n}' where id = 30",
        )
        try:
            with death_at(n):
                Worker(scene.dsn, batch=500, run_tasks=False).drain()
        except Died:
            pass
        else:
            break
        scene.drain()
        assert scene.value("select count(*) from recsys.item_failure") == 0
    assert n > 15
    scene.drain()

    assert differences(scene.dsn) == []


def test_backfill_dies_before_any_statement(scene: Scene) -> None:
    number = scene.add_version(7, ready=False)
    for n in (1, 3, 5, 6, 7, 8, 9, 11, 13, 15, 18, 21, 25, 30, 36, 45):
        scene.run(
            f"update product set title = 'words {n}' where id < 20",
            f"delete from product where id = {10 + n}",
            "insert into product (id, title, shelf)"
            f" values ({2000 + n}, 'red lamp', 1)",
        )
        try:
            with death_at(n):
                backfill(scene.dsn, MODEL, number, workers=1 + n % 2)
        except Died:
            pass
        scene.drain()
    scene.settle()

    assert differences(scene.dsn) == []
