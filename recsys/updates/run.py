"""Incremental updates of the versions that serve: read, examine, learn, publish."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _db, artifacts, schema, versions
from recsys._db import Connection
from recsys._guard import exclusive
from recsys._untimed import no_news
from recsys.errors import TrainingError, UnknownModel
from recsys.progress import SILENT, Progress
from recsys.updates import log, publish
from recsys.updates.encoding import read_problem
from recsys.updates.examples import examples
from recsys.updates.id_rows import NewRows
from recsys.updates.learner import Catalogue, Moving, Pace, learn
from recsys.updates.log import Position, Record
from recsys.updates.objective import unit
from recsys.updates.problem import Problem, columns_of_users
from recsys.updates.products import one_thread
from recsys.updates.reading import News, read_news
from recsys.updates.settings import UpdateConfig
from recsys.updates.validation import Examiner, Quality, paired_difference
from recsys.versions import ModelVersion
from recsys.worker.apply import LoadedItems

logger = logging.getLogger(__name__)

_DEFAULT_TAU = 0.15
_OLDER = 0.8
"""Share of the news that rows learn from before the rest judges them."""
_STEPS = (1.0, 0.3)
"""Shares of the step that the older part is learned with; the newest part chooses."""
_FEWEST = 10
"""Users without whom the newest part judges nothing."""


@dataclass(frozen=True, slots=True)
class Updated:
    """What an incremental update of one version did.

    Attributes:
        number: The version.
        state: "published", "refused" or "nothing new".
        read: Interactions that were new.
        trained: Of them, those that were learned from.
        left_out: The others, by reason.
        changed: ID rows that were written.
        metrics: Quality of the rows before, on what they had not learned from.
        reason: Why it was refused.
        seconds: Wall time.
        since: Where nothing is new: from when on the update looked.
    """

    number: int
    state: str
    read: int = 0
    trained: int = 0
    left_out: dict[str, int] | None = None
    changed: int = 0
    metrics: dict[str, Any] | None = None
    reason: str | None = None
    seconds: float = 0.0
    since: datetime | None = None


def update(
    dsn: str,
    model: str,
    config: UpdateConfig | None = None,
    *,
    max_load: float = 1.0,
    progress: Progress = SILENT,
) -> list[Updated]:
    """Update the learned rows of every version of a model that serves.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        model: Name of the model.
        config: Instead of what the version was trained with.
        max_load: Share of the time to work while vectors are written, above 0 to 1.
        progress: Receives the steps.

    Returns:
        One entry per version.

    Raises:
        UnknownModel: No model of that name is registered.
        TrainingError: Nothing serves, another update runs, or a version has no time
            to begin from.
        SourceError: A source fails, or has no ``occurred_at``.
        VersionStateError: The version went out of service meanwhile.
    """
    with (
        exclusive(dsn, key(model), refusal(model)),
        _db.connect(dsn, autocommit=True) as conn,
    ):
        schema.check(conn)
        return [
            update_version(
                conn,
                version,
                config or version.config.update,
                max_load=max_load,
                progress=progress,
            )
            for version in serving(conn, model)
        ]


def key(model: str) -> str:
    """Return what is locked while versions of a model are updated."""
    return f"recsys.update.{model}"


def refusal(model: str) -> TrainingError:
    """Return what is said where another update runs."""
    return TrainingError(
        f"another update of model {model!r} runs", hint="Wait for it to end."
    )


def serving(conn: Connection, model: str) -> list[ModelVersion]:
    """Return the versions that serve, the base first.

    Raises:
        UnknownModel: No model of that name is registered.
        TrainingError: Nothing serves.
    """
    known = conn.execute("select from recsys.model where name = %s", (model,))
    if known.fetchone() is None:
        raise UnknownModel(f"no model named {model!r} is registered")
    rows = conn.execute(
        "select number from recsys.rollout where model = %s order by candidate",
        (model,),
    ).fetchall()
    if not rows:
        raise TrainingError(
            f"no version of model {model!r} serves, so there are no rows to update",
            hint=f"Promote one: recsys promote {model} NUMBER.",
        )
    return [versions.get(conn, model, number) for (number,) in rows]


def update_version(
    conn: Connection,
    version: ModelVersion,
    config: UpdateConfig,
    *,
    max_load: float = 1.0,
    progress: Progress = SILENT,
) -> Updated:
    """Update the learned rows of one version.

    Products of numpy take one thread meanwhile, in the whole process.

    Args:
        conn: An autocommit connection, READ COMMITTED.
        version: A version that serves.
        config: How.
        max_load: Share of the time to work while vectors are written.
        progress: Receives the steps.

    Raises:
        TrainingError: The version has no time to begin from, or its queries are no
            means of its rows.
    """
    _check_mean(version)
    began_at = datetime.now(UTC)
    with (
        # A second thread of its products takes cores from requests, and saves little.
        one_thread(),
        progress.stage(f"update version {version.number}", total=4) as stage,
    ):
        began, since, news, problem = _read(conn, version, config)
        if problem is None:
            return Updated(version.number, "nothing new", since=since)
        stage.advance(1, f"{len(news):,} interactions")
        metrics, rows, reason = _learn(conn, problem, news, config)
        stage.advance(2, "examined and learned")
        record = Record(
            state="refused" if reason else "published",
            began_at=began_at,
            since=since,
            until=datetime.fromtimestamp(float(news.time.max()), UTC),
            read=len(news) + sum(news.left_out.values()),
            trained=len(news) - _unusable(problem),
            left_out=problem.left_out,
            metrics=metrics,
            reason=reason,
        )
        changed = 0
        if reason:
            publish.record_refusal(conn, version, record, config.undo)
        else:
            changed = publish.publish(
                conn, version, began, rows, record,
                hashes=news.hashes, times=news.time, overlap_s=config.overlap_s,
                keep=config.undo, max_load=max_load,
            )  # fmt: skip
        stage.advance(1, record.state)
    return Updated(
        number=version.number,
        state=record.state,
        read=record.read,
        trained=0 if reason else record.trained,
        left_out=dict(record.left_out),
        changed=changed,
        metrics=metrics,
        reason=reason,
        seconds=(datetime.now(UTC) - began_at).total_seconds(),
    )


def _check_mean(version: ModelVersion) -> None:
    """Refuse a version whose query tower does more than take a mean."""
    kind = version.config.query.beyond_mean
    if kind:
        raise TrainingError(
            f"version {version.number} of model {version.model!r} makes its queries "
            f"with {kind}: an update moves the rows of a mean alone",
            hint='Train with query.encoder = "mean", or from the start regularly.',
        )


def examine(
    conn: Connection,
    version: ModelVersion,
    since: datetime,
    config: UpdateConfig,
    rises: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return how good the rows of a version are on what came since a moment.

    Nothing is learned and nothing is written.

    Args:
        conn: An autocommit connection.
        version: A version, with vectors.
        since: Interactions from then on are the hits; what was before is history.
        config: How many of them at most.
        rises: What is added to the popularity of items, by id as text; it must not
            have counted the hits. None: nothing.
    """
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        news = read_news(conn, version, since, config.max_interactions)
        if not len(news):
            return Quality.none().means()
        loaded = LoadedItems(conn, version)
        problem = read_problem(conn, version, loaded, news, rises or {})
    every = np.ones(len(news), np.bool_)
    catalogue = _masked(problem)
    catalogue = Catalogue(catalogue.vectors, catalogue.bias + problem.rise)
    return _examine(problem, news, every, since.timestamp(), catalogue).means()


