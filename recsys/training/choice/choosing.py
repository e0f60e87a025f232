"""The choice: cut the data, search, and say what the slice says of the best fit."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from recsys._query_config import QueryConfig
from recsys.config import ModelConfig, TrainConfig
from recsys.progress import Progress
from recsys.training.choice.clock import Clock
from recsys.training.choice.fits import Fits, Run
from recsys.training.choice.length import may_be_longer
from recsys.training.choice.result import Choice
from recsys.training.choice.search import DEFAULT_EPOCHS, Search
from recsys.training.choice.slice import Slice
from recsys.training.choice.tried import first_settings
from recsys.training.dataset import Dataset
from recsys.training.encoders import first_query, sequential
from recsys.training.rerank import Reranking
from recsys.training.trend import grid
from recsys.training.validated import validated

logger = logging.getLogger(__name__)

USED = 0.95
"""Share of the budget after which the export begins."""
_SHARE = 0.4
# Without times there is no trend to choose, and the fit makes more of the time.
_SHARE_WITHOUT_TIMES = 0.2


def choose(
    dataset: Dataset,
    model: ModelConfig,
    progress: Progress,
    *,
    spent_s: float = 0.0,
) -> Choice:
    """Choose the settings of the final fit.

    Args:
        dataset: All the data.
        model: What is fixed, and the budget.
        progress: Receives one unit per epoch.
        spent_s: Seconds of the budget that are gone already.
    """
    started = time.perf_counter()
    config, query = model.train, _query(model)
    if not may_be_longer(dataset, model):
        config = replace(config, dim=config.first_dim)
    settings = replace(first_settings(model), query=first_query(query, dataset))
    part = Slice.of(dataset, config)
    if part is None:
        logger.warning("no user can be validated on; default settings are used")
        trend = grid(settings.tau, settings.beta, timed=dataset.until is not None)[-1]
        epochs = config.epochs or DEFAULT_EPOCHS
        again = Reranking(max(0.0, query.rerank))
        return Choice(settings, trend, epochs, rerank=again)
    share = _SHARE_WITHOUT_TIMES if dataset.until is None else _SHARE
    deadline = started + share * config.budget_s
    clock = Clock(config, deadline, started + USED * config.budget_s - spent_s)
    others = sequential(query, dataset, settings.dim) if part.cut.by_time else []
    with progress.stage("choose settings") as stage:
        fits = Fits(part, config, clock, stage.advance)
        best = Search(fits, clock, config).best(settings, others)
        choice = _choice(part, fits, best, config)
        stage.advance(0, _said(choice, config))
    logger.info("chose %s, %s, %d epochs", best.settings, choice.trend, choice.epochs)
    return choice


def _said(choice: Choice, config: TrainConfig) -> str:
    """Return what was chosen, in a few words."""
    settings = choice.settings
    length = "" if config.dim else f" dim {settings.dim}"
    again = f" rerank {choice.rerank.temperature:g}" if choice.rerank.scores else ""
    return f"tau {settings.tau:g} dropout {settings.dropout:g}{length}{again}"


def _query(model: ModelConfig) -> QueryConfig:
    query = model.query
    meant = bool(model.update.every_s or model.train.int8 or query.rerank > 0)
    if query.encoder == "auto" and meant:
        # Only the rows of a mean can be updated or ranked by, and its tower has nothing
        # to shrink.
        return replace(query, encoder="mean")
    return query


def _choice(part: Slice, fits: Fits, run: Run, config: TrainConfig) -> Choice:
    best = run.best
    told = validated(
        part.dataset,
        part.rows,
        part.cut,
        part.judge,
        best.lists,
        {"model": best.metrics},
    )
    return Choice(
        settings=run.settings,
        trend=best.trend,
        lean=best.lean,
        rerank=best.rerank,
        epochs=_epochs(run, config),
        validation={**told.metrics, "days": len(part.ahead)},
        curves=fits.curves,
        cold=best.cold,
        segments=told.segments,
        samples=told.samples,
        run=run.number,
    )


def _epochs(best: Run, config: TrainConfig) -> int:
    if config.epochs:
        return config.epochs
    # Where time ended the fit before it overfitted, time also bounds the final one.
    return best.best.epoch if best.overfitted else config.max_epochs
