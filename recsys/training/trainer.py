"""The whole training: choose the settings, fit on all data, publish."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from recsys._parent import Parent
from recsys.config import ModelConfig, TrainConfig
from recsys.errors import TrainingError
from recsys.progress import SILENT, Progress
from recsys.training import health
from recsys.training.checkpoint import Checkpoint, fingerprint
from recsys.training.choice import USED, Choice, choose
from recsys.training.cold import MEDIAN
from recsys.training.dataset import Dataset
from recsys.training.distil import agreement, student_of, teacher_of
from recsys.training.final import Fitted, final_fit
from recsys.training.finish import Finish, finish
from recsys.training.gap import warn_of_gap
from recsys.training.laps import Laps
from recsys.training.leaks import warn_of_leaks
from recsys.training.mined import mined
from recsys.training.rows import QueryRows, fit_rows
from recsys.training.teacher import Teacher
from recsys.training.trained import TrainedModel


def train(
    dataset: Dataset,
    config: ModelConfig,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    distil_from: Parent | None = None,
) -> TrainedModel:
    """Train a model.

    Args:
        dataset: From ``recsys.training.data.read`` or ``Dataset.from_arrays``.
        config: The model's configuration; ``config.train`` steers this.
        progress: Receives the stages; None is silence.
        checkpoint: Keeps the final fit; what it holds is gone on with.
        distil_from: A larger version that this one learns from, besides the data.

    Returns:
        The model, checked against torch and ready to be registered.

    Raises:
        TrainingError: There is nothing to learn from, or the loss is not finite.
        ArtifactError: The published towers do not compute what torch computes.
    """
    laps = Laps()
    progress = progress or SILENT
    _check(dataset)
    health.check_size(dataset, config.train.first_dim)
    every = np.ones(len(dataset), np.bool_)
    rows = fit_rows(dataset, every, dataset.until, config.train)
    leaks = warn_of_leaks(dataset, config.train)
    warnings = [
        *warn_of_gap(dataset, config.train),
        *health.warn(dataset, rows, {leak.feature for leak in leaks}),
    ]
    own = mined(rows, config)
    if checkpoint is not None:
        number = distil_from.number if distil_from else None
        checkpoint.of(fingerprint(dataset, rows), config, number)
    teacher = None
    if distil_from is not None:
        config = student_of(config)
        teacher = teacher_of(distil_from, dataset, rows)
    choice = _choice(dataset, config, checkpoint, progress, laps.passed_s)
    config = replace(config, train=replace(config.train, dim=choice.settings.dim))
    fitted = final_fit(
        dataset,
        rows,
        choice,
        config.train,
        limit_s=_limit_s(config.train, laps.end("choose")),
        progress=progress,
        checkpoint=checkpoint,
        teacher=teacher,
    )
    laps.end("fit")
    with progress.stage("export", total=1) as stage:
        agreed = teacher and agreement(teacher, fitted.towers, rows, config.train.seed)
        level = choice.cold.quantile if choice.cold else MEDIAN
        how = Finish(
            choice.settings,
            choice.trend,
            choice.lean,
            choice.rerank.temperature,
            level,
        )
        model = finish(dataset, rows, fitted.towers, config, how)
        stage.advance()
    laps.end("export")
    model.report.update(
        settings=how.said(len(fitted.curve)),
        **_chosen(choice, fitted, config.train),
        data=_data(dataset, rows),
        timing=_timing(laps, fitted),
        seed=config.train.seed,
        leaks=[str(leak) for leak in leaks],
        warnings=warnings,
        mined=own,
        cold={"quantile": level, **(choice.cold.report if choice.cold else {})},
    )
    if distil_from is not None and teacher is not None:
        weight = choice.settings.distil
        model.report["distil"] = _taught(distil_from, teacher, weight, agreed)
    return model


def _limit_s(config: TrainConfig, spent_s: float) -> float:
    """Return how long the final fit may take."""
    return math.inf if config.epochs else max(1.0, USED * (config.budget_s - spent_s))


def _choice(
    dataset: Dataset,
    config: ModelConfig,
    checkpoint: Checkpoint | None,
    progress: Progress,
    spent_s: float,
) -> Choice:
    """Choose the settings, or take those of the training that is gone on with."""
    if checkpoint is None:
        return choose(dataset, config, progress, spent_s=spent_s)
    if checkpoint.plan is not None:
        return Choice.from_dict(checkpoint.plan, config)
    choice = choose(dataset, config, progress, spent_s=spent_s)
    checkpoint.plan = choice.to_dict()
    return choice


def _check(dataset: Dataset) -> None:
    if not len(dataset):
        hint = "Check interactions.sql."
        if dataset.dropped:
            hint = (
                f"All {dataset.dropped} were left out: their item_id is null or not "
                "among those of items.sql."
            )
        raise TrainingError("there are no interactions to learn from", hint=hint)


def _chosen(choice: Choice, fitted: Fitted, config: TrainConfig) -> dict[str, Any]:
    """Return what the report says of the choice and of the fit."""
    return {
        "validation": choice.validation,
        "curves": [*choice.curves, *fitted.curve],
        "health": fitted.health,
        "segments": choice.segments,
        "samples": choice.samples,
        "chosen_run": choice.run,
        "rerank": choice.rerank.to_dict(),
        "limits": {
            "epochs": config.epochs,
            "max_epochs": config.max_epochs,
            "budget_s": config.budget_s,
            "planned_epochs": choice.epochs,
        },
    }


def _taught(
    parent: Parent, teacher: Teacher, weight: float, agreed: float | None
) -> dict[str, Any]:
    return {
        "from": parent.number,
        "weight": weight,
        "tau": teacher.tau,
        "known_items": int(teacher.known.sum()),
        "agreement": agreed,
    }


def _timing(laps: Laps, fitted: Fitted) -> dict[str, float]:
    epoch_s = float(np.mean([row["seconds"] for row in fitted.curve]))
    return {**laps.seconds, "epoch_s": epoch_s}


def _data(dataset: Dataset, rows: QueryRows) -> dict[str, Any]:
    return {
        "users": len(dataset.user_ids),
        "items": len(dataset.item_ids),
        "trained_items": len(rows.items),
        "interactions": len(dataset),
        "positives": rows.pairs,
        "dropped": dataset.dropped,
        "untimed": dataset.untimed,
        "future": dataset.future,
        "since": _earliest(dataset),
        "until": dataset.until,
        "kinds": {
            name: int(count)
            for name, count in zip(
                dataset.kinds,
                np.bincount(dataset.kind, minlength=len(dataset.kinds)),
                strict=True,
            )
        },
    }


def _earliest(dataset: Dataset) -> float | None:
    known = dataset.time[np.isfinite(dataset.time)]
    return float(known.min()) if known.size else None
