"""The fit that is published, and what is seen of it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from recsys._wording import counted
from recsys.config import TrainConfig
from recsys.progress import Progress, Stage
from recsys.training.checkpoint import Checkpoint
from recsys.training.choice import Choice
from recsys.training.dataset import Dataset
from recsys.training.evaluation import sample_vectors
from recsys.training.fit_health import Health, embedding_health
from recsys.training.loop import Epoch, fit
from recsys.training.model import Towers
from recsys.training.rows import QueryRows
from recsys.training.svd import first_rows
from recsys.training.teacher import Teacher

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fit on all the data.

    Attributes:
        towers: What has learned.
        curve: One row per epoch.
        health: How it felt, JSON-serialisable.
    """

    towers: Towers
    curve: list[dict[str, Any]]
    health: dict[str, Any]


def final_fit(
    dataset: Dataset,
    rows: QueryRows,
    choice: Choice,
    config: TrainConfig,
    *,
    limit_s: float = math.inf,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    teacher: Teacher | None = None,
) -> Fitted:
    """Fit with the chosen settings.

    Args:
        dataset: All the data.
        rows: What is learned from.
        choice: Settings and epochs.
        config: Seed, and the length of vectors.
        limit_s: Seconds after which the fit ends.
        progress: Receives one unit per epoch.
        checkpoint: Keeps the fit and its curve; what it holds is gone on with.
        teacher: Whom to learn from besides.
    """
    curve: list[dict[str, Any]] = []
    if checkpoint is not None and checkpoint.plan is not None:
        curve = checkpoint.plan.setdefault("curve", curve)
    watch = Health(choice.epochs)
    with progress.stage("fit", total=choice.epochs) as stage:
        towers = fit(
            dataset,
            rows,
            choice.settings,
            choice.epochs,
            config.seed,
            first_rows(rows, config.dim, config.seed),
            _Told(watch, stage, curve),
            limit_s=limit_s,
            observe=watch.observe,
            checkpoint=checkpoint,
            teacher=teacher,
        )
    logger.info("fitted %s", counted(len(curve), "epoch"))
    return Fitted(towers, curve, _health(watch, sample_vectors(towers, rows)))


@dataclass(frozen=True, slots=True)
class _Told:
    """Hears of each epoch, and tells whoever keeps it."""

    watch: Health
    stage: Stage
    curve: list[dict[str, Any]]

    def __call__(self, epoch: Epoch, towers: Towers) -> bool:
        self.watch.epoch(epoch.number, towers, last=epoch.last)
        self.stage.advance(1, f"loss {epoch.loss:.3f}")
        self.curve.append(
            {
                "run": 0,
                "epoch": epoch.number,
                "seconds": round(epoch.seconds, 4),
                "train_loss": epoch.loss,
            }
        )
        return False


def _health(watch: Health, vectors: Tensor) -> dict[str, Any]:
    return {
        "gradients": watch.gradients,
        "embeddings": watch.embeddings,
        "vectors": embedding_health(vectors),
    }
