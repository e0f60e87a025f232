"""An incremental update of many interactions, and how requests fare meanwhile."""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from benchmarks import world
from benchmarks.report import Row
from recsys import Recommender, _db
from recsys.backfill import backfill
from recsys.rollout import promote
from recsys.updates import run as updates
from recsys.updates.settings import UpdateConfig

_SPAWN = multiprocessing.get_context("spawn")
_DIM = 64
_START = datetime(2026, 2, 1, tzinfo=UTC)
_NEW_USERS = 20_000


def run(
    dsn: str, items: int, interactions: int, *, rate: float, steady_s: float,
    max_load: float,
) -> list[Row]:  # fmt: skip
    """Measure one update.

    Args:
        dsn: An empty database at head.
        items: Items of the catalogue.
        interactions: New interactions.
        rate: Requests per second, of one process in an open loop.
        steady_s: For how long they are measured without the update.
        max_load: Share of the time in which vectors are written.
    """
    _prepare(dsn, items)
    pipe, far = _SPAWN.Pipe()
    stop = _SPAWN.Event()
    asking = _SPAWN.Process(target=_ask, args=(dsn, rate, stop, far))
    asking.start()
    pipe.recv()  # it is warm
    time.sleep(steady_s)
    written = time.monotonic()
    _happen(dsn, items, interactions)
    ended_before = _ended_s(dsn)
    began, worked = time.monotonic(), time.process_time()
    (done,) = updates.update(
        dsn, world.MODEL, UpdateConfig(max_interactions=interactions),
        max_load=max_load,
    )  # fmt: skip
    ended, worked = time.monotonic(), time.process_time() - worked
    time.sleep(0.5)  # until the server has noticed
    of_server = _ended_s(dsn) - ended_before
    stop.set()
    due, took = pipe.recv()
    asking.join(30)
    before = took[due < written]
    during = took[(due >= began) & (due <= ended)]
    steady, loaded = (float(np.percentile(part, 99)) for part in (before, during))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        Row("end to end", ended - began, "s", 60.0,
            note=f"{done.trained:,} interactions, {done.changed:,} rows, {done.state}"),
        Row("of it, work of the updating process", worked, "s",
            note="reading, examining, learning, the item tower"),
        Row("of it, work of its server process", of_server, "s",
            note="reading and writing; the rest is waiting for a core or the disk"),
        Row("steady p99", steady * 1e3, "ms", note=f"{len(before)} requests"),
        Row("p99 meanwhile", loaded * 1e3, "ms", note=f"{len(during)} requests"),
        Row("p99 meanwhile / steady", loaded / steady, "", 1.3),
        Row("p50 meanwhile / steady", float(np.median(during) / np.median(before)), ""),
        Row("peak memory of the updating process", peak, "MB"),
    ]  # fmt: skip


def _prepare(dsn: str, items: int) -> None:
    learned = world.catalogue(items, _DIM, seed=1)
    with _db.connect(dsn) as conn:
        world.tables(conn, learned, seed=1)
        conn.execute("create index on bench_event (occurred_at)")
        number = world.register(conn, learned, _DIM)
        conn.execute(
            "update recsys.model_version set spec = spec"
            " || jsonb_build_object('trained_until', %s::text)",
            (_START.isoformat(),),
        )
    backfill(dsn, world.MODEL, number)
    with _db.connect(dsn) as conn:
        promote(conn, world.MODEL, number, reason="benchmark", force=True)


def _happen(dsn: str, items: int, count: int) -> None:
    """Write new interactions: popular items more often, some users many."""
    rng = np.random.default_rng(2)
    item = np.minimum(rng.zipf(1.25, 4 * count), items * 10)
    item = rng.permutation(items)[item[item <= items][:count] - 1] + 1
    user = rng.integers(0, _NEW_USERS, len(item))
    with _db.connect(dsn) as conn:
        with conn.cursor().copy("copy bench_event from stdin") as copy:
            for n, (u, i) in enumerate(zip(user.tolist(), item.tolist(), strict=True)):
                copy.write_row((u, i, _START + timedelta(milliseconds=n)))
        conn.execute("analyze bench_event")


def _ended_s(dsn: str) -> float:
    """Return the CPU seconds of the server's processes that ended.

    NaN where they cannot be seen: on another machine, or not on Linux.
    """
    with _db.connect(dsn) as conn:
        backend = Path(f"/proc/{conn.info.backend_pid}/stat")
        try:
            parent = _stat(backend)[1]
            of_children = _stat(Path(f"/proc/{parent}/stat"))[13:15]
        except OSError:
            return math.nan
    return sum(map(int, of_children)) / os.sysconf("SC_CLK_TCK")


def _stat(path: Path) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name: state, parent, ..."""
    return path.read_text().rsplit(")", 1)[1].split()


def _ask(dsn: str, rate: float, stop: Event, pipe: object) -> None:
    """Ask at fixed times; latency counts from when a request was due."""
    bench = Recommender(world.MODEL, dsn=dsn)
    rng = np.random.default_rng(3)
    for user in range(50):
        bench.recommend(user_id=user, k=20)
    pipe.send("warm")
    due: list[float] = []
    took: list[float] = []
    next_at = time.monotonic()
    while not stop.is_set():
        next_at += 1 / rate
        time.sleep(max(0.0, next_at - time.monotonic()))
        bench.recommend(user_id=int(rng.integers(world.USERS)), k=20)
        due.append(next_at)
        took.append(time.monotonic() - next_at)
    bench.close()
    pipe.send((np.array(due), np.array(took)))
