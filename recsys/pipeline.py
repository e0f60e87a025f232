"""From sources to a registered version: what ``recsys train`` does."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys import _db, _parent, _teacher, _texts, revisions, schema, versions
from recsys._columns import interaction_columns
from recsys._db import Connection
from recsys._extras import needed
from recsys._guard import exclusive
from recsys._last import warn_of_end
from recsys._parent import Parent
from recsys._plan import plan_of, trained_until
from recsys.config import ModelConfig, ProjectConfig, checked
from recsys.errors import ConfigError, TrainingError
from recsys.progress import SILENT, Progress
from recsys.versions import VersionPlan

if TYPE_CHECKING:
    from recsys.training.checkpoint import Checkpoint
    from recsys.training.dataset import Dataset
    from recsys.training.trained import TrainedModel


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

    Nothing is registered before training ended well: from the moment it reads the
    sources, a training that fails or is interrupted burns its number, and leaves
    nothing else.

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
        dims: The first is the length of the vectors, the others are ever shorter
            prefixes that rank by themselves; the last one is indexed.
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
    config = _overridden(project.model(model), budget_s, seed, dims, device)
    if full:
        _check_full(checkpoint, distil_from)
    kept = _checkpoint(checkpoint, model, resume=resume)
    config = _texts.with_encoders(config, project.path)
    columns = _ready(dsn, project, config, revision=revision)
    refusal = TrainingError(
        f"another training of model {model!r} runs",
        hint="Wait for it to end, or stop it with Ctrl-C where it runs.",
    )
    with exclusive(dsn, f"recsys.train.{model}", refusal):
        _texts.warm(dsn, config, progress)
        # No connection waits for the fit: servers and poolers end idle ones.
        with _db.connect(dsn) as conn:
            before = _parent.find(conn, model, parent) if full else None
            if before is not None and "occurred_at" in columns:
                _parent.check_news(conn, config, before)
            teacher = None
            if distil_from is not None:
                teacher = _teacher.find(conn, config, distil_from, until)
            begun = _begin(conn, config, project.versions, columns)
            dataset = _read(conn, config, begun, until, kept, progress)
        end = trained_until(dataset.until, until, begun.at)
        trained = _fit(dataset, config, before, teacher, kept, progress)
        del dataset
        named = {"parent": before, "teacher": teacher}
        said = {
            "columns": begun.columns,
            "trained_until": end.isoformat() if end else None,
            **{name: one.number for name, one in named.items() if one},
        }
        made = _declare(dsn, project, config, begun.number, trained, said, revision)
    if kept is not None:
        kept.remove()
    return made


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
    with needed("train", "training"):
        from recsys.training.processes import together
    with together() as leads:
        yield leads


def _overridden(
    config: ModelConfig,
    budget_s: float | None,
    seed: int | None,
    dims: Sequence[int],
    device: str | None = None,
) -> ModelConfig:
    train, index = config.train, config.index
    if budget_s is not None and budget_s <= 0:
        raise ConfigError(f"the budget must be positive seconds, got {budget_s}")
    if budget_s is not None:
        train = replace(train, budget_s=budget_s)
    if seed is not None:
        train = replace(train, seed=seed)
    if device is not None:
        train = replace(train, device=device)
    if not dims:
        return checked(replace(config, train=train))
    lengths = ",".join(map(str, dims))
    falling = sorted(set(dims), reverse=True)
    if list(dims) != falling:
        raise ConfigError(
            f"--dims {lengths} does not fall from length to length",
            hint="First the length of the vectors, then those that rank by themselves:"
            f" --dims {','.join(map(str, falling))}.",
        )
    dim, *prefixes = dims
    train = replace(train, dim=dim, prefixes=tuple(prefixes))
    index = replace(index, prefix=prefixes[-1] if prefixes else 0)
    try:
        return checked(replace(config, train=train, index=index))
    except ConfigError as exc:
        raise ConfigError(f"--dims {lengths}: {exc}", hint=exc.hint) from exc


def _check_full(checkpoint: Path | None, distil_from: int | None) -> None:
    """Refuse what does not go with ``full``."""
    if checkpoint is not None:
        raise ConfigError("--full is one epoch: leave --checkpoint out")
    if distil_from is not None:
        raise ConfigError(
            "--full goes on from a version of the same size: leave --distil-from out",
            hint="Distil once, then go on from the small version with --full.",
        )


def _ready(
    dsn: str, project: ProjectConfig, config: ModelConfig, *, revision: bool
) -> list[str]:
    """Return the optional columns of the interactions.

    What the new version could not be read from, or would not fit into, is refused here,
    before it has a number.
    """
    with _db.connect(dsn) as conn:
        schema.check(conn)
        columns = interaction_columns(conn, config)
    if revision:
        alembic = schema.alembic_config(dsn, project.versions)
        revisions.check_folder(alembic, project.versions)
    return columns


def _checkpoint(folder: Path | None, model: str, *, resume: bool) -> Checkpoint | None:
    if folder is None:
        if resume:
            raise ConfigError("--resume needs the folder: --checkpoint DIR --resume")
        return None
    with needed("train", "training"):
        from recsys.training.checkpoint import Checkpoint
    return Checkpoint(folder / f"{model}.safetensors", resume=resume)


def _as_of(checkpoint: Checkpoint) -> datetime | None:
    """Return up to when the interactions were read that a checkpoint is of."""
    return datetime.fromisoformat(checkpoint.until) if checkpoint.until else None


@dataclass(frozen=True, slots=True)
class _Begun:
    """A training that has its number.

    Attributes:
        number: Given out to it.
        columns: The optional columns that its interactions have.
        at: When that was.
    """

    number: int
    columns: list[str]
    at: datetime


def _begin(
    conn: Connection, config: ModelConfig, folder: Path, columns: list[str]
) -> _Begun:
    number = _number(conn, config, folder)
    conn.commit()
    return _Begun(number, columns, datetime.now(UTC))


def _number(conn: Connection, config: ModelConfig, folder: Path) -> int:
    """Give out a number that neither this database nor the folder has.

    A colleague's versions are in the folder before this database knows of them.
    """
    known = max(revisions.numbers(folder, config.name), default=0)
    number = versions.next_number(conn, config)
    while number <= known:
        number = versions.next_number(conn, config)
    return number


def _read(
    conn: Connection,
    config: ModelConfig,
    begun: _Begun,
    asked: datetime | None,
    kept: Checkpoint | None,
    progress: Progress,
) -> Dataset:
    until = asked
    if kept is not None and "occurred_at" in begun.columns:
        # What comes meanwhile is not for the fit that is gone on with.
        until = asked or _as_of(kept) or begun.at
        kept.until = until.isoformat()
    with needed("train", "training"):
        from recsys.training.data import read
    dataset = read(conn, config, until=until, progress=progress)
    if asked is not None and not len(dataset) + dataset.dropped:
        raise TrainingError(
            f"there are no interactions before {asked:%F %T}",
            hint="Choose a later --until, or check interactions.sql.",
        )
    warn_of_end(conn, config, asked)
    return dataset


def _fit(
    dataset: Dataset,
    config: ModelConfig,
    before: Parent | None,
    teacher: Parent | None,
    checkpoint: Checkpoint | None,
    progress: Progress,
) -> TrainedModel:
    with needed("train", "training"):
        from recsys.training.full import train_full
        from recsys.training.trainer import train
    if before is not None:
        return train_full(dataset, config, before, progress=progress)
    return train(
        dataset, config, progress=progress, checkpoint=checkpoint, distil_from=teacher
    )


def _declare(
    dsn: str,
    project: ProjectConfig,
    config: ModelConfig,
    number: int,
    trained: TrainedModel,
    said: Mapping[str, Any],
    revision: bool,
) -> Trained:
    """Store the model and write its revision file, or make its version at once."""
    with _db.connect(dsn) as conn:
        if number in revisions.numbers(project.versions, config.name):
            # Someone else's file of that number came while we trained.
            number = _number(conn, config, project.versions)
        plan = plan_of(conn, config, number, trained, said)
        if not revision:
            versions.create(conn, plan)
    path = None
    if revision:
        alembic = schema.alembic_config(dsn, project.versions)
        path = revisions.write(plan, alembic, project.versions)
    return Trained(plan, path, trained.report)
