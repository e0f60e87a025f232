"""What recommend() adds to a process, and what an answer from memory costs."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import world
from benchmarks.report import Row
from benchmarks.web.cache import World
from benchmarks.web.pooled import pooler
from recsys import Recommender

TIMEOUT_MS = 200
_FIRST_BARE = """
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    conn.execute(
        "select item_id from recsys.item_vector_bench_1 order by embedding <#>"
        " (select embedding from recsys.item_vector_bench_1 where item_id = 7) limit 20"
    ).fetchall()
"""
_FIRST_OURS = """
import sys
from recsys import Recommender
page = Recommender("bench", dsn=sys.argv[1]).recommend(7, k=20)
assert len(page) == 20 and page.degraded is None
"""


def first_answer(kept: World, runs: int) -> list[Row]:
    """Measure from the start of a process to the end of its first answer."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        command = [sys.executable, "-c", code, kept.dsn]
        # In the repository: benchmarks run without an installation.
        root = Path(__file__).parent.parent.parent
        subprocess.run(command, check=True, cwd=root)
        return time.perf_counter() - start

    taken = [(seconds("pass"), seconds(_FIRST_BARE), seconds(_FIRST_OURS))
             for _ in range(runs + 1)][1:]  # fmt: skip
    python, bare, ours = (
        statistics.median(side) * 1e3 for side in zip(*taken, strict=True)
    )
    note = f"whole processes, median of {runs}"
    return [
        Row("python -c pass", python, "ms", note=note),
        Row("bare SQL: start to first answer", bare, "ms"),
        Row("recommend(): start to first answer", ours, "ms"),
    ]


def fallback(kept: World, asked: int = 300) -> list[Row]:
    """Measure answers while the database is gone, and while it is frozen."""
    rows: list[Row] = []
    for what, number in (("gone", signal.SIGKILL), ("frozen", signal.SIGSTOP)):
        with pooler(kept.dsn, size=2) as pool:
            dsn = pool.dsn(kept.dsn)
            with Recommender(world.MODEL, dsn=dsn, timeout_ms=TIMEOUT_MS) as shop:
                whole = [_ask(shop, user, degraded=False) for user in range(asked)]
                if not rows:
                    p50 = float(np.median(whole)) * 1e3
                    rows.append(Row("database there: p50", p50, "ms"))
                os.kill(pool.process.pid, number)
                taken = [_ask(shop, user, degraded=True) for user in range(asked)]
                os.kill(pool.process.pid, signal.SIGCONT)
        slow = sum(one > 0.5 * TIMEOUT_MS / 1e3 for one in taken)
        # A tenth of a second to cancel the statement, and some to start.
        limit = TIMEOUT_MS + 150 if what == "frozen" else None
        note = f"timeout_ms {TIMEOUT_MS}" if what == "frozen" else ""
        rows += [
            Row(f"{what}: slowest answer", max(taken) * 1e3, "ms", limit, note=note),
            Row(f"{what}: requests that waited for it", slow, f"of {asked}"),
            Row(f"{what}: p50", float(np.median(taken)) * 1e3, "ms"),
        ]
    return rows


def _ask(shop: Recommender, user: int, *, degraded: bool) -> float:
    start = time.perf_counter()
    page = shop.recommend(user, k=20)
    taken = time.perf_counter() - start
    if len(page) != 20 or (page.degraded is not None) != degraded:
        raise RuntimeError(f"{len(page)} items, degraded: {page.degraded}")
    return taken
