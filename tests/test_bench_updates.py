"""The benchmarks of the updates run: a short version of ``make bench-updates``."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent


def bench(dsn: str, out: Path, *arguments: str) -> dict[str, dict]:
    subprocess.run(
        [sys.executable, "-m", "benchmarks.updates", *arguments, "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "RECSYS_DSN": dsn},
        check=True,
        capture_output=True,
        timeout=300,
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return {row["what"]: row for row in rows}


def test_publishing_is_measured(server: str, tmp_path: Path) -> None:
    rows = bench(
        server, tmp_path / "rows.jsonl", "--part", "publish", "--items", "1000",
        "--interactions", "500", "--seconds", "1", "--rate", "20",
    )  # fmt: skip

    assert "500 interactions" in rows["end to end"]["note"]
    assert rows["p99 meanwhile / steady"]["value"] > 0


def write(folder: Path) -> None:
    """Even users rate even films, over two days before and after the start."""
    rng = np.random.default_rng(0)
    start = 1_380_585_600
    with gzip.open(folder / "items.csv.gz", "wt") as text:
        out = csv.writer(text)
        out.writerow(("item_id", "title", "year", "genres"))
        out.writerows((f"{n:07d}", "A", 1990 + n % 20, "Drama") for n in range(30))
    with gzip.open(folder / "ratings.csv.gz", "wt") as text:
        out = csv.writer(text)
        out.writerow(("user_id", "item_id", "rating", "timestamp"))
        for day in (-2, -1, 0, 1):
            for user in range(30):
                for item in rng.choice(range(user % 2, 30, 2), 3, replace=False):
                    at = start + 86_400 * day + int(rng.integers(86_400))
                    out.writerow((user, f"{item:07d}", 9, at))


def test_every_way_is_ranked_for_the_same_users(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "movietweetings"
    folder.mkdir()
    write(folder)

    rows = bench(
        server, tmp_path / "rows.jsonl", "--part", "daily", "--data", str(tmp_path),
        "--days", "2", "--parts-a-day", "1", "--epochs", "1",
    )  # fmt: skip

    plain = ("no update", "full", "incremental", "both")
    ways = (*plain, *(f"{way}, popularity of the hour" for way in plain))
    assert len({rows[f"{way}: NDCG@20"]["note"] for way in ways}) == 1
    assert all(rows[f"{way}: NDCG@20"]["value"] > 0 for way in ways)


def test_every_step_is_ranked_for_the_same_users(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "movietweetings"
    folder.mkdir()
    write(folder)

    rows = bench(
        server, tmp_path / "rows.jsonl", "--part", "steps", "--data", str(tmp_path),
        "--days", "2", "--parts-a-day", "1", "--epochs", "1",
    )  # fmt: skip

    still = rows["no update: NDCG@20"]
    assert rows["step 0.1, 5 passes: NDCG@20"]["note"] == still["note"]
    assert len({row["value"] for what, row in rows.items() if "NDCG" in what}) > 5
