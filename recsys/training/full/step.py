"""The choice of the step, and of the popularity, on the newest part of the news."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recsys.popularity import Trend
from recsys.segments import Metrics
from recsys.training.choice.tried import biases_of, trends_of
from recsys.training.evaluation import Judge
from recsys.training.full.basis import Basis
from recsys.training.full.lesson import learn
from recsys.training.full.start import Start, start_of
from recsys.training.lean import no_lean
from recsys.training.metrics import score_of
from recsys.training.model import Towers
from recsys.training.split import Split, judged
from recsys.training.trend import grid
from recsys.training.validated import validated

logger = logging.getLogger(__name__)

SHARES = (1.0, 0.3, 0.1)
"""Peak learning rates that are tried, as shares of the parent's."""
_NEWEST = 0.2


@dataclass(frozen=True, slots=True)
class ChosenStep:
    """What the newest part of the news chose.

    Attributes:
        share: Of the parent's peak learning rate.
        trend: Popularity dimension.
        validation: Metrics of the model, its parent and both floors.
        tried: Metrics of each share.
        segments: Metrics of parts of the newest part.
        samples: Lists of it to look at.
    """

    share: float
    trend: Trend
    validation: dict[str, Any] = field(default_factory=dict[str, Any])
    tried: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    segments: dict[str, Metrics] = field(default_factory=dict[str, Metrics])
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def choose_step(
    basis: Basis,
    new: NDArray[np.bool_],
    old: NDArray[np.bool_],
    advance: Callable[[int, str], None],
    rerank: float = 0.0,
) -> ChosenStep:
    """Try the steps on the older part of the news, and judge them on the newest.

    Args:
        basis: The parent and the data.
        new: Marks the news, shape (n,).
        old: Marks what the parent was trained on, shape (n,).
        advance: Receives one unit per step.
        rerank: Temperature at which lists are ranked again; 0: they are not.
    """
    older, cut = _cut(basis, new, old)
    settings = basis.settings
    if cut is None:
        logger.warning("no user of the news can be validated on")
        usual = grid(settings.tau, settings.beta, timed=True)[-1]
        return ChosenStep(SHARES[-1], usual)
    rows = basis.rows(cut.train, cut.end)
    trends = trends_of(settings, rows)
    judge = Judge(basis.dataset, rows, cut, basis.config.train.seed)
    biases = biases_of(settings, rows)
    start = start_of(basis, rows)
    trials: list[_Trial] = []
    best: _Trial | None = None
    lists = np.zeros((0, 0), np.int64)
    for share in SHARES:
        towers = learn(basis, rows, older, share, start).towers
        trial = _Trial.of(towers, judge, biases, share, rerank)
        trials.append(trial)
        if best is None or trial.score > best.score:
            best = trial
            lists = _lists(towers, judge, biases[trial.place], rerank)
        advance(1, f"step {share:g}")
    assert best is not None
    told = validated(
        basis.dataset,
        rows,
        cut,
        judge,
        lists,
        {
            "model": best.metrics,
            "parent": _standing(basis, start, judge, biases, rerank),
        },
    )
    return ChosenStep(
        share=best.share,
        trend=trends[best.place],
        validation=told.metrics,
        tried=[{"step": trial.share, **trial.metrics} for trial in trials],
        segments=told.segments,
        samples=told.samples,
    )


def _cut(
    basis: Basis, new: NDArray[np.bool_], old: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], Split | None]:
    """Mark the older part of the news, and hold out the rest, if it judges anything."""
    dataset = basis.dataset
    cut = float(np.quantile(dataset.time[new], 1 - _NEWEST, method="lower"))
    older = new & (dataset.time < cut)
    if not (older & (dataset.weight > 0)).any():
        return older, None
    found = judged(dataset, old | older, cut)
    return older, found if len(found.users) else None


@dataclass(frozen=True, slots=True)
class _Trial:
    """The popularity that is best for one share, and what it reaches as served."""

    share: float
    score: float
    place: int
    metrics: dict[str, float]

    @classmethod
    def of(
        cls, towers: Towers, judge: Judge, biases: Tensor, share: float, rerank: float
    ) -> _Trial:
        every = judge.score(towers, biases)
        _, place = max((score_of(each), i) for i, each in enumerate(every))
        metrics = every[place]
        if rerank:
            metrics = judge.metrics(_lists(towers, judge, biases[place], rerank))
        return cls(share, score_of(metrics), place, metrics)


def _standing(
    basis: Basis, start: Start, judge: Judge, biases: Tensor, rerank: float
) -> dict[str, float]:
    """Return what the parent reaches without learning anything."""
    still = basis.towers(start.weights["served"])
    still.set_weights(start.weights)
    return _Trial.of(still, judge, biases, 0.0, rerank).metrics


def _lists(
    towers: Towers, judge: Judge, bias: Tensor, rerank: float
) -> NDArray[np.int64]:
    """Return lists as they are served, but for the lean, shape (U, K)."""
    if not rerank:
        return judge.rank(towers, bias.unsqueeze(0))[0]
    lean = no_lean(towers.served.detach())
    return judge.rerank(towers, bias, lean, (rerank,))[0]
