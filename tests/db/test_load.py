"""The backfill's chunks: what others hold meanwhile does not stop them."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
import world

from recsys import _db, _load, sync_items
from recsys.backfill import backfill
from recsys.worker.loop import Worker


def test_what_the_application_holds_is_left_to_the_queue(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synced items of an open transaction: their rows cannot be seen, only felt."""
    model = world.shop_config(features=True)
    world.fill_shop(dsn)
    number, _ = world.add_version(dsn, model, ready=False)
    store, calls = _load._store, []
    with psycopg.connect(dsn) as app:

        def store_after_sync(*args: Any) -> int:
            calls.append(args)
            if len(calls) == 1:
                app.execute("update product set title = 'hot' where id in (5, 77)")
                assert sync_items(app, [5, 77])
            return store(*args)

        monkeypatch.setattr(_load, "_store", store_after_sync)
        monkeypatch.setattr(_load, "_PATIENT", 2)
        thread = threading.Thread(
            target=_load_all, args=(dsn, number), name="load", daemon=True
        )
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        with _db.connect(dsn, autocommit=True) as conn:
            queued = conn.execute(
                "select item_id from recsys.item_change order by item_id"
            ).fetchall()
            stored = conn.execute(
                "select count(*) from recsys.item_vector_shop_1"
            ).fetchone()
        assert (queued, stored) == ([("5",), ("77",)], (198,))
        app.rollback()

    Worker(dsn, run_tasks=False).drain()
    backfill(dsn, "shop", number)
    with psycopg.connect(dsn) as conn:
        done = conn.execute("select count(*) from recsys.item_vector_shop_1").fetchone()
    assert done == (200,)


def _load_all(dsn: str, number: int) -> None:
    with _db.connect(dsn) as conn:
        from recsys import versions
        from recsys._items import ItemEncoder

        conn.execute("update recsys.model_version set phase = 'loading'")
        conn.commit()
        encoder = ItemEncoder(conn, versions.get(conn, "shop", number))
        conn.commit()
    for _ in _load.load_missing(dsn, encoder, workers=1, max_load=1):
        pass
