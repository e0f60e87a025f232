"""Which step of an incremental update suits real data: many, on the same days.

One training, then part after part of some days. Each way has rows of its own that go
on from part to part, as if its updates had been published, without guard or trial.
Every part is ranked before a way learns from it, with the popularity of the hour.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.report import Row
from benchmarks.updates import daily
from recsys import _db, versions
from recsys.types import ItemId
from recsys.updates import guarded
from recsys.updates import run as updates
from recsys.updates.encoding import read_problem
from recsys.updates.learner import Catalogue, Pace
from recsys.updates.objective import Float32, unit
from recsys.updates.problem import Problem
from recsys.updates.reading import News, read_news
from recsys.worker.apply import LoadedItems


@dataclass(frozen=True, slots=True)
class _Part:
    """Part of a day, as the version without updates sees it."""

    news: News
    problem: Problem


@dataclass
class _Way:
    """Rows that moved by one step: ID rows, vector, history row as queries take it."""

    lr: float
    passes: int
    rows: dict[ItemId, tuple[Float32, Float32, Float32, Float32]] = field(
        default_factory=dict
    )

    def enter(self, problem: Problem) -> Problem:
        """Put the rows as they are now into a problem."""
        moving, catalogue = problem.moving, problem.catalogue
        served, history = moving.served.copy(), moving.history.copy()
        vectors, past = catalogue.vectors.copy(), problem.past.copy()
        for n, item in enumerate(problem.ids):
            if item in self.rows:
                served[n], history[n] = self.rows[item][:2]
        for place, item in enumerate(problem.items):
            if item in self.rows:
                vectors[place] = self.rows[item][2]
                past[problem.events.row[place]] = self.rows[item][3]
        return replace(
            problem,
            moving=replace(moving, served=served, history=history),
            catalogue=Catalogue(vectors, catalogue.bias),
            past=past,
        )

    def learn(self, problem: Problem, news: News, tau: float) -> None:
        """Go on with a part."""
        every = np.ones(len(news), np.bool_)
        pace = Pace(tau, self.lr, self.passes)
        moving = guarded.learned(problem, news, every, problem.moving, pace)
        vectors = unit(moving.served + moving.served_rest)[0]
        past = moving.history + moving.history_rest
        self.rows |= {
            item: (moving.served[n], moving.history[n], vectors[n], past[n])
            for n, item in enumerate(problem.ids)
        }


def run(
    dsn: str, data: Path, plan: daily.Plan, steps: list[tuple[float, int]]
) -> list[Row]:
    """Compare some steps.

    Args:
        dsn: An empty database at head.
        data: Folder with ratings.csv.gz and items.csv.gz.
        plan: Which days; its step is not used.
        steps: Step and passes of each way.
    """
    if not (data / "ratings.csv.gz").exists():
        return [Row("skipped", 0, "", note=f"no ratings.csv.gz in {data.name}")]
    ratings = daily._load(dsn, data, plan.start)
    number = daily._first(dsn, daily._project(plan.epochs))
    ways = {"no update": _Way(0, 0)}
    ways |= {f"step {lr:g}, {n} passes": _Way(lr, n) for lr, n in steps}
    sums: dict[str, daily._Sum] = defaultdict(daily._Sum)
    for n in range(plan.days * plan.parts):
        begin = plan.start + timedelta(days=n / plan.parts)
        end = plan.start + timedelta(days=(n + 1) / plan.parts)
        rises = daily._rises(dsn, number, begin)
        daily._insert(dsn, [r for r in ratings if begin.timestamp() <= r[3]
                            < end.timestamp()])  # fmt: skip
        part, tau = _read(dsn, number, begin, end)
        for name, way in ways.items():
            problem = way.enter(part.problem)
            sums[name].add(_rank(problem, part.news, begin, rises))
            if way.passes:
                way.learn(problem, part.news, tau)
    return daily.rows_of(sums)


def _read(dsn: str, number: int, begin: datetime, end: datetime) -> tuple[_Part, float]:
    """Read a part of a day as the version has it that no update moves."""
    rises = daily._rises(dsn, number, end)
    with _db.connect(dsn) as conn:
        version = versions.get(conn, daily.MODEL, number)
        news = read_news(conn, version, begin, 1_000_000)
        loaded = LoadedItems(conn, version)
        problem = read_problem(conn, version, loaded, news, rises)
        return _Part(news, problem), updates._temperature(conn, version)


def _rank(
    problem: Problem, news: News, begin: datetime, rises: dict[str, float]
) -> dict[str, float | int]:
    """Rank for the users of a part, with what had risen before it."""
    bias = guarded.masked(problem).bias.copy()
    bias += np.array([rises.get(str(item), 0.0) for item in problem.items], np.float32)
    catalogue = Catalogue(problem.catalogue.vectors, bias)
    every = np.ones(len(news), np.bool_)
    found = guarded.examine(problem, news, every, begin.timestamp(), catalogue)
    return found.means()
