"""The measurements of ``make bench-web`` run: a short version; nothing is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tools

from benchmarks.web import cache, load, turns

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def measured() -> tuple[dict, str]:
    """Rows of all parts by table and name, and what was printed."""
    tools.program("pgbouncer")
    # Not tmp_path: the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="recsys-web-") as folder:
        out = Path(folder) / "rows.jsonl"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.web", "--items", "5000"),
                *("--seconds", "0.2", "--rounds", "2", "--engine", "numpy"),
                *("--out", str(out)),
            ],
            cwd=ROOT,
            env={**os.environ, "RECSYS_BENCH_CACHE": folder},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        lines = out.read_text().splitlines()
    found: dict = {}
    for row in map(json.loads, lines):
        name = row["table"].split(":")[0].split(",")[0]
        if name == "engines":
            found[row["engine"], row["filter"]] = row
        else:
            found[name, row["what"]] = row["value"]
    return found, done.stdout


@pytest.mark.parametrize("setting", [s.name for s in turns.SETTINGS])
def test_both_views_are_measured_at_recall(
    measured: tuple[dict, str], setting: str
) -> None:
    found, _ = measured

    for view in ("bare SQL", "recommend()"):
        assert found[setting, f"{view}: requests/s"] > 0
        assert found[setting, f"{view}: p99"] >= found[setting, f"{view}: p50"] > 0
        assert found[setting, f"{view}: short"] == 0
    assert found[setting, "recommend(): recall@20"] >= 0.95
    assert found[setting, "requests/s: recommend() / bare SQL"] > 0


def test_a_pooler_memory_and_the_first_answer_are_measured(
    measured: tuple[dict, str],
) -> None:
    found, _ = measured

    assert found["PgBouncer", "recommend(): recall@20"] >= 0.95
    assert 0 < found["Memory of a worker", "added"] < 100
    first = "From process start to first answer"
    assert found[first, "recommend(): start to first answer"] > 0


def test_answers_without_a_database_are_measured(measured: tuple[dict, str]) -> None:
    found, _ = measured

    for what in ("gone", "frozen"):
        p50 = found["Answers without a database", f"{what}: p50"]
        assert p50 < found["Answers without a database", "database there: p50"]
    assert found["Answers without a database", "frozen: slowest answer"] >= 190


def test_engines_are_compared_on_the_same_exact_answers(
    measured: tuple[dict, str],
) -> None:
    found, printed = measured

    for share in cache.SHARES:
        assert found["numpy", share]["recall"] == 1.0
        for engine in ("pgvector, bare SQL", "recommend()"):
            assert found[engine, share]["recall"] >= 0.95
            assert found[engine, share]["qps"] > 0
    assert "left out" not in printed


def test_recall_counts_what_was_found_of_the_exact_answer() -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, -1, -1]])

    assert cache.recall([[4, 3, 2, 1], [6, 5]], exact) == 1.0
    assert cache.recall([[1, 2, 9, 9], [5, 9]], exact) == 0.5
    assert cache.recall([[], []], exact) == 0.0


def test_the_client_counts_short_answers_and_refuses_errors(tmp_path: Path) -> None:
    served = tmp_path / "served.py"
    served.write_text(
        "def application(environ, start):\n"
        "    user = environ['QUERY_STRING']\n"
        "    status = '500 Broken' if user == '9' else '200 OK'\n"
        "    start(status, [('Content-Length', '2'), ('X-Items', user)])\n"
        "    return [b'{}']\n"
    )
    path = tmp_path / "socket"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "served", "--bind", f"unix:{path}"),
            *("--worker-class", "gthread", "--keep-alive", "10"),
            *("--log-level", "critical"),
        ],
        cwd=tmp_path,
    )
    try:
        for _ in range(200):
            try:
                load.bodies(path, ["/?3"])
                break
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.05)
        targets = iter(["/?3", "/?2"] * 5000)
        done = load.run(path, targets, connections=2, seconds=0.2, k=3)
        with pytest.raises(RuntimeError, match="500"):
            load.bodies(path, ["/?9"])
    finally:
        process.terminate()
        process.wait(10)

    assert len(done.taken) > 20
    assert abs(done.short - len(done.taken) / 2) <= 2


def test_the_rows_become_the_tables_of_the_page(tmp_path: Path) -> None:
    rows = [
        {"table": "no filter: 9 items", "what": f"{view}: {what}", "value": value,
         "unit": ""}
        for view in ("bare SQL", "recommend()")
        for what, value in (("requests/s", 1234.4), ("p50", 1.5), ("p99", 2.5),
                            ("recall@20", 0.951), ("short", 0))
    ]  # fmt: skip
    ratio = {"table": "no filter: 9 items", "unit": "x",
             "what": "requests/s: recommend() / bare SQL"}  # fmt: skip
    rows += [{**ratio, "value": 0.11}, {**ratio, "value": 0.81}]
    rows += [
        {"table": "engines", "engine": name, "filter": "none", "effort": 1,
         "recall": 1.0, "short": 0.0, "qps": qps, "p50": 1.0, "p99": 2.0}
        for name, qps in (("slow", 9.5), ("fast", 1000.0))
    ]  # fmt: skip
    path = tmp_path / "page.md"
    path.write_text(
        "<!-- bench requests -->\nold\n<!-- end -->\nprose\n"
        "<!-- bench engines -->\nold\n<!-- end -->\n"
        "<!-- bench costs -->\nkept\n<!-- end -->\n"
    )
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    subprocess.run(
        [sys.executable, "-m", "benchmarks.web.page", tmp_path / "rows.jsonl", path],
        cwd=ROOT,
        check=True,
    )

    text = path.read_text()
    last = "| | `recommend()` | 1,234 | 1.5 | 2.5 | 0.951 | 0.0 % | 0.81 x |"
    assert last in text.replace("|  |", "| |")
    assert text.index("| fast | 1,000") < text.index("| slow | 9.5")
    assert "kept" in text
    assert "old" not in text
