"""Learning from the news, guarded: the newest part of them judges what was learned."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.updates import learner
from recsys.updates.examples import examples
from recsys.updates.id_rows import NewRows
from recsys.updates.learner import Catalogue, Moving, Pace
from recsys.updates.objective import unit
from recsys.updates.problem import Problem, columns_of_users
from recsys.updates.reading import News
from recsys.updates.settings import UpdateConfig
from recsys.updates.validation import Examiner, Quality, paired_difference

logger = logging.getLogger(__name__)

_OLDER = 0.8
"""Share of the news that rows learn from before the rest judges them."""
_STEPS = (1.0, 0.3)
"""Shares of the step that the older part is learned with; the newest part chooses."""
_FEWEST = 10
"""Users without whom the newest part judges nothing."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """Rows that learned from the older part of the news, and what they reach."""

    pace: Pace
    moving: Moving
    quality: Quality


def learn(
    problem: Problem, news: News, config: UpdateConfig, tau: float
) -> tuple[dict[str, Any], NewRows, str | None]:
    """Examine the rows as they are, learn, and compare.

    Args:
        problem: What there is to learn.
        news: What it was read for.
        config: How.
        tau: Temperature of the softmax.

    Returns:
        Metrics, the new rows, and why not to publish them.
    """
    pace = Pace(tau, config.lr, config.passes, config.negatives)
    served = masked(problem)
    every = np.ones(len(news), np.bool_)
    metrics: dict[str, Any] = {}
    metrics |= examine(problem, news, every, float(news.time.min()), served).means()
    older, cut = _older(news)
    before = examine(problem, news, ~older, cut, served)
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
    moving = learned(problem, news, ~older, best.moving, best.pace)
    if not (np.isfinite(moving.served).all() and np.isfinite(moving.history).all()):
        reason = "the rows are not finite: lower update.lr"
    return metrics, NewRows(problem.ids, moving.served, moving.history), reason


def _try(
    problem: Problem, news: News, older: NDArray[np.bool_], cut: float, pace: Pace
) -> _Trial:
    """Learn from the older part, and rank the newer one."""
    moving = learned(problem, news, older, problem.moving, pace)
    catalogue = _with(problem, moving)
    found = examine(problem, news, ~older, cut, catalogue, moving)
    return _Trial(pace, moving, found)


def _older(news: News) -> tuple[NDArray[np.bool_], float]:
    """Mark the older part of the news, and say when the newer one begins."""
    cut = float(np.quantile(news.time, _OLDER, method="lower"))
    older = news.time < cut
    return (older, cut) if older.any() else (np.ones(len(news), np.bool_), math.inf)


def learned(
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
    served, history, losses = learner.learn(today, moving, given, pace)
    logger.info("losses %s", [round(loss, 4) for loss in losses])
    return replace(moving, served=served, history=history)


def masked(problem: Problem) -> Catalogue:
    """Return the items as they are searched now: without those that have no vector."""
    bias = np.where(problem.listed, problem.catalogue.bias, -np.inf)
    return Catalogue(problem.catalogue.vectors, bias.astype(np.float32))


def _with(problem: Problem, moving: Moving) -> Catalogue:
    vectors = problem.catalogue.vectors.copy()
    vectors[moving.item] = unit(moving.served + moving.served_rest)[0]
    return Catalogue(vectors, problem.catalogue.bias)


def examine(
    problem: Problem,
    news: News,
    chosen: NDArray[np.bool_],
    before: float,
    catalogue: Catalogue,
    moving: Moving | None = None,
) -> Quality:
    """Return how good rows are on some of the news.

    Args:
        problem: The problem.
        news: All of them.
        chosen: Marks those that are hits, where their kind is one, shape (n,).
        before: Histories end here, in seconds since 1970.
        catalogue: The items as they are searched.
        moving: Rows to examine instead of those of the problem.
    """
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
