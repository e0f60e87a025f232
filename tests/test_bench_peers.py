"""``make bench-peers`` runs, short, and its evaluator and its splits are as they say.

Our side always; of the others what is installed. CI builds no environments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import data, score, venvs
from benchmarks.peers.data import Pairs

ROOT = Path(__file__).parent.parent


def bench(*arguments: str, out: Path) -> tuple[subprocess.CompletedProcess, list[dict]]:
    command = [sys.executable, "-m", "benchmarks.peers", *arguments]
    done = subprocess.run(
        [*command, "--dim", "16", "--threads", "1", "--out", str(out)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=900,
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return done, rows


def test_what_is_installed_trains_and_is_scored(tmp_path: Path) -> None:
    done, rows = bench(
        "--shop", "400", "--seconds", "3", "--installed", out=tmp_path / "rows.jsonl"
    )

    assert done.returncode == 0, done.stderr[-3000:]
    found = {row["method"]: row for row in rows}
    assert {"most popular", "recsys"} <= set(found)
    floor = found["most popular"]["metrics"]["recall@20"]
    assert 0 < floor < found["recsys"]["metrics"]["recall@20"]
    ours = found["recsys"]["measured"]
    assert 0 < ours["fit_s"] < ours["wall_s"]
    assert ours["epochs"] == int(ours["epochs"]) >= 1
    for row in found.values():
        assert row["measured"]["peak_mb"] > 10
        assert row["method"] in done.stdout


def test_a_peer_that_breaks_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    broken = tmp_path / "implicit" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho 'ImportError: no such wheel' >&2; exit 3\n")
    broken.chmod(0o755)
    stamp = tmp_path / "implicit" / "requirements.txt"
    stamp.write_text("\n".join(venvs.PEERS["implicit"].requirements) + "\n")

    done, rows = bench(
        "--shop", "50", "--method", "implicit ALS", "--method", "most popular",
        "--venvs", str(tmp_path), out=tmp_path / "rows.jsonl",
    )  # fmt: skip

    assert done.returncode == 1
    assert "ended with 3: ImportError: no such wheel" in rows[0]["error"]
    assert rows[1]["metrics"]["recall@20"] > 0


def test_the_evaluator_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(30, 4)), rng.normal(size=(50, 4))
    chosen = np.array([(u, i) for u in range(30) for i in rng.permutation(50)[:9]])
    kept = np.array([n % 3 > 0 for n in range(len(chosen))])
    both = np.unique(chosen[kept], axis=0)
    train, test = Pairs(both[:, 0], both[:, 1], 30, 50), chosen[~kept]

    found = score.score(users.astype("f4"), items.astype("f4"), train, test, k=5)

    recall, ndcg = [], []
    occurs = set(both[:, 1].tolist())
    for user in range(30):
        seen = set(both[both[:, 0] == user, 1].tolist())
        ranked = sorted(occurs - seen, key=lambda i: -(users[user] @ items[i]))[:5]
        wanted = set(test[test[:, 0] == user, 1].tolist())
        hits = [item in wanted for item in ranked]
        gain = sum(hit / np.log2(rank + 2) for rank, hit in enumerate(hits))
        best = sum(1 / np.log2(rank + 2) for rank in range(min(5, len(wanted))))
        recall.append(sum(hits) / len(wanted))
        ndcg.append(gain / best)
    assert found["recall@5"] == pytest.approx(np.mean(recall))
    assert found["ndcg@5"] == pytest.approx(np.mean(ndcg))


def test_an_item_nobody_learned_of_is_missed_and_never_recommended() -> None:
    train = Pairs(np.array([0, 1]), np.array([0, 2]), users=2, items=3)
    users, items = np.ones((2, 1), "f4"), np.array([[1], [9], [2]], "f4")
    test = np.array([(0, 2), (0, 7), (1, 1)])

    found = score.score(users, items, train, test, k=1)

    assert found["recall@1"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["ndcg@1"] == pytest.approx((1 + 0) / 2)


@pytest.mark.parametrize("broken", [np.zeros((2, 1)), np.full((3, 1), np.nan)])
def test_broken_factors_get_no_score(broken: np.ndarray) -> None:
    train = Pairs(np.array([0, 1]), np.array([0, 2]), users=2, items=3)

    with pytest.raises(ValueError, match="factor"):
        score.score(np.ones((2, 1), "f4"), broken, train, np.array([(0, 2)]))


def test_the_validation_split_looks_at_train_alone(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    data.shop(whole, 40, 100)
    (whole / data.TEST).unlink()

    data.cut(whole, cut, share=0.25)

    kept, held = data.read(cut / data.TRAIN), data.read(cut / data.TEST)
    both = np.unique(np.concatenate([kept, held]), axis=0)
    assert both.tolist() == np.unique(data.read(whole / data.TRAIN), axis=0).tolist()
    assert np.bincount(held[:, 0]).tolist() == [3] * 40


def test_every_peer_of_a_method_has_pins_and_a_licence() -> None:
    for method in peers.METHODS.values():
        assert not method.peer or "==" in venvs.PEERS[method.peer].requirements[-1]
    licences = {peer.licence for peer in venvs.PEERS.values()}
    assert licences == {"MIT", "Apache-2.0"}
