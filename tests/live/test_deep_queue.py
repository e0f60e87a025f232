"""A queue of many rows, and clocks that are wrong."""

from __future__ import annotations

import os
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from scene import MODEL, Scene, differences

from recsys import _db
from recsys.worker.apply import LiveModel
from recsys.worker.loop import Worker

ROWS = int(os.environ.get("RECSYS_TEST_QUEUE", "200_000"))
"""5_000_000 for the full size; it takes a minute or two."""
_CLOCK = re.compile(r"time\.time\(|\.now\(|utcnow|today\(")


def test_deep_queue_is_claimed_fast_and_in_little_memory(scene: Scene) -> None:
    fill = (
        "insert into recsys.item_change (model, bucket, item_id)"
        f" select '{MODEL}', recsys._item_bucket(i::text), i::text"
        " from generate_series({}, {}) as i"
    )
    batches = 10

    def seconds(conn: _db.Connection) -> float:
        start = time.perf_counter()
        for _ in range(batches):
            done = LiveModel(MODEL).apply_changes(conn, 500)
            assert done.items == 500
        return time.perf_counter() - start

    with _db.connect(scene.dsn, autocommit=True) as conn:
        conn.execute(fill.format(10_000, 10_000 + 64 * 500).encode())
        shallow = seconds(conn)
        conn.execute(fill.format(100_000, 100_000 + ROWS).encode())
        tracemalloc.start()
        deep = seconds(conn)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    # Tracing alone costs a factor of two or so.
    assert deep < 8 * shallow
    assert peak < 30 * 2**20


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
def test_a_wrong_clock_of_a_worker_changes_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + off)

    scene.run("update product set title = 'other words' where id < 9")
    Worker(scene.dsn, run_tasks=False).drain()

    assert differences(scene.dsn) == []


def test_no_time_of_a_client_reaches_the_database() -> None:
    """Queue, back-off and schedule go by the server's clock only."""
    recsys = Path(__file__).parents[2] / "recsys"
    files = [*recsys.glob("worker/*.py")]
    files += [recsys / f"{name}.py" for name in ("capture", "capture_check", "_load",
              "backfill", "rollout", "ramps", "clean_up", "sync")]  # fmt: skip

    clocks = {
        file.name: found
        for file in files
        if (
            found := re.findall(
                r"time\.time\(|\.now\(|utcnow|today\(", file.read_text()
            )
        )
    }

    assert clocks == {}
