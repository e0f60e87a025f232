"""The benchmark of popularity by day runs; nothing is judged here."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from benchmarks import days
from benchmarks.encoders import CUT_S


def test_every_mix_is_ranked_as_of_every_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even users rate even films, over the 150 days before the cut."""
    rng = np.random.default_rng(0)
    with gzip.open(tmp_path / "ratings.csv.gz", "wt") as text:
        out = csv.writer(text)
        out.writerow(("user_id", "item_id", "rating", "timestamp"))
        for user in range(60):
            for item in rng.choice(range(user % 2, 80, 2), 20, replace=False):
                at = CUT_S - 1 - int(rng.integers(150 * 86_400))
                out.writerow((user, f"{item:07d}", 9, at))

    days.show(tmp_path, [10.0])

    title, *mixes, weights = capsys.readouterr().out.splitlines()
    assert title.startswith("horizon 10 days, 6 days")
    names = [line[2:23].strip() for line in mixes]
    assert names == [*days.MIXES, "chosen"]
    for line in mixes:
        mean, *by_day = [float(part) for part in line[23:].split() if part != ":"]
        assert len(by_day) == 6
        assert 0 < mean == pytest.approx(np.mean(by_day), abs=1e-4)
    assert weights.startswith("  chosen, in tau:")
