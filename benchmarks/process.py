"""What a web process pays: import time, what it loads, memory with two versions."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.report import Row

_IMPORT = """
import json, sys, time
start = time.perf_counter()
import recsys
bare = time.perf_counter() - start
from recsys import Recommender
whole = time.perf_counter() - start
heavy = {"torch", "alembic", "click", "sqlalchemy", "onnx", "onnxruntime"}
heavy = sorted(heavy & set(sys.modules))
print(json.dumps({"bare": bare * 1e3, "whole": whole * 1e3, "heavy": heavy}))
"""
_MEMORY = """
import sys
from recsys import Recommender
shop = Recommender("bench", dsn=sys.argv[1])
for number in (1, 2):
    sys.stdin.readline()
    for user in range(200):
        page = shop.recommend(user, k=20)
    assert page.version == number, page.version
    # ru_maxrss would count the parent's memory at the fork.
    with open("/proc/self/status") as status:
        kb = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    print(int(kb) / 1024, flush=True)
"""


def imports(runs: int = 7) -> list[Row]:
    """Measure the imports with compiled modules."""
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        results = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-c", _IMPORT],
                    env=env,
                    check=True,
                    capture_output=True,
                ).stdout
            )
            for _ in range(runs + 1)
        ][1:]
    heavy = results[0]["heavy"]
    bare, whole = (
        statistics.median(r[name] for r in results) for name in ("bare", "whole")
    )
    return [
        Row("import recsys, median", bare, "ms", 150, note=f"{runs} processes"),
        Row(
            "from recsys import Recommender, median",
            whole,
            "ms",
            note="numpy and psycopg, which a web app on Postgres has loaded anyway",
        ),
        Row("heavy modules it loads", len(heavy), "", 0, note=", ".join(heavy)),
    ]


def memory(dsn: str, promote_second: callable) -> list[Row]:
    """Measure the peak memory of a process that served two versions."""
    child = subprocess.Popen(
        [sys.executable, "-c", _MEMORY, dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child.stdin.write("\n")
    child.stdin.flush()
    one = float(child.stdout.readline())
    promote_second()
    child.stdin.write("\n")
    child.stdin.flush()
    two = float(child.stdout.readline())
    child.wait()
    return [
        Row("peak memory, one version", one, "MB"),
        Row("peak memory, two versions loaded", two, "MB", 250),
    ]
