"""What filters and rules cost: recommend() with each, in turns with a plain one.

All take turns on one server, request by request, so that a ratio compares the same
minute. The filter columns are numbers without a meaning: they let by a share of the
items wherever those lie, and have no index unless the row says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from benchmarks import world
from benchmarks.report import Row
from recsys import Recommender, _db
from recsys.backfill import backfill
from recsys.rollout import promote
from recsys.rules import Fresh, Rules

K = 20
_SELLERS = "select id, seller from bench_item"
_MOST_TURNS = 300


def run(dsn: str, items: int, queries: int) -> list[Row]:
    """Measure requests with one wish each, and their recall against the exact scan."""
    learned = world.catalogue(items, 64, seed=1)
    with _db.connect(dsn) as conn:
        world.tables(conn, learned, seed=2)
        _columns(conn)
        number = world.register(conn, learned, 64)
    backfill(dsn, world.MODEL, number)
    with _db.connect(dsn) as conn:
        promote(conn, world.MODEL, number)
    with Recommender(world.MODEL, dsn=dsn) as shop:
        return _measured(shop, min(queries, _MOST_TURNS))


def _columns(conn: _db.Connection) -> None:
    conn.execute(
        "alter table bench_item add part integer, add indexed integer,"
        " add seller integer, add made_at timestamptz"
    )
    conn.execute(
        "update bench_item set part = id %% 10000, indexed = id %% 10000,"
        " seller = hashint8(id) %% 500,"
        " made_at = now() - make_interval(days => (id %% 900)::integer)".replace(
            "%%", "%"
        )
    )
    conn.execute("create index on bench_item (indexed)")
    conn.commit()
    conn.autocommit = True
    conn.execute("vacuum analyze bench_item")
    conn.autocommit = False


def _wishes() -> Mapping[str, dict[str, Any]]:
    shares = {"50 %": 5000, "10 %": 1000, "1 %": 100, "0.1 %": 10, "0.01 %": 1}

    def of(column: str, bound: int) -> tuple[str, list[int]]:
        return f"select id from bench_item where {column} < %s", [bound]

    fresh = Fresh("select id, made_at from bench_item", timedelta(days=30), 0.1)
    return {
        **{f"filter, {name}": {"among": of("part", n)} for name, n in shares.items()},
        **{
            f"filter, {name}, indexed": {"among": of("indexed", n)}
            for name, n in list(shares.items())[2:]
        },
        "min_score": {"min_score": 0.1},
        "boost, 10 items": {"boost": {1 + 17 * n: 0.1 for n in range(10)}},
        "boost, query": {"boost": "select id, 0.001 * seller from bench_item"},
        "at most 2 per seller": {"rules": Rules(at_most=2, per=_SELLERS)},
        "MMR": {"rules": Rules(mmr=0.7)},
        "fresh": {"rules": Rules(fresh=fresh)},
        "10 pinned, 10 buried": {
            "rules": Rules(pin=range(1, 11), bury=range(11, 21)),
        },
        "all rules, filter 10 %": {
            "among": of("part", 1000),
            "rules": Rules(at_most=2, per=_SELLERS, mmr=0.7, fresh=fresh, pin=[1]),
        },
    }


def _measured(shop: Recommender, turns: int) -> list[Row]:
    wishes: dict[str, dict[str, Any]] = {"plain": {}, **_wishes()}
    users = np.random.default_rng(3).integers(0, world.USERS, turns + 10)
    took: dict[str, list[float]] = {name: [] for name in wishes}
    recalls: dict[str, list[float]] = {name: [] for name in wishes}
    short = dict.fromkeys(wishes, 0)
    for place, user in enumerate(users):
        for name, wish in wishes.items():
            start = time.perf_counter()
            page = shop.recommend(int(user), k=K, **wish)
            took[name].append(time.perf_counter() - start)
            # What is short of k is short in the exact scan too, or it counts.
            if place % 10 == 0:
                best = shop.recommend(int(user), k=K, recall_target=1, **wish).ids
                found = len(set(page.ids) & set(best))
                recalls[name].append(found / len(best) if best else 1.0)
                short[name] += len(page) < len(best)
    base = float(np.median(took["plain"][10:])) * 1e3
    rows: list[Row] = []
    for name, seconds in took.items():
        ms = np.array(seconds[10:]) * 1e3
        note = (
            f"{np.median(ms) / base:.2f} x plain; p99 {np.percentile(ms, 99):.2f} ms;"
            f" recall {np.mean(recalls[name]):.3f}; {short[name]} pages short"
        )
        rows.append(Row(name, float(np.median(ms)), "ms p50", note=note))
    return rows
