"""The bare view and the view with recommend(), in turns under the same load."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import psycopg

from benchmarks import world
from benchmarks.report import Row
from benchmarks.web import cache, load
from benchmarks.web.cache import ASKED, K, World
from benchmarks.web.workers import Served

CONNECTIONS = 8
"""Two per worker: none waits for the client."""


@dataclass(frozen=True)
class Setting:
    """One kind of request.

    Attributes:
        name: As the tables say it.
        query: What is appended to the URL.
        exact: Name of the exact answers.
        target: Least ratio of the requests per second.
    """

    name: str
    query: str
    exact: str
    target: float | None = None


SETTINGS = (
    Setting("no filter", "", "100", 0.75),
    Setting("10 % filter", "&share=10", "10"),
    Setting("1 % filter", "&share=1", "1"),
    Setting(f"crowding ({cache.CROWD} per seller)", "&crowd=1", "crowded"),
)


@dataclass
class _Side:
    served: Served
    rates: list[float] = field(default_factory=list[float])
    taken: list[float] = field(default_factory=list[float])
    short: int = 0


@contextmanager
def settings(kept: World) -> Generator[int]:
    """Give every session the settings that the bare statement needs.

    In the database, because a pooler keeps no ``set`` of a session. Yields ef_search:
    what the version is served with.
    """
    with psycopg.connect(kept.dsn, autocommit=True) as conn:
        row = conn.execute(
            "select ef_search from recsys.model_version where model = %s",
            (world.MODEL,),
        ).fetchone()
        ef_search = max(row[0], 2 * K) if row else 2 * K
        name = conn.info.dbname
        conn.execute("select '[1]'::vector")
        conn.execute(f"alter database {name} set hnsw.iterative_scan = 'relaxed_order'")
        conn.execute(f"alter database {name} set hnsw.ef_search = {ef_search}")
        try:
            yield ef_search
        finally:
            conn.execute(f"alter database {name} reset all")


def measure(
    kept: World,
    bare: Served,
    ours: Served,
    setting: Setting,
    *,
    seconds: float,
    rounds: int = 4,
    connections: int = CONNECTIONS,
) -> list[Row]:
    """Return rate, latency, recall and short answers of both views."""
    sides = (_Side(bare), _Side(ours))
    recalls = [
        _recall(kept, served, setting, name)
        for served, name in ((bare, "exact"), (ours, "unseen"))
    ]
    users = _users(setting)
    for place in range(rounds):
        # Each goes first half of the time.
        for side in sides if place % 2 else sides[::-1]:
            done = load.run(
                side.served.socket,
                users,
                connections=connections,
                seconds=seconds,
                k=K,
            )
            side.rates.append(len(done.taken) / done.seconds)
            side.taken += done.taken
            side.short += done.short
    rows: list[Row] = []
    for side, name, recall in zip(
        sides, ("bare SQL", "recommend()"), recalls, strict=True
    ):
        p50, p99 = np.percentile(side.taken, (50, 99)) * 1e3
        rows += [
            Row(f"{name}: requests/s", statistics.median(side.rates), "/s"),
            Row(f"{name}: p50", float(p50), "ms"),
            Row(f"{name}: p99", float(p99), "ms"),
            Row(f"{name}: recall@{K}", recall, "", 0.95, least=True),
            Row(f"{name}: short", 100 * side.short / len(side.taken), "%"),
        ]
    ratios = [b / a for a, b in zip(sides[0].rates, sides[1].rates, strict=True)]
    note = "of " + ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    ratio = statistics.median(ratios)
    what = "requests/s: recommend() / bare SQL"
    return [*rows, Row(what, ratio, "x", setting.target, least=True, note=note)]


def _users(setting: Setting) -> Iterator[str]:
    order = np.random.default_rng(5).integers(0, world.USERS, 50_000)
    return itertools.cycle([f"/?user={user}{setting.query}" for user in order])


def _recall(kept: World, served: Served, setting: Setting, kind: str) -> float:
    targets = [f"/?user={user}{setting.query}" for user in range(ASKED)]
    given = [json.loads(body)["ids"] for body in load.bodies(served.socket, targets)]
    return cache.recall(given, kept.array(f"{kind}-{setting.exact}"))
