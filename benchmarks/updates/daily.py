"""Day by day on MovieTweetings: no update, full, incremental, both.

The product's own training, backfill and updates run against a database into which the
interactions come as they came then. Each part of a day is ranked, by every way, for the
users who chose something in it, before anything learns from it: the rows as they are,
the histories up to that part. So is the popularity that the task 'trend' adds within
the day: every way is ranked with what rose until that part, and without.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.report import Row
from recsys import _db, fresh, versions
from recsys.backfill import backfill
from recsys.config import ProjectConfig, load
from recsys.pipeline import train_version
from recsys.progress import SILENT
from recsys.rollout import promote
from recsys.updates import run as updates
from recsys.updates.settings import UpdateConfig
from recsys.versions import VersionPlan

MODEL = "movietweetings"
EXAMPLE = Path(__file__).parents[2] / "examples" / MODEL
NONE, FULL, INCREMENTAL, BOTH = "no update", "full", "incremental", "both"
RESCORED = ", popularity of the hour"

Rating = tuple[int, str, int, int]


@dataclass
class _Sum:
    """Metrics of one way, weighted by users."""

    users: int = 0
    total: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, metrics: dict[str, Any]) -> None:
        """Add the means of a part of a day."""
        users = metrics["users"]
        self.users += users
        for name in ("recall", "ndcg", "hit_rate"):
            self.total[name] += users * metrics.get(name, 0.0)

    def mean(self, name: str) -> float:
        """Return the mean of a metric over all users."""
        return self.total[name] / max(self.users, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to go through.

    Attributes:
        start: First day; the first training has what came before.
        days: How many.
        parts: Incremental updates a day.
        epochs: Passes of the first training.
        update: How rows follow.
    """

    start: datetime
    days: int
    parts: int
    epochs: int
    update: UpdateConfig


def run(dsn: str, data: Path, plan: Plan) -> list[Row]:
    """Measure some days.

    Args:
        dsn: An empty database at head.
        data: Folder with ratings.csv.gz and items.csv.gz.
        plan: Which days, and how.
    """
    if not (data / "ratings.csv.gz").exists():
        return [Row("skipped", 0, "", note=f"no ratings.csv.gz in {data.name}")]
    ratings = _load(dsn, data, plan.start)
    project = _project(plan.epochs)
    first = _first(dsn, project)
    numbers = {
        NONE: first,
        FULL: first,
        INCREMENTAL: _copy(dsn, first),
        BOTH: _copy(dsn, first),
    }
    sums: dict[str, _Sum] = defaultdict(_Sum)
    states: Counter[str] = Counter()
    for day in range(plan.days):
        begin = plan.start + timedelta(days=day)
        if day:
            numbers[FULL] = _full(dsn, project, numbers[FULL])
            numbers[BOTH] = _copy(dsn, numbers[FULL])
        for part in range(plan.parts):
            since = begin + timedelta(days=part / plan.parts)
            until = begin + timedelta(days=(part + 1) / plan.parts)
            rises = {n: _rises(dsn, n, since) for n in {*numbers.values()}}
            _insert(dsn, [r for r in ratings if since.timestamp() <= r[3]
                          < until.timestamp()])  # fmt: skip
            for way, number in numbers.items():
                for name, rise in ((way, {}), (way + RESCORED, rises[number])):
                    sums[name].add(_rank(dsn, number, since, plan.update, rise))
                if way in (INCREMENTAL, BOTH):
                    states[f"{way}: {_learn(dsn, number, until, plan.update)}"] += 1
    counts = [Row(f"updates, {state}", n, "") for state, n in states.items()]
    return rows_of(sums) + counts


def rows_of(sums: dict[str, _Sum]) -> list[Row]:
    """Return three metrics of each way."""
    return [
        Row(f"{way}: {label}", total.mean(name), "", note=f"{total.users} users")
        for way, total in sums.items()
        for name, label in (("recall", "Recall@20"), ("ndcg", "NDCG@20"),
                            ("hit_rate", "HR@10"))
    ]  # fmt: skip


