"""A roll under load: five versions built, ramped, promoted, rolled back, dropped.

Meanwhile four processes ask, one changes items and ``recsys worker`` brings the changes
into every live version. Latency counts from when a request was due; the steady state
has the same requests, changes and worker, before each version is begun. Every answer is
checked for errors, length and a mix of versions (``check``).

Left out: the network; the comparison that a promotion without ``force`` asks for;
training; items without a learned row.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.live import check, shop
from benchmarks.live.load import Answers, Load, pause, worker
from benchmarks.live.shop import MODEL, Learned, Shop
from benchmarks.report import Row
from recsys import _db, rollout
from recsys.backfill import backfill
from recsys.progress import SILENT, Stage

PROCESSES = 4
CHANGES = 200
MAX_LOAD = 0.5
_LIMIT = 1.5
_INDEX, _VERIFY = "Building the HNSW index", "Measuring ANN recall"
_AFTER_S = 2.0
"""Requests due so long after a switch count as during it."""


class _Times:
    """Which kinds of phase took place when; also the progress of a backfill."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def phase(self, name: str, after_s: float = 0.0) -> Generator[None]:
        start = time.monotonic_ns()
        yield
        end = time.monotonic_ns() + int(after_s * 1e9)
        self.spans.setdefault(name, []).append((start, end))

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Generator[Stage]:
        with self.phase(name), SILENT.stage(name, total) as stage:
            yield stage

    def seconds(self, name: str) -> float:
        return sum(b - a for a, b in self.spans.get(name, ())) / 1e9

    def during(self, name: str, due: np.ndarray) -> np.ndarray:
        inside = np.zeros(len(due), bool)
        for start, end in self.spans.get(name, ()):
            inside |= (due >= start) & (due < end)
        return inside


