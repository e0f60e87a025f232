"""The whole full update: choose the step, learn once, publish."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys._parent import Parent, nothing_new
from recsys._wording import counted
from recsys.config import ModelConfig
from recsys.popularity import DAY_S
from recsys.progress import SILENT, Progress
from recsys.training import health
from recsys.training.dataset import Dataset
from recsys.training.finish import Finish, finish
from recsys.training.full.basis import Basis
from recsys.training.full.lesson import learn
from recsys.training.full.start import start_of
from recsys.training.full.step import SHARES, choose_step
from recsys.training.laps import Laps
from recsys.training.mined import mined
from recsys.training.rows import QueryRows
from recsys.training.trained import TrainedModel

logger = logging.getLogger(__name__)

# Fewer new interactions than this, or than this share of all, are hardly worth it.
_FEW = 100
_FEW_OF_ALL = 0.001


def train_full(
    dataset: Dataset,
    config: ModelConfig,
    parent: Parent,
    *,
    progress: Progress | None = None,
) -> TrainedModel:
    """Go on from a parent with the interactions since its end.

    Args:
        dataset: Everything, as for a training from the start: histories, what users
            have met and popularity need it.
        config: The model's configuration.
        parent: The version to go on from.
        progress: Receives the stages; None is silence.

    Raises:
        TrainingError: Nothing came since, ``train.dim`` has changed, or queries are no
            means of histories.
    """
    laps = Laps()
    progress = progress or SILENT
    basis = Basis.of(dataset, config, parent)
    config = basis.config
    health.check_size(dataset, config.train.dim)
    new = _new(dataset, parent)
    kept = _kept(dataset, config.update.evict_days)
    rows = basis.rows(kept, dataset.until)
    warnings = health.warn(dataset, rows)
    own = mined(rows, config)
    with progress.stage("choose the step", total=len(SHARES)) as stage:
        rerank = _rerank(basis)
        step = choose_step(basis, kept & new, kept & ~new, stage.advance, rerank)
    laps.end("choose")
    start = start_of(basis, rows)
    with progress.stage("fit", total=1) as stage:
        lesson = learn(basis, rows, kept & new, step.share, start)
        stage.advance()
    laps.end("fit")
    lean = float(parent.settings.get("lean", 0.0))
    how = Finish(basis.settings, step.trend, lean, rerank, parent.level)
    model = finish(dataset, rows, lesson.towers, config, how)
    laps.end("export")
    model.report.update(
        # With the whole step: the next update tries shares of it again.
        settings=how.said(1),
        validation=step.validation,
        segments=step.segments,
        samples=step.samples,
        curves=[{"run": 0, "epoch": 1, "train_loss": lesson.loss}],
        data=_data(dataset, rows, new),
        timing=laps.seconds,
        seed=config.train.seed,
        warnings=warnings,
        mined=own,
        cold={"quantile": parent.level},
        full={
            "parent": parent.number,
            "since": parent.until,
            "step": step.share,
            "tried": step.tried,
            "admitted": start.admitted,
            "evicted": _evicted(basis, rows),
            "fresh": start.fresh,
        },
    )
    return model


def _new(dataset: Dataset, parent: Parent) -> NDArray[np.bool_]:
    """Mark the interactions that the parent was not trained on; few are warned of.

    Raises:
        TrainingError: There are none to learn from.
    """
    new = dataset.time >= parent.until
    count = int((new & (dataset.weight > 0)).sum())
    if not count:
        raise nothing_new(parent)
    wanted = max(_FEW, math.ceil(_FEW_OF_ALL * len(dataset)))
    if count < wanted:
        logger.warning(
            "only %s to learn from came since version %d was trained: hardly worth a"
            " version, and next to nothing to judge it by. Wait for %s, or run recsys"
            " train --incremental, which makes no version.",
            counted(count, "interaction"),
            parent.number,
            f"{wanted:,}",
        )
    return new


def _rerank(basis: Basis) -> float:
    """Return the temperature of re-ranking: as configured, or that of the parent."""
    query = basis.config.query
    if not query.single:
        return 0.0
    return query.rerank if query.rerank >= 0 else max(0.0, basis.parent.query.rerank)


def _kept(dataset: Dataset, evict_days: float) -> NDArray[np.bool_]:
    """Mark the interactions with items that keep, or get, a learned row."""
    if not evict_days or dataset.until is None:
        return np.ones(len(dataset), np.bool_)
    latest = np.full(len(dataset.item_ids), -np.inf)
    np.maximum.at(latest, dataset.item, np.nan_to_num(dataset.time, nan=-np.inf))
    return (latest >= dataset.until - evict_days * DAY_S)[dataset.item]


def _evicted(basis: Basis, rows: QueryRows) -> int:
    left = set(basis.ids(rows))
    return sum(item not in left for item in basis.parent.item_ids)


def _data(dataset: Dataset, rows: QueryRows, new: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "users": len(dataset.user_ids),
        "items": len(dataset.item_ids),
        "trained_items": len(rows.items),
        "interactions": len(dataset),
        "new_interactions": int(new.sum()),
        "dropped": dataset.dropped,
        "until": dataset.until,
    }