def _rises(dsn: str, number: int, moment: datetime) -> dict[str, float]:
    """Return what the popularity of items rose by until a moment, by id."""
    with _db.connect(dsn) as conn:
        version = versions.get(conn, MODEL, number)
        if "trend" not in version.spec:
            return {}
        found = fresh.risen(conn, version, moment.timestamp())
    return {str(item): delta for item, delta in found.items()}


def _rank(
    dsn: str, number: int, since: datetime, update: UpdateConfig,
    rises: dict[str, float],
) -> dict[str, Any]:  # fmt: skip
    with _db.connect(dsn, autocommit=True) as conn:
        version = versions.get(conn, MODEL, number)
        return updates.examine(conn, version, since, update, rises)


def _learn(dsn: str, number: int, until: datetime, update: UpdateConfig) -> str:
    """Update a version as the workers do, after the task 'trend'; returns the state."""
    rises = _rises(dsn, number, until)
    with _db.connect(dsn, autocommit=True) as conn:
        version = versions.get(conn, MODEL, number)
        fresh.write(conn, version, {**rises})
        return updates.update_version(conn, version, update).state


def _load(dsn: str, data: Path, start: datetime) -> list[Rating]:
    """Make the tables with what came before; return what came after."""
    setup = (EXAMPLE / "setup.sql").read_text()
    with _db.connect(dsn) as conn:
        conn.execute(
            "create table movie (item_id text, title text, year int, genres text);"
            "create table movie_rating (user_id bigint, item_id text, rating int,"
            " timestamp bigint)"
        )
        with (
            gzip.open(data / "items.csv.gz", "rt") as text,
            conn.cursor().copy("copy movie from stdin (format csv, header)") as copy,
        ):
            copy.write(text.read())
        conn.execute(setup.encode())
    with gzip.open(data / "ratings.csv.gz", "rt") as text:
        reader = csv.reader(text)
        next(reader)
        rows = [(int(u), i, int(r), int(t)) for u, i, r, t in reader]
    _insert(dsn, [row for row in rows if row[3] < start.timestamp()])
    return [row for row in rows if row[3] >= start.timestamp()]


def _insert(dsn: str, rows: list[Rating]) -> None:
    with psycopg.connect(dsn) as conn:
        with conn.cursor().copy("copy movie_rating from stdin") as copy:
            for row in rows:
                copy.write_row(row)
        conn.execute("analyze movie_rating")


def _project(epochs: int) -> ProjectConfig:
    project = load(EXAMPLE / "recsys.toml")
    model = project.model(MODEL)
    train = replace(
        model.train, epochs=epochs, tau=0.15, dropout=0.5, recent_beta=0.0,
        companions=0.0,
    )  # fmt: skip
    # What updates can follow, and no search for another one.
    query = replace(model.query, encoder="mean")
    model = replace(model, train=train, query=query)
    return replace(project, models={MODEL: model})


def _first(dsn: str, project: ProjectConfig) -> int:
    number = train_version(dsn, project, MODEL, revision=False).plan.number
    backfill(dsn, MODEL, number, progress=SILENT)
    with _db.connect(dsn) as conn:
        promote(conn, MODEL, number, reason="benchmark", force=True)
    return number


def _full(dsn: str, project: ProjectConfig, parent: int) -> int:
    made = train_version(dsn, project, MODEL, revision=False, full=True, parent=parent)
    backfill(dsn, MODEL, made.plan.number, progress=SILENT)
    return made.plan.number


def _copy(dsn: str, number: int) -> int:
    """Make the same version once more, so that one stands still."""
    with _db.connect(dsn) as conn:
        old = versions.get(conn, MODEL, number)
        new = versions.next_number(conn, old.config)
        versions.create(
            conn, VersionPlan(MODEL, new, old.spec, old.artifacts, old.metrics)
        )
    backfill(dsn, MODEL, new, progress=SILENT)
    return new
