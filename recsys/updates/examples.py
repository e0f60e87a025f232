"""What an update learns from: the news as examples, with the histories they ask by."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recsys.errors import TrainingError
from recsys.updates import frozen
from recsys.updates.histories import find_own, padded
from recsys.updates.learner import Examples, Lists
from recsys.updates.objective import Float32, unit
from recsys.updates.problem import Problem, some

_PROBES = 64


def examples(problem: Problem, chosen: NDArray[np.bool_], weight: Float32) -> Examples:
    """Return some of the news as what to learn from.

    Args:
        problem: The problem.
        chosen: Marks the news, shape (n,).
        weight: Weight of each of the news, shape (n,).
    """
    most = problem.version.config.train.history
    history = problem.events.taste(math.inf, most)
    moving_of = np.full(len(problem.catalogue.bias), -1)
    moving_of[problem.moving.item] = np.arange(len(problem.moving.item))
    place = problem.place
    at = np.flatnonzero(chosen & (weight > 0) & (place >= 0))
    at = at[moving_of[place[at]] >= 0]
    user, row = problem.user[at], problem.events.row[place[at]]
    fixed = _fixed_queries(problem, history)
    return Examples(
        list_of=problem.askers,
        history=history,
        past=problem.past,
        past_moving=problem.past_moving,
        seen=problem.events.seen(math.inf),
        rest=problem.rest,
        empty=problem.empty,
        fixed=fixed,
        asker=problem.asker[at],
        target=moving_of[place[at]],
        own=find_own(history, user, row),
        weight=weight[at].astype(np.float32),
    )


def _fixed_queries(problem: Problem, history: Lists) -> Float32 | None:
    """Return the tower's own queries where it does not take the mean of the history."""
    few = np.arange(len(problem.askers))[:_PROBES]
    rows, weight = padded(history, problem.past, problem.askers[few])
    total = weight.sum(1, keepdims=True)
    mean = (rows * weight[:, :, None]).sum(1) / np.maximum(total, 1e-12)
    mean = np.where(total > 0, mean, problem.empty)
    expected = unit(mean + problem.rest[few])[0]
    columns = some(problem.columns, few)
    if frozen.takes_the_mean(problem.tower, expected, rows, weight, *columns):
        return None
    out = np.empty_like(problem.rest)
    for first in range(0, len(out), 256):
        part = np.arange(first, min(first + 256, len(out)))
        rows, weight = padded(history, problem.past, problem.askers[part])
        query = problem.tower.encode(rows, weight, *some(problem.columns, part))
        if query.ndim > 2:
            raise TrainingError(
                "this version asks by several query vectors at once",
                hint="Incremental updates cannot follow it: use full updates.",
            )
        out[part] = query[:, : out.shape[1]]
    return out
