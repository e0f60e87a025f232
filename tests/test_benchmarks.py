"""The benchmarks run: a short version of ``make bench``; nothing is judged here."""

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


def bench(*arguments: str, dsn: str) -> list[dict]:
    out = Path(arguments[-1])
    subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "RECSYS_DSN": dsn},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_process_and_serving_are_measured(server: str, tmp_path: Path) -> None:
    rows = bench(
        "--items", "3000", "--queries", "150", "--interactions", "20000",
        "--part", "process", "--part", "serving", "--part", "reading",
        "--out", str(tmp_path / "rows.jsonl"), dsn=server,
    )  # fmt: skip

    found = {row["what"]: row["value"] for row in rows}
    assert found["heavy modules it loads"] == 0
    assert found["recommend recall@20"] >= 0.95
    assert found["backfill / bare"] > 0
    assert found["recommend / bare p50"] > 0
    assert found["peak memory, two versions loaded"] < 250
    assert found["peak memory of the process"] < 4096


def test_the_logging_of_answers_is_measured(server: str, tmp_path: Path) -> None:
    rows = bench(
        "--items", "2000", "--queries", "150", "--part", "impressions",
        "--out", str(tmp_path / "rows.jsonl"), dsn=server,
    )  # fmt: skip

    found = {row["what"]: row["value"] for row in rows}
    assert found["background: dropped or failed"] == 0
    assert found["background / off p50"] > 0
    assert found["transaction / off p50"] > 0
    assert found["no server: rows kept in memory"] < 30_000


def test_training_is_measured(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "gowalla"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with gzip.open(folder / "train.csv.gz", "wt") as file:
        writer = csv.writer(file)
        writer.writerow(("user_id", "item_id"))
        writer.writerows((u, i) for u in range(300) for i in rng.choice(400, 12, False))

    rows = bench(
        "--data", str(tmp_path), "--epochs", "2", "--part", "training",
        "--out", str(tmp_path / "rows.jsonl"), dsn=server,
    )  # fmt: skip

    found = {row["what"]: row["value"] for row in rows}
    assert found["epoch"] > 0
    assert 0 < found["outside the loss and its gradient"] < 100


def test_false_alarms_are_measured_and_sequences_keep_their_promise(
    tmp_path: Path,
) -> None:
    rows = bench(
        "--experiments", "150", "--part", "aa",
        "--out", str(tmp_path / "rows.jsonl"), dsn="unused",
    )  # fmt: skip

    found = {row["what"]: row["value"] for row in rows}
    for metric in ("ctr", "conversion", "revenue", "ctr, CUPED"):
        assert found[f"{metric}: confidence sequence, looked at daily"] <= 5
        assert found[f"{metric}: fixed interval, looked at daily"] >= 12
        assert found[f"{metric}: fixed interval, looked at on the last day"] <= 12