def _unusable(problem: Problem) -> int:
    return sum(problem.left_out.get(r, 0) for r in ("unknown_item", "no_weight"))


def _read(
    conn: Connection, version: ModelVersion, config: UpdateConfig
) -> tuple[Position, datetime, News, Problem | None]:
    """Read everything in one snapshot; nothing new makes no problem."""
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        began = log.position(conn, version)
        if began.until is None:
            raise no_news(version)
        since = began.until - timedelta(seconds=config.overlap_s)
        news = read_news(conn, version, since, config.max_interactions)
        if began.refused and not _after(news, began.refused):
            # A full batch that was refused would be read for ever: go on behind it.
            since = began.refused
            news = read_news(conn, version, since, config.max_interactions)
            if not _after(news, began.refused):
                return began, since, news, None
        if not len(news):
            return began, since, news, None
        loaded = LoadedItems(conn, version)
        return began, since, news, read_problem(conn, version, loaded, news)


def _after(news: News, moment: datetime) -> bool:
    """Say whether any of the news is later than a moment."""
    return bool((news.time > moment.timestamp()).any())


@dataclass(frozen=True, slots=True)
class _Trial:
    """Rows that learned from the older part of the news, and what they reach."""

    pace: Pace
    moving: Moving
    quality: Quality


def _learn(
    conn: Connection, problem: Problem, news: News, config: UpdateConfig
) -> tuple[dict[str, Any], NewRows, str | None]:
    """Examine the rows as they are, learn, and compare.

    Returns:
        Metrics, the new rows, and why not to publish them.
    """
    pace = Pace(
        _temperature(conn, problem.version), config.lr, config.passes, config.negatives
    )
    served = _masked(problem)
    every = np.ones(len(news), np.bool_)
    metrics: dict[str, Any] = {}
    metrics |= _examine(problem, news, every, float(news.time.min()), served).means()
    older, cut = _older(news)
    before = _examine(problem, news, ~older, cut, served)
    judged = before.users >= _FEWEST
    tried = [
        _try(problem, news, older, cut, replace(pace, lr=share * pace.lr))
        for share in (_STEPS if judged else _STEPS[-1:])
    ]
    best = max(tried, key=lambda trial: trial.quality.means().get("ndcg", 0.0))
    metrics["lr"] = best.pace.lr
    reason = None
    difference, error = paired_difference(before, [one.quality for one in tried])
    if before.users:
        mean = float(before.ndcg.mean())
        metrics["guard"] = {
            "users": before.users,
            "before": mean,
            "after": mean + difference,
        }
    if judged and difference < -config.guard * error:
        reason = (
            f"NDCG@20 on the newest interactions fell by {-difference:.4f}, more"
            f" than {config.guard:g} standard errors ({error:.4f})"
        )
    moving = _pass(problem, news, ~older, best.moving, best.pace)
    if not (np.isfinite(moving.served).all() and np.isfinite(moving.history).all()):
        reason = "the rows are not finite: lower update.lr"
    return metrics, NewRows(problem.ids, moving.served, moving.history), reason


