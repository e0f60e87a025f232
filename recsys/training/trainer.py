"""The whole training: choose the settings, fit on all data, publish."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from recsys._parent import Parent
from recsys.config import ModelConfig, TrainConfig
from recsys.errors import TrainingError
from recsys.popularity import DAY_S
from recsys.progress import SILENT, Progress
from recsys.training import health
from recsys.training.checkpoint import Checkpoint, fingerprint
from recsys.training.choice import Choice, choose
from recsys.training.cold import MEDIAN
from recsys.training.dataset import Dataset
from recsys.training.distil import agreement, student_of, teacher_of
from recsys.training.evaluation import sample_vectors
from recsys.training.export import TrainedModel
from recsys.training.finish import Finish, finish
from recsys.training.fit_health import Health, embedding_health
from recsys.training.loop import Epoch, fit
from recsys.training.model import Towers
from recsys.training.rows import QueryRows, query_rows
from recsys.training.svd import first_rows
from recsys.training.teacher import Teacher

logger = logging.getLogger(__name__)

# The final fit is given this much of the time left: the export comes after it.
_USE = 0.95


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
    started = time.perf_counter()
    progress = progress or SILENT
    _check(dataset)
    health.check_size(dataset, config.train.dim)
    every = np.ones(len(dataset), np.bool_)
    half_life_s = config.train.half_life_days * DAY_S
    rows = query_rows(dataset, every, dataset.until, config.train.history, half_life_s)
    findings = health.check(dataset, rows)
    for finding in findings:
        logger.warning("%s", finding.message)
    if checkpoint is not None:
        number = distil_from.number if distil_from else None
        checkpoint.of(fingerprint(dataset, rows), config, number)
    teacher = None
    if distil_from is not None:
        config = student_of(config)
        teacher = teacher_of(distil_from, dataset, rows)
    choice = _choice(dataset, config, checkpoint, progress)
    chosen_at = time.perf_counter()
    left_s = math.inf
    if not config.train.epochs:
        left_s = max(1.0, _USE * (config.train.budget_s - (chosen_at - started)))
    fitted = _final_fit(
        dataset, rows, choice, config.train, left_s, progress, checkpoint, teacher
    )
    towers, curve = fitted.towers, fitted.curve
    fitted_at = time.perf_counter()
    with progress.stage("export", total=1) as stage:
        agrees = teacher and agreement(teacher, towers, rows, config.train.seed)
        level = choice.cold.quantile if choice.cold else MEDIAN
        how = Finish(choice.settings, choice.trend, choice.lean, level)
        model = finish(dataset, rows, towers, config, how)
        stage.advance()
    done = time.perf_counter()
    model.report.update(
        settings=how.said(len(curve)),
        validation=choice.validation,
        curves=[*choice.curves, *curve],
        leaks=choice.leaks,
        health=_health(fitted),
        segments=choice.segments,
        samples=choice.samples,
        chosen_run=choice.run,
        limits={
            "epochs": config.train.epochs,
            "max_epochs": config.train.max_epochs,
            "budget_s": config.train.budget_s,
            "planned_epochs": choice.epochs,
        },
        data=_data(dataset, rows),
        timing={
            "choose_s": chosen_at - started,
            "fit_s": fitted_at - chosen_at,
            "export_s": done - fitted_at,
            "epoch_s": float(np.mean([row["seconds"] for row in curve])),
        },
        seed=config.train.seed,
        warnings=[finding.to_dict() for finding in findings],
        cold={"quantile": level, **(choice.cold.report if choice.cold else {})},
    )
    if distil_from is not None and teacher is not None:
        model.report["distil"] = {
            "from": distil_from.number,
            "weight": choice.settings.distil,
            "tau": teacher.tau,
            "known_items": int(teacher.known.sum()),
            "agreement": agrees,
        }
    return model


def _choice(
    dataset: Dataset,
    config: ModelConfig,
    checkpoint: Checkpoint | None,
    progress: Progress,
) -> Choice:
    """Choose the settings, or take those of the training that is gone on with."""
    if checkpoint is None:
        return choose(dataset, config, progress)
    if checkpoint.plan is not None:
        return Choice.from_dict(checkpoint.plan, config)
    choice = choose(dataset, config, progress)
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


@dataclass(frozen=True, slots=True)
class _Fitted:
    """The fit that is published, and what was seen of it."""

    towers: Towers
    curve: list[dict[str, Any]]
    health: Health
    vectors: Tensor


def _final_fit(
    dataset: Dataset,
    rows: QueryRows,
    choice: Choice,
    config: TrainConfig,
    left_s: float,
    progress: Progress,
    checkpoint: Checkpoint | None,
    teacher: Teacher | None,
) -> _Fitted:
    curve: list[dict[str, Any]] = []
    if checkpoint is not None and checkpoint.plan is not None:
        curve = checkpoint.plan.setdefault("curve", curve)
    watch = Health(choice.epochs)
    with progress.stage("fit", total=choice.epochs) as stage:

        def after(epoch: Epoch, towers: Towers) -> bool:
            watch.epoch(epoch.number, towers, last=epoch.last)
            stage.advance(1, f"loss {epoch.loss:.3f}")
            curve.append(
                {
                    "run": 0,
                    "epoch": epoch.number,
                    "seconds": round(epoch.seconds, 4),
                    "train_loss": epoch.loss,
                }
            )
            return False

        start = first_rows(rows, config.dim, config.seed)
        towers = fit(
            dataset,
            rows,
            choice.settings,
            choice.epochs,
            config.seed,
            start,
            after,
            limit_s=left_s,
            observe=watch.observe,
            checkpoint=checkpoint,
            teacher=teacher,
        )
    logger.info("fitted %d epochs", len(curve))
    return _Fitted(towers, curve, watch, sample_vectors(towers, rows))


def _health(fitted: _Fitted) -> dict[str, Any]:
    return {
        "gradients": fitted.health.gradients,
        "embeddings": fitted.health.embeddings,
        "vectors": embedding_health(fitted.vectors),
    }


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
