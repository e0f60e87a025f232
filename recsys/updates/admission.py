"""First rows of items that a version has not learned."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from recsys.updates.objective import Float32, unit
from recsys.updates.problem import Problem

_SMALL = 1e-3
"""A rest shorter than this says nothing about an item."""


def admit(problem: Problem) -> Problem:
    """Give a first row to items that have none and of which the content says nothing.

    It points where those who met it look, at the usual length.
    """
    moving = problem.moving
    rest = np.sqrt(np.square(moving.served_rest).sum(1))
    new = np.flatnonzero(~problem.known & (rest < _SMALL))
    if not len(new):
        return problem
    history = problem.events.taste(math.inf, problem.version.config.train.history)
    owner, entry = history.take(np.arange(problem.events.users))
    row, weight = history.place[entry], history.weight[entry]
    fresh = np.zeros(len(problem.past), np.bool_)
    fresh[problem.events.row[moving.item[new]]] = True
    weight = np.where(fresh[row], 0, weight)  # nothing is known of these rows
    mean = np.zeros((problem.events.users, moving.served.shape[1]), np.float32)
    np.add.at(mean, owner, problem.past[row] * weight[:, None])
    none = np.bincount(owner, weight, len(mean)) <= 0
    mean[none] = problem.empty
    taste = unit(mean)[0]
    index = np.full(len(problem.catalogue.bias), -1)
    index[moving.item[new]] = np.arange(len(new))
    direction = np.zeros((len(new), taste.shape[1]), np.float32)
    at = np.flatnonzero(problem.place >= 0)
    at = at[index[problem.place[at]] >= 0]
    np.add.at(direction, index[problem.place[at]], taste[problem.user[at]])
    direction = unit(direction)[0]
    served, past = moving.served.copy(), moving.history.copy()
    served[new] = direction * _usual_length(moving.served[problem.known])
    past[new] = direction * _usual_length(moving.history[problem.known])
    rows = problem.past.copy()
    rows[problem.events.row[moving.item]] = past + moving.history_rest
    return replace(
        problem, moving=replace(moving, served=served, history=past), past=rows
    )


def _usual_length(rows: Float32) -> float:
    if not len(rows):
        return 1.0
    return float(np.median(np.sqrt(np.square(rows).sum(1)))) or 1.0
