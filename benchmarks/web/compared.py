"""The same candidates from Postgres and from other engines, at equal recall.

One query at a time on one connection or one thread: what an engine costs, not how it
scales. Left out: how vectors get into the other engines and stay up to date; that is
the larger part of the work with them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import world
from benchmarks.web import cache, views
from benchmarks.web.cache import ASKED, K, World
from recsys import Recommender, _db
from recsys._db import Halfvec
from recsys.progress import Progress

ENGINES = ("numpy", "faiss", "hnswlib", "lancedb", "chroma", "milvus-lite")
RECALL = 0.95
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Result:
    """One engine under one filter.

    Attributes:
        filter: "none", "10 %" or "1 %".
        effort: ef, or what the engine has in its place; 0 for an exact scan.
        short: Share of the answers with fewer than k items.
        p50: Milliseconds; so is p99.
    """

    engine: str
    filter: str
    effort: int
    recall: float
    short: float
    qps: float
    p50: float
    p99: float


def postgres(kept: World, ef_search: int, seconds: float) -> list[Result]:
    """Measure the bare statement and recommend(), one after the other."""
    vectors = [Halfvec(np.array(row)) for row in kept.array("queries")]
    results: list[Result] = []
    with (
        _db.connect(kept.dsn, autocommit=True) as conn,
        Recommender(world.MODEL, dsn=kept.dsn, fallback=False) as shop,
    ):
        conn.prepare_threshold = 5  # psycopg's own

        def bare(user: int, share: int) -> list[int]:
            statement = views.PLAIN if share == 100 else views.FILTERED
            values = {"query": vectors[user], "share": share}
            with conn.cursor(binary=True) as cur:
                return [row[0] for row in cur.execute(statement, values)]

        def ours(user: int, share: int) -> list[Any]:
            among = ("select id from bench_item where part < %s", [share])
            wanted = None if share == 100 else among
            return shop.recommend(user, k=K, among=wanted, exclude_seen=False).ids

        asks = {"pgvector, bare SQL": bare, "recommend()": ours}
        for engine, ask in asks.items():
            for name, share in cache.SHARES.items():
                found = _measure(kept, ask, share, seconds)
                results.append(Result(engine, name, ef_search, **found))
    return results


def _measure(
    kept: World, ask: Callable[[int, int], list[Any]], share: int, seconds: float
) -> dict[str, float]:
    answers = [ask(user, share) for user in range(ASKED)]
    taken: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        ask(len(taken) % world.USERS, share)
        taken.append(time.perf_counter() - start)
    p50, p99 = np.percentile(taken, (50, 99)) * 1e3
    return {
        "recall": cache.recall(answers, kept.array(f"exact-{share}")),
        "short": float(np.mean([len(answer) < K for answer in answers])),
        "qps": len(taken) / sum(taken),
        "p50": float(p50),
        "p99": float(p99),
    }


def build(kept: World, engine: str, progress: Progress) -> str | None:
    """Build an engine's index unless it is there; return why it cannot be."""
    if (kept.folder / "engines" / engine / "built").exists():
        return None
    command = _command(kept, engine, progress)
    with progress.stage(f"Building {engine}"):
        built = subprocess.run(command, capture_output=True, text=True)
    return _last_line(built.stderr) if built.returncode else None


def other(
    kept: World, engine: str, seconds: float, progress: Progress
) -> list[Result] | str:
    """Measure another engine in a process of its own, or say why it cannot be."""
    failed = build(kept, engine, progress)
    if failed is not None:
        return failed
    with progress.stage(f"Asking {engine}"):
        done = subprocess.run(
            [
                *_command(kept, engine, progress),
                *("--seconds", str(seconds), "--recall", str(RECALL)),
            ],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        return _last_line(done.stderr)
    names = {share: name for name, share in cache.SHARES.items()}
    rows = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    return [Result(engine, names[row.pop("filter")], **row) for row in rows]


def _command(kept: World, engine: str, progress: Progress) -> list[str]:
    # numpy is here already.
    python = sys.executable if engine == "numpy" else str(_python(progress))
    return [python, str(_HERE / "engines.py"), engine, str(kept.folder)]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it ended without a word"])[-1][:200]


def _python(progress: Progress) -> Path:
    """Return the interpreter that has the engines; make its environment once."""
    folder = cache.root() / "venv"
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = (_HERE / "engines.txt").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    with progress.stage("Installing the other engines"):
        venv.create(folder, with_pip=True)
        for package in wanted.split():
            # One that has no wheel here must not keep the others out.
            subprocess.run(
                [python, "-m", "pip", "install", "-q", package], capture_output=True
            )
    stamp.write_text(wanted)
    return python


def as_json(result: Result) -> str:
    """Return a result as one line."""
    return json.dumps({"table": "engines", **asdict(result)})
