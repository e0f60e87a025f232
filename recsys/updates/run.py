"""Incremental updates of the versions that serve: read, examine, learn, publish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from recsys import _db, artifacts, schema, versions
from recsys._db import Connection
from recsys._guard import exclusive
from recsys._untimed import no_news
from recsys._wording import counted
from recsys.errors import TrainingError, UnknownModel
from recsys.progress import SILENT, Progress
from recsys.updates import guarded, log, publish
from recsys.updates.encoding import read_problem
from recsys.updates.learner import Catalogue
from recsys.updates.log import Position, Record
from recsys.updates.problem import Problem
from recsys.updates.products import one_thread
from recsys.updates.reading import News, read_news
from recsys.updates.settings import UpdateConfig
from recsys.updates.validation import Quality
from recsys.versions import ModelVersion
from recsys.worker.apply import LoadedItems

_DEFAULT_TAU = 0.15


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
        stage.advance(1, counted(len(news), "interaction"))
        tau = _temperature(conn, version)
        metrics, rows, reason = guarded.learn(problem, news, config, tau)
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
    catalogue = guarded.masked(problem)
    catalogue = Catalogue(catalogue.vectors, catalogue.bias + problem.rise)
    return guarded.examine(problem, news, every, since.timestamp(), catalogue).means()


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


def _temperature(conn: Connection, version: ModelVersion) -> float:
    """Return the temperature that the version was fitted with."""
    digest = version.artifacts.get("report")
    report: dict[str, Any] = {}
    if digest is not None:
        report = json.loads(artifacts.get(conn, digest))
    tau = report.get("settings", {}).get("tau") or version.config.train.tau
    return float(tau or _DEFAULT_TAU)
