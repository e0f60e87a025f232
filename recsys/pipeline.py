"""From sources to a registered version: what ``recsys train`` does."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys import (
    _db,
    _parent,
    _sql,
    _teacher,
    _texts,
    artifacts,
    embeddings,
    revisions,
    schema,
    versions,
)
from recsys._db import Connection
from recsys._guard import exclusive
from recsys._source import source_errors
from recsys.config import ModelConfig, ProjectConfig, checked
from recsys.errors import ConfigError, SourceError, TrainingError
from recsys.progress import SILENT, Progress
from recsys.versions import VersionPlan

if TYPE_CHECKING:
    from recsys.training.checkpoint import Checkpoint
    from recsys.training.dataset import Dataset
    from recsys.training.export import TrainedModel

logger = logging.getLogger(__name__)

_OPTIONAL = ("occurred_at", "kind")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training left behind.

    Attributes:
        plan: The new version, as its revision declares it.
        revision: The revision file; None when the version was made without one.
        report: Settings, metrics, curves, timing; also stored as an artifact.
    """

    plan: VersionPlan
    revision: Path | None
    report: dict[str, Any]


def train_version(
    dsn: str,
    project: ProjectConfig,
    model: str,
    *,
    until: datetime | None = None,
    revision: bool = True,
    full: bool = False,
    parent: int | None = None,
    distil_from: int | None = None,
    budget_s: float | None = None,
    seed: int | None = None,
    dims: Sequence[int] = (),
    device: str | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Trained:
    """Train a version on the model's sources and declare it.

    Nothing is registered before training ended well: an interrupted training burns its
    number and leaves nothing else.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        project: The whole recsys.toml.
        model: Name of the model.
        until: Leave out interactions from this time on.
        revision: Write a revision file; else make the version directly.
        full: Go on from a version, on what came since, instead of from the start.
        parent: With ``full``: that version; default the base that serves.
        distil_from: Number of a version that this one learns from, besides the data.
        budget_s: Seconds for tuning and fitting, instead of the configured ones.
        seed: Seed, instead of the configured one.
        dims: The longest is the length of the vectors, the others are prefixes that
            rank by themselves; the shortest is indexed.
        device: "cpu", "cuda" or "auto", instead of the configured one.
        checkpoint: Folder in which the state of the fit is kept until it is done.
        resume: Go on with the state in that folder.
        progress: Receives the progress of the long steps.

    Returns:
        The new version; it is building and still needs its backfill.

    Raises:
        ConfigError: The model is not declared, or the versions folder is unusable.
        SourceError: A source fails or returns bad rows.
        TrainingError: Training cannot start or failed, or another one runs.
        SchemaError: The recsys schema is missing or does not fit.
    """
    config = _overridden(project.model(model), budget_s, seed, dims)
    if device is not None:
        train = dataclasses.replace(config.train, device=device)
        config = checked(dataclasses.replace(config, train=train))
    if full and checkpoint is not None:
        raise ConfigError("--full is one epoch: leave --checkpoint out")
    if full and distil_from is not None:
        raise ConfigError(
            "--full goes on from a version of the same size: leave --distil-from out",
            hint="Distil once, then go on from the small version with --full.",
        )
    asked = until
    kept = _checkpoint(checkpoint, model, resume=resume)
    config = _texts.with_encoders(config, project.path)
    with _db.connect(dsn) as conn:
        schema.check(conn)
    if revision:
        revisions.check_folder(
            schema.alembic_config(dsn, project.versions), project.versions
        )
    refusal = TrainingError(
        f"another training of model {model!r} runs",
        hint="Wait for it to end, or stop it with Ctrl-C where it runs.",
    )
    path = None
    with exclusive(dsn, f"recsys.train.{model}", refusal):
        _texts.warm(dsn, config, progress)
        # No connection waits for the fit: servers and poolers end idle ones.
        with _db.connect(dsn) as conn:
            columns = interaction_columns(conn, config)
            number = _number(conn, config, project.versions)
            conn.commit()
            started = datetime.now(UTC)
            before = _parent.find(conn, model, parent) if full else None
            teacher = None
            if distil_from is not None:
                teacher = _teacher.find(conn, config, distil_from, asked)
            conn.commit()
            if kept is not None and "occurred_at" in columns:
                # What comes meanwhile is not for the fit that is gone on with.
                until = until or _as_of(kept) or started
                kept.until = until.isoformat()
            dataset = _read(conn, config, until, progress)
        if asked is not None and not len(dataset) + dataset.dropped:
            raise TrainingError(
                f"there are no interactions before {asked:%F %T}",
                hint="Choose a later --until, or check interactions.sql.",
            )
        end = trained_until(dataset.until, asked, started)
        trained = _fit(dataset, config, before, teacher, kept, progress)
        del dataset
        with _db.connect(dsn) as conn:
            if number in revisions.numbers(project.versions, model):
                # Someone else's file of that number came while we trained.
                number = _number(conn, config, project.versions)
            named = {"parent": before, "teacher": teacher}
            more = {name: one.number for name, one in named.items() if one}
            plan = _store(conn, config, columns, number, trained, end, more)
            if not revision:
                versions.create(conn, plan)
        if revision:
            alembic = schema.alembic_config(dsn, project.versions)
            path = revisions.write(plan, alembic, project.versions)
    if kept is not None:
        kept.remove()
    return Trained(plan, path, trained.report)


@contextmanager
def processes() -> Generator[bool]:
    """Join the processes that ``torchrun`` started; whether this one leads.

    Any other process helps with the fits and has nothing left to do in the block. A
    process that was started alone leads.

    Raises:
        TrainingError: Another process has ended, or torch is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield True
        return
    try:
        from recsys.training.processes import together
    except ImportError as exc:
        raise _not_installed(exc) from exc
    with together() as leads:
        yield leads


def _number(conn: Connection, config: ModelConfig, folder: Path) -> int:
    """Give out a number that neither this database nor the folder has.

    A colleague's versions are in the folder before this database knows of them.
    """
    known = max(revisions.numbers(folder, config.name), default=0)
    number = versions.next_number(conn, config)
    while number <= known:
        number = versions.next_number(conn, config)
    return number


def trained_until(
    last: float | None, until: datetime | None, now: datetime
) -> datetime | None:
    """Return the time from which on nothing was in the training data.

    Args:
        last: Time of the last interaction in it, seconds since 1970.
        until: As given to the training; without a time zone it is UTC.
        now: When the data were read.

    Returns:
        ``until`` when that time has come, else the moment after the last interaction;
        None when no interaction has a time.
    """
    if last is None:
        return None
    if until is not None:
        until = until.replace(tzinfo=until.tzinfo or UTC)
        if until <= now:
            return until
    try:
        return datetime.fromtimestamp(last, UTC) + timedelta(microseconds=1)
    except (ValueError, OverflowError, OSError):
        return None  # Postgres knows later years than Python


def _overridden(
    config: ModelConfig, budget_s: float | None, seed: int | None, dims: Sequence[int]
) -> ModelConfig:
    train, index = config.train, config.index
    if budget_s is not None and budget_s <= 0:
        raise ConfigError(f"the budget must be positive seconds, got {budget_s}")
    if budget_s is not None:
        train = dataclasses.replace(train, budget_s=budget_s)
    if seed is not None:
        train = dataclasses.replace(train, seed=seed)
    if dims:
        dim, *prefixes = sorted(set(dims), reverse=True)
        train = dataclasses.replace(train, dim=dim, prefixes=tuple(prefixes))
        shortest = prefixes[-1] if prefixes else 0
        index = dataclasses.replace(index, prefix=shortest)
    return checked(dataclasses.replace(config, train=train, index=index))


def interaction_columns(conn: Connection, config: ModelConfig) -> list[str]:
    """Return which optional columns the interaction source has.

    Raises:
        SourceError: The SQL fails, or a required column is missing.
    """
    with source_errors("interactions"):
        cursor = conn.execute(
            _sql.trusted(
                f"select * from ({config.interactions.sql}\n) as source limit 0"
            )
        )
    names = [column.name for column in cursor.description or ()]
    conn.rollback()
    wanted = ["user_id", "item_id", *(f.name for f in config.context.features)]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise SourceError(
            f"interactions.sql returns no column {', '.join(absent)}",
            hint=f"It returns {', '.join(names)}: rename with 'as'.",
        )
    return [name for name in _OPTIONAL if name in names]


def _read(
    conn: Connection, config: ModelConfig, until: datetime | None, progress: Progress
) -> Dataset:
    try:
        from recsys.training.data import read
    except ImportError as exc:
        raise _not_installed(exc) from exc
    return read(conn, config, until=until, progress=progress)


def _checkpoint(folder: Path | None, model: str, *, resume: bool) -> Checkpoint | None:
    if folder is None:
        if resume:
            raise ConfigError("--resume needs the folder: --checkpoint DIR --resume")
        return None
    try:
        from recsys.training.checkpoint import Checkpoint
    except ImportError as exc:
        raise _not_installed(exc) from exc
    return Checkpoint(folder / f"{model}.safetensors", resume=resume)


def _as_of(checkpoint: Checkpoint) -> datetime | None:
    """Return up to when the interactions were read that a checkpoint is of."""
    return datetime.fromisoformat(checkpoint.until) if checkpoint.until else None


def _fit(
    dataset: Dataset,
    config: ModelConfig,
    before: _parent.Parent | None,
    teacher: _parent.Parent | None,
    checkpoint: Checkpoint | None,
    progress: Progress,
) -> TrainedModel:
    try:
        from recsys.training.trainer import train
        from recsys.training.warm import train_full
    except ImportError as exc:
        raise _not_installed(exc) from exc
    if before is not None:
        return train_full(dataset, config, before, progress=progress)
    return train(
        dataset, config, progress=progress, checkpoint=checkpoint, distil_from=teacher
    )


def _not_installed(exc: ImportError) -> TrainingError:
    return TrainingError(
        f"training needs a package that is not installed: {exc.name}",
        hint="pip install 'recsys[train]'",
    )


def _store(
    conn: Connection,
    config: ModelConfig,
    columns: Sequence[str],
    number: int,
    trained: TrainedModel,
    end: datetime | None,
    more: Mapping[str, Any],
) -> VersionPlan:
    learned: list[int] = np.flatnonzero(trained.trained).tolist()
    rows = embeddings.Embeddings(
        item_ids=[trained.item_ids[i] for i in learned],
        served=trained.id_served[learned].astype(np.float16),
        history=trained.id_history[learned].astype(np.float16),
        bias=trained.bias[learned].astype(np.float32),
        default_query=trained.weights["default_query"],
    )
    from recsys.training.export import warm_start_artifact

    report = json.dumps(trained.report, ensure_ascii=False).encode()
    hashes = {
        "item_tower": artifacts.put(conn, "onnx", trained.item_tower),
        "query_tower": artifacts.put(conn, "onnx", trained.query_tower),
        "embeddings": artifacts.put(
            conn, "safetensors", embeddings.pack(rows, config.item_id)
        ),
        "weights": artifacts.put(conn, "safetensors", warm_start_artifact(trained)),
        "report": artifacts.put(conn, "json", report),
        "vocabularies": artifacts.put(conn, "json", _vocabularies(trained)),
    }
    said: dict[str, Any] = {
        "columns": list(columns),
        "trained_until": end.isoformat() if end else None,
        **more,
    }
    if trained.counts is not None and trained.trend is not None:
        content = trained.counts.pack(config.item_id)
        hashes["popularity"] = artifacts.put(conn, "safetensors", content)
        cold = float(trained.weights["cold_bias"])
        said["trend"] = {**trained.trend.to_dict(), "cold": cold}
    config = dataclasses.replace(config, query=trained.query)
    spec = json.loads(json.dumps({**config.to_dict(), **said}))
    metrics = {"validation": trained.report.get("validation", {})}
    return VersionPlan(config.name, number, spec, hashes, metrics)


def _vocabularies(trained: TrainedModel) -> bytes:
    """Return the values that the rows of each table stand for: a full update asks."""
    sides = {"item": trained.items, "user": trained.users, "context": trained.contexts}
    found = {
        f"{side}.{fitted.feature.name}": fitted.vocabulary
        for side, features in sides.items()
        for fitted in features.features
        if fitted.feature.type in ("category", "categories")
    }
    return json.dumps(found, ensure_ascii=False, sort_keys=True).encode()
