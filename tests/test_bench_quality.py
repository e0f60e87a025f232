"""``make bench-quality`` runs, on a tiny data set, and its floor is what it says."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import baskets, eight_bits, floor, quality
from recsys import _preset
from recsys.config import from_mapping
from recsys.evaluate import Holdout
from recsys.training.dataset import Dataset

ROOT = Path(__file__).parent.parent
DEMO = """
model = "tiny"
holdout = "test.csv"
item = "select distinct item_id, 'item ' || item_id from tiny_interaction"
[import]
tiny_interaction = "train.csv"
"""
CONFIG = """
[model.tiny]
item_id = "bigint"
user_id = "bigint"
[model.tiny.items]
sql = "select distinct item_id from tiny_interaction"
[model.tiny.interactions]
sql = "select user_id, item_id from tiny_interaction"
[model.tiny.train]
epochs = 4
tau = 0.1
dropout = 0.5
"""


def tastes(users: int, items: int) -> list[tuple[int, int]]:
    """Users with six items each, all of the user's own quarter of the catalogue."""
    rng = np.random.default_rng(0)
    quarter = items // 4
    return [
        (user, user % 4 * quarter + int(item))
        for user in range(users)
        for item in rng.choice(quarter, 6, replace=False)
    ]


def write(path: Path, pairs: list[tuple[int, int]]) -> None:
    lines = [f"{user},{item}" for user, item in pairs]
    path.write_text("\n".join(["user_id,item_id", *lines]) + "\n")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    pairs = tastes(120, 80)
    write(folder / "train.csv", [p for n, p in enumerate(pairs) if n % 6])
    write(folder / "test.csv", pairs[::6])
    (folder / "demo.toml").write_text(DEMO)
    (folder / "recsys.toml").write_text(CONFIG)
    return folder


def test_a_data_set_goes_the_whole_way(server: str, tiny: Path) -> None:
    out = tiny / "rows.jsonl"
    command = [
        *(sys.executable, "-m", "benchmarks.quality", "--data", str(tiny.parent)),
        *("--data-set", "tiny", "--set", "dim = 8"),
        *("--set", "query.rerank = 0.5", "--out", str(out)),
    ]

    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "RECSYS_DSN": server},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    trained = [row for row in rows if row["method"] == "model"]
    assert len(trained) == 1
    assert trained[0]["peak_mb"] > 50
    assert 0 < trained[0]["train_s"] < trained[0]["command_s"]
    assert "dim 8" in trained[0]["note"]
    assert "rerank 0.5" in trained[0]["note"]
    floors = {row["method"]: row["metrics"]["recall@20"] for row in rows}
    assert 0 < floors["most_popular"] < floors["linear item filter"]
    assert "linear item filter" in done.stdout


@pytest.mark.parametrize("text", ["dim", "dim=", "=8", "dim=8 16", "a.b.c=8"])
def test_a_setting_has_a_name_and_a_value(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=VALUE"):
        quality.setting(text)


def test_baskets_are_lists_of_what_is_bought_often(tmp_path: Path) -> None:
    head = "invoice,stock_code,description,quantity,invoice_date,unit_price,customer_id"
    lines = [
        f"{invoice},{item},a thing,1,2011-01-01 10:00:00,2.5,"
        for invoice in range(1, 8)
        for item in (*"PQRTU", f"only{invoice}", "POST")
    ]
    lines += [f"C9,{item},back,-1,2011-01-01 10:00:00,2.5,9" for item in "PQRTU"]
    lines += [f"8,{item},few,1,2011-01-01 10:00:00,2.5,9" for item in "PQRT"]
    with gzip.open(tmp_path / "transactions.csv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join([head, *lines]) + "\n")

    baskets.main([str(tmp_path), str(tmp_path)])

    folder = tmp_path / "baskets"
    kept, held_out = (
        {tuple(row) for row in csv.reader((folder / name).read_text().split()[1:])}
        for name in ("train.csv", "test.csv")
    )
    every = {(str(invoice), item) for invoice in range(1, 8) for item in "PQRTU"}
    assert kept | held_out == every
    assert not kept & held_out
    assert sorted(invoice for invoice, _ in held_out) == [str(n) for n in range(1, 8)]
    assert _preset.find(folder).model == "baskets"


def test_towers_of_eight_bits_are_measured_beside_the_same_fit(
    server: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_DSN", server)
    named = CONFIG.replace(
        "[model.tiny.interactions]",
        '[model.tiny.items.features]\nname = { type = "text", buckets = 4096 }\n'
        "[model.tiny.interactions]",
    ).replace(
        "select distinct item_id from",
        "select distinct item_id, 'item ' || item_id as name from",
    )
    (tiny / "recsys.toml").write_text(named)

    whole, small = eight_bits.run(tiny, 20, {"epochs": 2, "dim": 16})

    assert (whole.towers, small.towers) == ("float32", "int8")
    assert small.item_bytes < whole.item_bytes / 3
    assert small.recall == pytest.approx(whole.recall, abs=0.1)
    assert min(whole.p50_ms, small.p50_ms) > 0


def test_several_seeds_get_a_mean() -> None:
    lines = [
        quality.Line("tiny", "model", {"recall@20": score}, seed=seed)
        for seed, score in enumerate((0.1, 0.3))
    ]

    means = list(quality.means(lines))

    assert [(m.method, m.seed) for m in means] == [("model", None)]
    assert means[0].metrics["recall@20"] == pytest.approx(0.2)


def test_the_filter_floor_is_its_formula() -> None:
    pairs = tastes(40, 32)
    config = from_mapping(
        {
            "model": {
                "tiny": {
                    "items": {"sql": "select 1"},
                    "interactions": {"sql": "select 1"},
                }
            }
        }
    ).model("tiny")
    kept = np.array([p for n, p in enumerate(pairs) if n % 6])
    dataset = Dataset.from_arrays(config, kept[:, 0], kept[:, 1])
    relevant = {user: {item} for user, item in pairs[::6]}

    found = floor.linear_filter(dataset, Holdout(relevant), history=256, k=5)

    matrix = np.zeros((40, 32))
    matrix[kept[:, 0], kept[:, 1]] = 1
    scaled = matrix / np.sqrt(np.outer(matrix.sum(1).clip(1), matrix.sum(0).clip(1)))
    scores = np.where(matrix > 0, -1, matrix @ scaled.T @ scaled)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = [relevant[user] <= set(best[user].tolist()) for user in range(40)]
    assert found["recall@5"] == pytest.approx(np.mean(hits), abs=0.051)