class _Waits(threading.Thread):
    """Looks twice a second how old the oldest change is that waits for a worker."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self._ended = threading.Event()
        self.at: list[int] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        with _db.connect(self._dsn, autocommit=True) as conn:
            while not self._ended.wait(0.5):
                row = conn.execute(
                    "select extract(epoch from clock_timestamp() - min(changed_at))"
                    " from recsys.item_change"
                ).fetchone()
                self.at.append(time.monotonic_ns())
                self.seconds.append(float(row[0] or 0) if row else 0.0)

    @contextmanager
    def looking(self) -> Generator[None]:
        self.start()
        yield
        self._ended.set()
        self.join()

    def longest(self, times: _Times, name: str) -> float:
        inside = times.during(name, np.array(self.at))
        return max(np.array(self.seconds)[inside], default=0.0)


def run(
    dsn: str, items: int, *, cycles: int = 5, rate: float = 100, steady_s: float = 15
) -> list[Row]:
    """Roll ``cycles`` versions through under load.

    Args:
        dsn: An empty database at head.
        items: Size of the catalogue.
        cycles: How many versions follow the first.
        rate: Requests per second of all processes.
        steady_s: Seconds of steady state before each version.
    """
    data = shop.make(dsn, items)
    with _db.connect(dsn) as conn:
        learned = [shop.register(conn, data)]
    backfill(dsn, MODEL, 1)
    with _db.connect(dsn) as conn:
        rollout.promote(conn, MODEL, 1, reason="the first", force=True)
    shop.watch(dsn)
    times, waits = _Times(), _Waits(dsn)
    with tempfile.TemporaryDirectory() as folder, worker(dsn):
        until_drained(dsn)
        load = Load(dsn, Path(folder))
        with load.running(), waits.looking():
            load.change(data, CHANGES)
            load.ask(PROCESSES, rate)
            pause(min(3, steady_s))
            for _ in range(cycles):
                with times.phase("steady"):
                    pause(steady_s)
                learned.append(_cycle(dsn, data, times))
        answers = load.answers()
        until_drained(dsn)
        differing = _differing(dsn, learned[-1].number)
    return [
        *_judge(data, learned, answers, times, rate),
        Row("items missing or left over in the last version", differing, "", 0),
        *(
            Row(f"oldest change in the queue, longest: {name}",
                waits.longest(times, phase), "s")
            for name, phase in (("steady state", "steady"), ("index build", _INDEX),
                                ("all of a build", "build"))
        ),
    ]  # fmt: skip


def _cycle(dsn: str, data: Shop, times: _Times) -> Learned:
    """Build, ramp, promote, roll back, promote again, and drop the one before."""
    with times.phase("build"), _db.connect(dsn) as conn:
        learned = shop.register(conn, data)
    number, before = learned.number, learned.number - 1
    with times.phase("build"):
        backfill(dsn, MODEL, number, max_load=MAX_LOAD, progress=times)
    for percent in (1, 25, 100):
        _switch(dsn, times, number, percent)
    with times.phase("switch", _AFTER_S), _db.connect(dsn) as conn:
        rollout.rollback(conn, MODEL)
    pause(_AFTER_S)
    _switch(dsn, times, number, 100)
    with times.phase("switch", _AFTER_S):
        with _db.connect(dsn) as conn:
            rollout.hand_over(conn, MODEL, before)
        with _db.connect(dsn) as conn:
            rollout.drop(conn, MODEL, before)
    pause(_AFTER_S)
    return learned


def _switch(dsn: str, times: _Times, number: int, percent: float) -> None:
    with times.phase("switch", _AFTER_S), _db.connect(dsn) as conn:
        rollout.promote(
            conn, MODEL, number, percent=percent, reason="bench", force=True
        )
    pause(_AFTER_S)


def _judge(
    data: Shop, learned: list[Learned], answers: Answers, times: _Times, rate: float
) -> list[Row]:
    took = (answers.end - answers.due) / 1e6
    served = (answers.end - answers.start) / 1e6
    due = answers.due
    inside = {
        "steady state": times.during("steady", due),
        "index build": times.during(_INDEX, due),
        "verification": times.during(_VERIFY, due),
        "switches and drops": times.during("switch", due),
    }
    other = inside["index build"] | inside["verification"]
    inside["backfill"] = times.during("build", due) & ~other
    base = inside.pop("steady state")
    steady = float(np.percentile(took[base], 99))
    note = (
        f"{PROCESSES} processes, {rate:g} requests and {CHANGES} changes per second,"
        f" {base.sum():,} requests"
    )
    rows = [
        Row("steady state p50", float(np.median(took[base])), "ms", note=note),
        Row("steady state p99", steady, "ms"),
        Row("steady state p99, from its start instead of when due",
            float(np.percentile(served[base], 99)), "ms"),
    ]  # fmt: skip
    for name in ("backfill", "index build", "verification", "switches and drops"):
        chosen = took[inside[name]]
        if not len(chosen):
            continue
        p99 = float(np.percentile(chosen, 99))
        late = float(np.percentile(served[inside[name]], 99))
        note = f"{p99:.1f} ms, {len(chosen):,} requests; {late:.1f} ms from its start"
        rows.append(Row(f"{name} / steady p99", p99 / steady, "x", _LIMIT, note=note))
    build = np.logical_or.reduce(list(inside.values()))
    p99 = float(np.percentile(took[build], 99))
    note = f"{p99:.1f} ms, {build.sum():,} requests"
    rows.append(Row("all of these / steady p99", p99 / steady, "x", _LIMIT, note=note))
    spent = (
        f"index {times.seconds(_INDEX):.0f} s, verify {times.seconds(_VERIFY):.0f} s"
    )
    return [
        *rows,
        *_counts(data, learned, answers),
        Row("building the versions", times.seconds("build"), "s", note=spent),
    ]


def _counts(data: Shop, learned: list[Learned], answers: Answers) -> list[Row]:
    mixed = 0
    for version in learned:
        mine = answers.version == version.number
        mixed += int(
            check.mixed(
                data,
                version,
                answers.user[mine],
                answers.ids[mine],
                answers.scores[mine],
            ).sum()
        )
    short = (answers.version > 0) & (answers.ids == 0).any(axis=1)
    per = ", ".join(f"{(answers.version == v.number).sum():,}" for v in learned)
    return [
        Row("answers", len(answers.due), "", note=f"by version: {per}"),
        Row("errors", len(answers.errors), "", 0, note="; ".join(answers.errors[:1])),
        Row("answers that mix versions", mixed, "", 0),
        Row("pages of fewer than k items", int(short.sum()), "", 0),
    ]


def until_drained(dsn: str, limit_s: float = 120) -> None:
    """Wait until the worker has applied what is queued and what is going to be.

    ``watch`` asks for every item to be queued once; a task does that seconds later.
    """
    deadline = time.monotonic() + limit_s
    left = (
        "select from recsys.item_change union all"
        " select from recsys.capture where reconcile_after is not null limit 1"
    )
    with _db.connect(dsn, autocommit=True) as conn:
        while conn.execute(left.encode()).rowcount:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the queue was not empty after {limit_s:.0f} s")
            pause(0.1)


def _differing(dsn: str, number: int) -> int:
    with _db.connect(dsn) as conn:
        row = conn.execute(
            f"select missing + orphaned from recsys._coverage_{MODEL}_{number}()"
        ).fetchone()
    return int(row[0]) if row else -1
