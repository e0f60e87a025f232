"""What changes while an index is built: the serving version at once, the new one after.

CREATE INDEX locks out whoever writes the table. No version may wait for another's.
"""

from __future__ import annotations

import time

import pytest
from between import before
from scene import Scene, differences

from recsys import _db, _late
from recsys.backfill import backfill
from recsys.worker.apply import LiveModel

CREATE_INDEX = "create index item_vector_shop_2_hnsw"


def _change(scene: Scene) -> None:
    scene.run(
        "update product set title = 'blue lamp' where id between 1 and 9",
        "delete from product where id in (10, 11)",
        "insert into product (id, title, shelf) values (901, 'red shoe', 1)",
    )


def _during_the_index_build(scene: Scene) -> list[str]:
    """Change items while the table is locked; returns how version 1 then differs."""
    with _db.connect(scene.dsn) as builder:
        builder.execute("lock table recsys.item_vector_shop_2 in share mode")
        _change(scene)
        start = time.monotonic()
        scene.drain()
        assert time.monotonic() - start < 5
        return [line for line in differences(scene.dsn) if "version 2" not in line]


def test_the_serving_version_does_not_wait_for_an_index(scene: Scene) -> None:
    number = scene.add_version(7, ready=False)
    meanwhile: list[str] = []

    with before(CREATE_INDEX, lambda: meanwhile.extend(_during_the_index_build(scene))):
        backfill(scene.dsn, scene.model.name, number)
    scene.drain()

    assert meanwhile == []
    assert differences(scene.dsn) == []


def test_a_backfill_brings_by_itself_what_changed_during_the_index_build(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_late, "_CHUNK", 3)
    monkeypatch.setattr(_late, "_FEW", 1)
    number = scene.add_version(7, ready=False)

    with before(CREATE_INDEX, lambda: _during_the_index_build(scene)):
        backfill(scene.dsn, scene.model.name, number)

    assert differences(scene.dsn) == []


def test_a_backfill_that_died_during_the_index_build_loses_nothing(
    scene: Scene,
) -> None:
    number = scene.add_version(7, ready=False)

    def die() -> None:
        _during_the_index_build(scene)
        raise KeyboardInterrupt

    with before(CREATE_INDEX, die), pytest.raises(KeyboardInterrupt):
        backfill(scene.dsn, scene.model.name, number)
    scene.run("update product set title = 'green lamp' where id = 20")
    scene.drain()
    backfill(scene.dsn, scene.model.name, number)
    scene.drain()

    assert differences(scene.dsn) == []
    assert scene.value("select count(*) from recsys.item_gone") == 0


def test_a_locked_table_puts_a_batch_back_whole(scene: Scene) -> None:
    """One wait for the lock, not one for each item."""
    with _db.connect(scene.dsn) as builder:
        builder.execute("lock table recsys.item_vector_shop_1 in share mode")
        scene.run("update product set title = 'blue lamp'")
        start = time.monotonic()
        _one_batch(scene)
        assert time.monotonic() - start < 3
    scene.drain()

    assert differences(scene.dsn) == []


def _one_batch(scene: Scene) -> None:
    with _db.connect(scene.dsn, autocommit=True) as conn:
        LiveModel(scene.model.name).apply_changes(conn, 500)
