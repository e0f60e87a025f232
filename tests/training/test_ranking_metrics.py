from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from recsys.training.metrics import ranking_metrics


def slow(recommended: np.ndarray, relevant: list[np.ndarray], k: int) -> list[float]:
    recalls, gains, hits = [], [], []
    for row, wanted in zip(recommended.tolist(), relevant, strict=True):
        want = set(wanted.tolist())
        if not want:
            continue
        found = [item in want and item >= 0 for item in row]
        recalls.append(sum(found[:k]) / len(want))
        gain = sum(1 / math.log2(r + 2) for r, hit in enumerate(found[:k]) if hit)
        best = sum(1 / math.log2(r + 2) for r in range(min(k, len(want))))
        gains.append(gain / best)
        hits.append(any(found[:10]))
    return [float(np.mean(x)) for x in (recalls, gains, hits)]


def test_a_hand_computed_example() -> None:
    recommended = np.array([[5, 3, 9], [1, 2, -1]])
    relevant = [np.array([3, 7]), np.array([8])]

    found = ranking_metrics(recommended, relevant, 3)

    ndcg = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert found == pytest.approx({"recall@3": 0.25, "ndcg@3": ndcg / 2, "hr@10": 0.5})


@pytest.mark.parametrize("k", [1, 5, 20, 40])
def test_random_rankings_agree_with_a_slow_implementation(k: int) -> None:
    rng = np.random.default_rng(k)
    recommended = np.stack([rng.permutation(60)[:20] for _ in range(50)])
    recommended[rng.random(recommended.shape) < 0.1] = -1
    relevant = [rng.choice(60, rng.integers(0, 25), replace=False) for _ in range(50)]

    found = ranking_metrics(recommended, relevant, k)

    assert list(found.values()) == pytest.approx(slow(recommended, relevant, k))


def test_nobody_to_evaluate_is_zero() -> None:
    assert ranking_metrics(np.zeros((0, 5), int), [], 5)["recall@5"] == 0.0
    assert ranking_metrics(np.zeros((1, 5), int), [np.array([], int)], 5)["hr@10"] == 0


def test_metrics_do_not_need_torch() -> None:
    code = "import sys, recsys.training.metrics; print('torch' in sys.modules)"

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert out.stdout.strip() == "False"
