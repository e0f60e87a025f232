"""What it costs to add what rose today: ``python -m benchmarks.fresh``.

One catalogue of random vectors; the same searches with and without rows in
``recsys.item_trend``, in turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import world

from benchmarks import server
from recsys import _db, retrieval, schema, versions
from recsys._db import Connection, Halfvec
from recsys._request_sql import Statements, statements


def main() -> None:
    """Print p50 and p99 of both searches, in milliseconds, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rising", type=int, default=2_000)
    parser.add_argument("--requests", type=int, default=1_000)
    options = parser.parse_args()
    with (
        server.server() as dsn,
        server.database(dsn, "recsys_fresh") as fresh,
    ):
        schema.upgrade(fresh)
        model = world.shop_config(train={"dim": 64})
        world.fill_shop(fresh, items=options.items, users=10)
        world.add_version(fresh, model, promote=True)
        with _db.connect(fresh) as conn:
            conn.execute(
                "insert into recsys.item_trend (model, number, item_id, delta)"
                " select 'shop', 1, g::text, random() * 0.3"
                " from generate_series(1, %s) as g",
                (options.rising,),
            )
            conn.execute("analyze recsys.item_trend")
            sql = statements("shop_1", model, 1)
            ef_search = versions.get(conn, "shop", 1).ef_search or 100
            seconds = ask(conn, sql, ef_search, options.requests)
    for q in (50, 99):
        plain, risen = (1e3 * np.percentile(some, q) for some in seconds)
        print(f"p{q}: {plain:.2f} ms, with what rose {risen:.2f} ms,", end=" ")
        print(f"{risen / plain:.2f} x, +{risen - plain:.2f} ms")


def ask(
    conn: Connection, sql: Statements, ef_search: int, requests: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of searches without and with what rose."""
    rng = np.random.default_rng(0)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(requests + 20):
        unit = rng.normal(size=64)
        query = np.append(unit / np.linalg.norm(unit), 1).astype(np.float32)
        for place, weight in enumerate((0.0, 1.0)):
            started = time.perf_counter()
            retrieval.search(conn, sql, Halfvec(query), 20, [], ef_search, weight)
            if number >= 20:
                seconds[place].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
