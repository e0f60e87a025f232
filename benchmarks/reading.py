"""Memory and time of reading ten million interactions for training.

Left out: the fit itself; the server's own memory.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.report import Row
from recsys import _db

_READ = """
import json, sys, time
from benchmarks import world
from recsys import _db
from recsys.training.data import read
with _db.connect(sys.argv[1]) as conn:
    start = time.perf_counter()
    dataset = read(conn, world.config(64))
    seconds = time.perf_counter() - start
with open("/proc/self/status") as status:
    kb = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(json.dumps({"s": seconds, "mb": int(kb) / 1024, "n": len(dataset)}))
"""


def run(dsn: str, interactions: int) -> list[Row]:
    """Make the tables, then read them in a process of its own."""
    items, users = max(1, interactions // 100), max(1, interactions // 30)
    with _db.connect(dsn) as conn:
        conn.execute("create table bench_item (id bigint primary key)")
        conn.execute("insert into bench_item select generate_series(1, %s)", (items,))
        conn.execute(
            "create table bench_event as select (random() * %s)::bigint as user_id,"
            " 1 + (random() * %s)::bigint as item_id,"
            " timestamptz '2026-01-01' + random() * interval '300 days' as occurred_at"
            " from generate_series(1, %s)",
            (users, items - 1, interactions),
        )
    done = subprocess.run(
        [sys.executable, "-c", _READ, dsn], check=True, capture_output=True
    )
    found = json.loads(done.stdout)
    note = f"{users:,} users, {items:,} items"
    return [
        Row(f"reading {found['n']:,} interactions", found["s"], "s", note=note),
        Row("peak memory of the process", found["mb"], "MB", 4096),
    ]
