"""The server crashes while something is in work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import pytest
from between import after, before
from chaos import crash
from conftest import Mortal
from scene import MODEL, Scene, differences

from recsys import _db, rollout
from recsys.backfill import backfill
from recsys.errors import RecsysError
from recsys.worker.loop import Worker

Moment = Callable[[Callable[[], object]], AbstractContextManager[None]]


def test_crash_during_a_batch(mortal: Mortal, mortal_scene: Scene) -> None:
    scene = mortal_scene
    worker = Worker(scene.dsn, poll_s=0.05, run_tasks=False)
    thread = threading.Thread(target=worker.run)

    scene.run("update product set title = 'other words' where id < 90")
    with before("insert into recsys.item_vector", lambda: crash(mortal.data)):
        thread.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.1)
            try:
                if scene.value("select count(*) from recsys.item_change") == 0:
                    break
            except (RecsysError, psycopg.Error):
                continue
        worker.stop()
        thread.join(30)

    assert differences(scene.dsn) == []


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda act: before("from stdin", act, nth=4), id="load"),
        pytest.param(lambda act: after("create index", act), id="index"),
        pytest.param(lambda act: before("recsys._search_shop", act), id="verify"),
    ],
)
def test_crash_during_a_backfill(
    mortal: Mortal, mortal_scene: Scene, moment: Moment
) -> None:
    scene = mortal_scene
    number = scene.add_version(7, ready=False)

    with (
        moment(lambda: crash(mortal.data)),
        pytest.raises((RecsysError, psycopg.OperationalError)),
    ):
        backfill(scene.dsn, MODEL, number)
    scene.run("update product set title = 'other words' where id < 90")
    scene.settle()

    assert (
        scene.value(f"select state from recsys.model_version where number = {number}")
        == "ready"
    )
    assert differences(scene.dsn) == []


def test_crash_during_a_promotion(mortal: Mortal, mortal_scene: Scene) -> None:
    scene = mortal_scene
    number = scene.add_version(7)

    with (
        after("_promote(", lambda: crash(mortal.data)),
        pytest.raises(psycopg.OperationalError),
        _db.connect(scene.dsn) as conn,
    ):
        rollout.promote(conn, MODEL, number, reason="new", force=True)

    assert scene.value("select number from recsys.rollout") == 1
    with _db.connect(scene.dsn) as conn:
        rollout.promote(conn, MODEL, number, reason="new", force=True)
    assert scene.value("select number from recsys.rollout") == number