def _try(
    problem: Problem, news: News, older: NDArray[np.bool_], cut: float, pace: Pace
) -> _Trial:
    """Learn from the older part, and rank the newer one."""
    moving = _pass(problem, news, older, problem.moving, pace)
    catalogue = _with(problem, moving)
    found = _examine(problem, news, ~older, cut, catalogue, moving)
    return _Trial(pace, moving, found)


def _older(news: News) -> tuple[NDArray[np.bool_], float]:
    """Mark the older part of the news, and say when the newer one begins."""
    cut = float(np.quantile(news.time, _OLDER, method="lower"))
    older = news.time < cut
    return (older, cut) if older.any() else (np.ones(len(news), np.bool_), math.inf)


def _pass(
    problem: Problem,
    news: News,
    chosen: NDArray[np.bool_],
    moving: Moving,
    pace: Pace,
) -> Moving:
    """Return the rows after they learned from some of the news."""
    given = examples(problem, chosen, news.weight)
    if not len(given.asker):
        return moving
    today = Catalogue(problem.catalogue.vectors, problem.catalogue.bias + problem.rise)
    served, history, losses = learn(today, moving, given, pace)
    logger.info("losses %s", [round(loss, 4) for loss in losses])
    return replace(moving, served=served, history=history)


def _masked(problem: Problem) -> Catalogue:
    """Return the items as they are searched now: without those that have no vector."""
    bias = np.where(problem.listed, problem.catalogue.bias, -np.inf)
    return Catalogue(problem.catalogue.vectors, bias.astype(np.float32))


def _with(problem: Problem, moving: Moving) -> Catalogue:
    vectors = problem.catalogue.vectors.copy()
    vectors[moving.item] = unit(moving.served + moving.served_rest)[0]
    return Catalogue(vectors, problem.catalogue.bias)


def _examine(
    problem: Problem,
    news: News,
    chosen: NDArray[np.bool_],
    before: float,
    catalogue: Catalogue,
    moving: Moving | None = None,
) -> Quality:
    hits = chosen & news.target
    examiner = Examiner(
        problem.events,
        (problem.user[hits], problem.place[hits]),
        before,
        problem.version.config.train.history,
    )
    rows = problem.past
    if moving is not None:
        rows = rows.copy()
        at = problem.events.row[moving.item]
        rows[at] = moving.history + moving.history_rest
    return examiner.examine(problem.tower, rows, catalogue, columns_of_users(problem))


def _temperature(conn: Connection, version: ModelVersion) -> float:
    """Return the temperature that the version was fitted with."""
    digest = version.artifacts.get("report")
    report: dict[str, Any] = {}
    if digest is not None:
        report = json.loads(artifacts.get(conn, digest))
    tau = report.get("settings", {}).get("tau") or version.config.train.tau
    return float(tau or _DEFAULT_TAU)
