"""How long until a committed change is served by every live version.

One catalogue, two live versions. A change counts as served once every version's vector
of the item has another row version (or is there, or is gone): what the next request
searches. It is looked for every few milliseconds, so a number is too high by up to one
look (its length is in the table), never too low. Left out: requests at the same time,
which the roll under load has.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import numpy as np

from benchmarks.live import drain, shop, switch
from benchmarks.live.load import Change, Load, worker
from benchmarks.live.roll import until_drained
from benchmarks.live.shop import MODEL, Shop
from benchmarks.report import Row
from recsys import _db, rollout
from recsys._db import Connection
from recsys.backfill import backfill

RATES = (10, 100, 500)
_LOOK_S = 0.005
_GIVE_UP_S = 60.0

Known = list[dict[int, int]]


def run(
    dsn: str,
    items: int,
    *,
    seconds: float = 20,
    queued: int = 10_000,
    switches: int = 20,
) -> dict[str, list[Row]]:
    """Measure the drain with one live version, then freshness and switches with two.

    Args:
        dsn: An empty database at head.
        items: Size of the catalogue.
        seconds: Length of each rate.
        queued: Changes that are drained.
        switches: Promotions and as many rollbacks.

    Returns:
        Rows by the title of their table.
    """
    data = shop.make(dsn, items)
    _build(dsn, data)
    with _db.connect(dsn) as conn:
        rollout.promote(conn, MODEL, 1, reason="the first", force=True)
    shop.watch(dsn)
    tables = {f"Drain of {queued:,} changes": drain.run(dsn, items, queued)}
    _build(dsn, data)
    with worker(dsn):
        until_drained(dsn, 300)
        rows = []
        for rate in RATES:
            rows += _at(dsn, data, rate, seconds)
            until_drained(dsn, 300)
    title = f"Freshness, two live versions of {items:,} items"
    switching = switch.run(dsn, switches)
    return {**tables, title: rows, "Switches, 8 processes": switching}


def _build(dsn: str, data: Shop) -> None:
    with _db.connect(dsn) as conn:
        number = shop.register(conn, data).number
    backfill(dsn, MODEL, number)


def _at(dsn: str, data: Shop, rate: float, seconds: float) -> list[Row]:
    """Change items at a rate and see when every version has them."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        _db.connect(dsn, autocommit=True) as conn,
    ):
        watched = _Watched(conn, receiving)
        load = Load(dsn, Path(folder))
        with load.running():
            load.change(data, rate, sending)
            watched.follow(seconds)
        watched.finish()
    waits = np.array(watched.waits) * 1e3
    looks = np.array(watched.looks) * 1e3
    span = watched.changes / watched.span
    note = (
        f"{len(waits):,} changes, {span:.0f}/s reached; looked every"
        f" {np.median(looks):.1f} ms (p99 {np.percentile(looks, 99):.1f} ms)"
    )
    p50, p99 = np.percentile(waits, (50, 99))
    limit = 1000 if rate == 100 else None
    return [
        Row(f"{rate:g} changes/s, commit to served p50", float(p50), "ms", note=note),
        Row(f"{rate:g} changes/s, commit to served p99", float(p99), "ms", limit),
        Row(f"{rate:g} changes/s, never served", watched.lost, "", 0),
    ]


@dataclass
class _Waiting:
    """A change that some version does not have yet."""

    change: Change
    missing: set[int]


class _Watched:
    """Looks at both versions until every reported change is there."""

    def __init__(self, conn: Connection, pipe: Pipe) -> None:
        self._conn = conn
        self._pipe = pipe
        self._numbers = (1, 2)
        self._known: Known = [self._look(number, None) for number in self._numbers]
        self._open: dict[int, _Waiting] = {}
        self.waits: list[float] = []
        self.looks: list[float] = []
        self.changes = 0
        self.lost = 0
        self._first = self._last = 0

    @property
    def span(self) -> float:
        """Seconds from the first to the last change."""
        return max((self._last - self._first) / 1e9, 1e-9)

    def follow(self, seconds: float) -> None:
        """Receive and look for some time, counted from the first change."""
        self._pipe.poll(60)
        until = time.monotonic() + seconds
        before = time.monotonic()
        while time.monotonic() < until:
            self._receive()
            self._step()
            time.sleep(_LOOK_S)
            now = time.monotonic()
            self.looks.append(now - before)
            before = now

    def finish(self) -> None:
        """Wait for what is still open after the changes have ended."""
        until = time.monotonic() + _GIVE_UP_S
        self._receive()
        while self._open and time.monotonic() < until:
            self._step()
            time.sleep(_LOOK_S)
        self.lost = len(self._open)

    def _receive(self) -> None:
        while self._pipe.poll():
            try:
                change: Change = self._pipe.recv()
            except EOFError:
                return
            self.changes += 1
            self._first = self._first or change.at
            self._last = change.at
            self._open[change.item] = _Waiting(change, set(self._numbers))

    def _step(self) -> None:
        if not self._open:
            return
        for number, known in zip(self._numbers, self._known, strict=True):
            wanted = [i for i, w in self._open.items() if number in w.missing]
            found = self._look(number, wanted)
            now = time.monotonic_ns()
            for item in wanted:
                waiting = self._open[item]
                row = found.get(item)
                there = row is not None and row != known.get(item)
                if there if waiting.change.present else row is None:
                    waiting.missing.discard(number)
                    known[item] = row or 0
                    if not waiting.missing:
                        self.waits.append((now - waiting.change.at) / 1e9)
        self._open = {i: w for i, w in self._open.items() if w.missing}

    def _look(self, number: int, items: list[int] | None) -> dict[int, int]:
        """Return the row version of each item that has a vector; None: of all."""
        query = (
            "select item_id, xmin::text::bigint"
            f" from recsys.item_vector_{MODEL}_{number}"
        )
        if items is None:
            return dict(self._conn.execute(query.encode()).fetchall())
        chosen = f"{query} where item_id = any(%s::bigint[])"
        return dict(self._conn.execute(chosen.encode(), (items,)).fetchall())
