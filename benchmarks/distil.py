"""Distillation: a small model with and without a large teacher, epoch for epoch.

Teacher and students are fitted to the training part of a validation split, and rank the
whole catalogue for its users; the popularity dimension of each is the best of the grid.
Left out: the search for settings, which does without the teacher, export and serving.
Run it under the allocator settings of 'make bench'.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import resource
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.training import CONFIG
from recsys.config import from_mapping


@dataclass(frozen=True)
class Line:
    """One fit.

    Attributes:
        fit: What was fitted.
        recall: Recall@20 on the validation slice.
        ndcg: NDCG@20 likewise.
        overlap: Share of the teacher's lists of 20 that its lists have.
        epoch_s: CPU seconds of an epoch.
    """

    fit: str
    recall: float
    ndcg: float
    overlap: float
    epoch_s: float


def run(
    file: Path,
    *,
    large: int,
    small: int,
    epochs: int,
    weights: Sequence[float],
    until: datetime | None = None,
) -> list[Line]:
    """Measure a teacher, a student without it, and one for each weight of it.

    Args:
        file: CSV, gzipped, with user_id, item_id and, where known, timestamp.
        large: Dimensions of the teacher.
        small: Dimensions of the students.
        epochs: Of every fit.
        weights: One student for each.
        until: Leave out what came later, such as a test part.
    """
    from recsys.training.teacher import Teacher

    lab = _Lab(file, epochs, until)
    towers, line, lists = lab.fit(large, f"teacher, d = {large}", None, 0.0, None)
    vectors = lab.vectors(towers)
    every = vectors.served.new_ones(len(vectors.served)).bool()
    teacher = Teacher(lab.tau, vectors.history, vectors.served, every)
    lines = [line, lab.fit(small, f"d = {small}", None, 0.0, lists)[1]]
    for weight in weights:
        name = f"d = {small}, distilled, weight {weight:g}"
        lines.append(lab.fit(small, name, teacher, weight, lists)[1])
    return lines


class _Lab:
    """One data set, cut once."""

    def __init__(self, file: Path, epochs: int, until: datetime | None) -> None:
        from recsys.training.evaluation import Judge
        from recsys.training.rows import query_rows
        from recsys.training.split import split

        self.model = from_mapping(CONFIG).model("gowalla")
        self.tau = self.model.train.tau
        self.epochs = epochs
        self.dataset = _dataset(file, self.model, until)
        cut = split(self.dataset, self.model.train.validation, 0)
        history = self.model.train.history
        self.rows = query_rows(self.dataset, cut.train, cut.end, history)
        self.judge = Judge(self.dataset, self.rows, cut, 0)

    def vectors(self, towers: Any) -> Any:
        from recsys.training.evaluation import item_vectors

        return item_vectors(towers, self.rows)

    def fit(
        self, dim: int, name: str, teacher: Any, weight: float, lists: Any
    ) -> tuple[Any, Line, Any]:
        """Return the towers, what they reach, and their lists."""
        from recsys.training import loop, svd
        from recsys.training.choice.tried import biases_of
        from recsys.training.metrics import score_of
        from recsys.training.settings import settings_of

        train = replace(self.model.train, dim=dim, companions=0.0, recent_beta=0.0)
        settings = settings_of(
            replace(self.model, train=train), self.tau, train.dropout
        )
        settings = replace(settings, distil=weight)
        start = svd.first_rows(self.rows, dim, 0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        towers = loop.fit(
            self.dataset, self.rows, settings, self.epochs, 0, start, teacher=teacher
        )
        used = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        biases = biases_of(settings, self.rows)
        found = self.judge.score(towers, biases)
        best = max(range(len(found)), key=lambda place: score_of(found[place]))
        mine = self.judge.rank(towers, biases[best : best + 1])[0]
        theirs = mine if lists is None else lists
        same = (mine[:, :, None] == theirs[:, None, :]).any(2).mean()
        metrics = found[best]
        line = Line(
            name, metrics["recall@20"], metrics["ndcg@20"], float(same),
            used / self.epochs,
        )  # fmt: skip
        return towers, line, mine


def _dataset(file: Path, model: Any, until: datetime | None) -> Any:
    """Read user_id, item_id and, where there is one, timestamp."""
    from recsys.training.dataset import Dataset

    with gzip.open(file, "rt") as text:
        rows = list(csv.DictReader(text))
    if until is not None:
        end = until.replace(tzinfo=until.tzinfo or UTC).timestamp()
        rows = [row for row in rows if float(row["timestamp"]) < end]
    users = np.array([int(row["user_id"]) for row in rows])
    items = np.array([int(row["item_id"]) for row in rows])
    if "timestamp" not in rows[0]:
        return Dataset.from_arrays(model, users, items)
    times = np.array([float(row["timestamp"]) for row in rows])
    return Dataset.from_arrays(model, users, items, times=times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--file", type=Path, default=Path("../shared/data/gowalla/train.csv.gz")
    )
    parser.add_argument("--until", type=datetime.fromisoformat)
    parser.add_argument("--teacher-dim", type=int, default=128)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--weight", type=float, action="append")
    options = parser.parse_args()
    lines = run(
        options.file,
        large=options.teacher_dim,
        small=options.dim,
        epochs=options.epochs,
        weights=options.weight or [1.0],
        until=options.until,
    )
    title = f"{options.file}, {options.epochs} epochs"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("fit", "recall@20", "ndcg@20", "overlap", "CPU s per epoch"):
        table.add_column(name)
    for line in lines:
        table.add_row(
            line.fit, f"{line.recall:.4f}", f"{line.ndcg:.4f}", f"{line.overlap:.3f}",
            f"{line.epoch_s:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
