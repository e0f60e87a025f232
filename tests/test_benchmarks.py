"""The benchmarks run: a short version of ``make bench``; nothing is judged here."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import catalogue, compression, distil, memory
from benchmarks.live import check, shop
from recsys import Recommender, _db, rollout
from recsys.backfill import backfill
from recsys.progress import SILENT
from recsys.training.row_adam import RowAdam

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


def test_filters_and_rules_are_measured(server: str, tmp_path: Path) -> None:
    rows = bench(
        "--items", "2000", "--queries", "12", "--part", "rules",
        "--out", str(tmp_path / "rows.jsonl"), dsn=server,
    )  # fmt: skip

    assert {"plain", "filter, 10 %", "at most 2 per seller", "MMR"} <= {
        row["what"] for row in rows
    }
    assert all("; 0 pages short" in row["note"] for row in rows)


def test_ranking_again_is_measured_beside_ranking_once(
    server: str, tmp_path: Path
) -> None:
    rows = bench(
        "--items", "2000", "--queries", "30", "--part", "rerank",
        "--out", str(tmp_path / "rows.jsonl"), dsn=server,
    )  # fmt: skip

    found = {row["what"]: row["value"] for row in rows}
    assert found["recall@20"] > 0.9
    assert found["recall@20, ranked again"] > 0.9
    # The same lists twice would be no comparison.
    assert 0 < found["share of a page that is another"] < 0.5


def test_shorter_indexes_are_measured(dsn: str, tmp_path: Path) -> None:
    """One pair of towers and two of its indexes, without a fit."""
    plain = compression._synthetic(1_500)[1]
    variants = [{}, {"prefix": 32}]
    towers = dataclasses.replace(plain, variants=variants)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "_synthetic", lambda items: [towers])
        lines = compression.run(dsn, tmp_path, 1_500, 20, 1, SILENT)
    compression.show("short", lines, tmp_path / "rows.jsonl")

    whole, prefix = lines
    assert (whole.index, prefix.index) == ("halfvec", "prefix 32")
    assert whole.ann_recall is not None
    assert whole.ann_recall >= 0.95
    assert prefix.ann_recall is not None
    assert prefix.ann_recall >= 0.95
    assert prefix.index_bytes < whole.index_bytes
    assert prefix.p50_ms
    assert prefix.depth
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


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


def test_a_roll_under_load_is_measured(server: str, tmp_path: Path) -> None:
    rows = bench(
        "--live-items", "2000", "--seconds", "1", "--versions", "1",
        "--part", "roll", "--out", str(tmp_path / "rows.jsonl"), dsn=server,
    )  # fmt: skip

    found = {row["what"]: row["value"] for row in rows}
    assert found["answers"] > 500
    assert found["errors"] == 0
    assert found["answers that mix versions"] == 0
    assert found["pages of fewer than k items"] == 0
    assert found["items missing or left over in the last version"] == 0
    assert found["index build / steady p99"] > 0


def test_freshness_drain_and_switches_are_measured(server: str, tmp_path: Path) -> None:
    rows = bench(
        "--live-items", "2000", "--seconds", "2", "--switches", "2",
        "--part", "freshness", "--out", str(tmp_path / "rows.jsonl"), dsn=server,
    )  # fmt: skip

    found = {row["what"]: row["value"] for row in rows}
    for rate in (10, 100, 500):
        assert found[f"{rate} changes/s, never served"] == 0
        assert found[f"{rate} changes/s, commit to served p99"] > 0
    assert found["worker, per core"] > 0
    assert found["errors"] == 0
    for kind in ("promote", "rollback"):
        assert found[f"{kind}: requests begun after it, old version"] == 0


def test_the_cost_of_capture_is_measured(server: str, tmp_path: Path) -> None:
    rows = bench(
        "--live-items", "2000", "--part", "capture",
        "--out", str(tmp_path / "rows.jsonl"), dsn=server,
    )  # fmt: skip

    found = {row["what"]: row["value"] for row in rows}
    assert found["one row: update, watched / not"] > 1
    assert found["2,000 rows, partitioned: update, watched / not"] > 1


def test_an_answer_that_mixes_versions_is_noticed(dsn: str) -> None:
    data = shop.make(dsn, 500)
    with _db.connect(dsn) as conn:
        first, second = shop.register(conn, data), shop.register(conn, data)
    backfill(dsn, shop.MODEL, 1)
    with _db.connect(dsn) as conn:
        rollout.promote(conn, shop.MODEL, 1, reason="test", force=True)
    with Recommender(shop.MODEL, dsn=dsn) as asking:
        pages = [asking.recommend(user, k=20) for user in range(shop.USERS)]
    users = np.arange(shop.USERS)
    ids = np.array([page.ids for page in pages])
    scores = np.array([[item.score for item in page] for page in pages], np.float32)

    whole = check.mixed(data, first, users, ids, scores)
    of_another_version = check.mixed(data, second, users, ids, scores)
    of_another_query = check.mixed(data, first, np.roll(users, 1), ids, scores)
    one_item = scores.copy()
    one_item[:, 7] -= 0.5
    of_another_item = check.mixed(data, first, users, ids, one_item)

    assert not whole.any()
    assert of_another_version.all()
    assert of_another_query.all()
    assert of_another_item.all()


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


def test_a_huge_vocabulary_is_measured(tmp_path: Path) -> None:
    rows = bench(
        "--part", "vocabulary", "--distinct", "20000",
        "--out", str(tmp_path / "rows.jsonl"), dsn="",
    )  # fmt: skip

    assert rows[-1]["note"] == "0 rare ones"


def test_steps_on_a_catalogue_are_measured() -> None:
    rows = catalogue.run(steps=2, sizes=(30_000,))

    found = {row.what.removeprefix("30,000 items: "): row for row in rows}
    assert found["step, dense"].value > 0
    assert found["dense / sparse"].value > 0
    assert found["catching up, once an epoch"].value > 0
    assert found["peak of a sparse fit"].value > 0
    share = float(found["step, sparse"].note.split(" %")[0])
    assert 0 < share < 90


def test_ways_to_update_rows_are_compared() -> None:
    before = RowAdam._forward

    rows = catalogue.quality(epochs=1)

    assert [row.what.split("rows ")[1] for row in rows] == ["all", "caught up", "lazy"]
    assert all(0 <= row.value <= 1 for row in rows)
    assert RowAdam._forward is before


def test_the_memory_of_interactions_is_measured() -> None:
    rows = memory.run((20_000,))

    assert [row.what for row in rows] == [
        "20,000 interactions, in blocks",
        "20,000 interactions, at once",
    ]
    assert all(row.value > 0 for row in rows)
    assert memory.measured("train", 20_000) > 0


def test_blocks_and_files_take_less_memory() -> None:
    some = memory.measured("prepare", 300_000, block=50_000, in_memory=100_000)
    whole = memory.measured("prepare", 300_000, memory.NEVER, memory.NEVER)

    assert some < 0.8 * whole


def test_a_student_is_measured_beside_its_teacher(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "train.csv.gz"
    with gzip.open(file, "wt") as text:
        print("user_id,item_id", file=text)
        for user in range(80):
            for item in rng.choice(np.arange(user % 2, 120, 2), 10, replace=False):
                print(f"{user},{item}", file=text)

    lines = distil.run(file, large=16, small=8, epochs=1, weights=[1.0])

    teacher, plain, taught = lines
    assert teacher.overlap == 1
    assert 0 < plain.overlap < 1
    assert taught.ndcg != plain.ndcg
