"""The incremental step: rows of some items move, everything else stands still.

A query is made as the default query tower makes it: the weighted mean of the history
rows, plus what user and context add, of length 1. Each new interaction is predicted
once per pass, from everything else that its user has met. What moves are the served
and the history-side rows of the items that the new interactions name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.updates.objective import (
    Float32,
    Places,
    Sample,
    ranking_gradient,
    through_unit,
    unit,
)

_TARGETS_PER_STEP = 512
_BETA1, _BETA2 = np.float32(0.9), np.float32(0.999)


@dataclass(frozen=True, slots=True)
class Lists:
    """N lists of places, one after the other.

    Attributes:
        start: Where each list starts and the last one ends, shape (N + 1,).
        place: The entries, shape (n,).
        weight: Weight of each entry, shape (n,), float32.
    """

    start: Places
    place: Places
    weight: Float32

    def take(self, lists: Places) -> tuple[Places, Places]:
        """Return the entries of some lists: which list (0, 1, ...), and where."""
        first = self.start[lists]
        counts = self.start[lists + 1] - first
        owner = np.repeat(np.arange(len(lists)), counts)
        begin = np.cumsum(counts) - counts
        return owner, np.arange(len(owner)) + (first - begin)[owner]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every item of the version, as it is searched.

    Attributes:
        vectors: Unit item vectors, shape (N, d), float16.
        bias: Popularity dimension, shape (N,), float32.
    """

    vectors: NDArray[np.float16]
    bias: Float32


@dataclass(frozen=True, slots=True)
class Moving:
    """The rows that may move.

    Attributes:
        item: Place in the catalogue of each, shape (U,).
        served: Served ID rows, shape (U, d).
        history: History-side ID rows, shape (U, d).
        served_rest: What the tower adds before it normalises, shape (U, d).
        history_rest: What the tower adds on the history side, shape (U, d).
    """

    item: Places
    served: Float32
    history: Float32
    served_rest: Float32
    history_rest: Float32


@dataclass(frozen=True, slots=True)
class Examples:
    """What to learn.

    Attributes:
        list_of: Which of the lists each of B askers has: a user in a context,
            shape (B,).
        history: Items a user's query is made of, as rows of ``past``.
        past: History-side rows as they are, shape (M, d).
        past_moving: Which row of ``Moving`` each is; -1: it stands still, shape (M,).
        seen: Items a user has met, as places in the catalogue.
        rest: What user and context add to the query, shape (B, d).
        empty: Query of who has no history, before ``rest``, shape (d,).
        fixed: Unit queries where the query tower does not take the mean, shape (B, d);
            then history-side rows stand still. None where it does.
        asker: Asker of each new interaction, shape (t,).
        target: Its item, as a row of ``Moving``, shape (t,).
        own: Its entry in ``history``, -1: none, shape (t,).
        weight: Its weight, shape (t,), float32.
    """

    list_of: Places
    history: Lists
    past: Float32
    past_moving: Places
    seen: Lists
    rest: Float32
    empty: Float32
    fixed: Float32 | None
    asker: Places
    target: Places
    own: Places
    weight: Float32


@dataclass(frozen=True, slots=True)
class Pace:
    """How the rows move.

    Attributes:
        tau: Temperature.
        lr: Step in units of a row's typical component.
        passes: Times each interaction is learned from.
        negatives: Items sampled per step.
        seed: Every random choice follows from it.
    """

    tau: float
    lr: float = 0.03
    passes: int = 5
    negatives: int = 2048
    seed: int = 0


def learn(
    catalogue: Catalogue, moving: Moving, examples: Examples, pace: Pace
) -> tuple[Float32, Float32, list[float]]:
    """Move the rows.

    Returns:
        Served and history-side ID rows, each of shape (U, d), and the mean loss of
        every pass.
    """
    return _Learner(catalogue, moving, examples, pace).run()


class _Learner:
    def __init__(
        self, catalogue: Catalogue, moving: Moving, examples: Examples, pace: Pace
    ) -> None:
        self.catalogue, self.moving = catalogue, moving
        self.examples, self.pace = examples, pace
        self.rng = np.random.default_rng(pace.seed)
        self.served = moving.served + moving.served_rest
        self.history = moving.history + moving.history_rest
        self.place = np.full(len(catalogue.bias), -1)
        self.moving_of = np.full(len(catalogue.bias), -1)
        self.moving_of[moving.item] = np.arange(len(moving.item))
        dim = self.served.shape[1]
        self.adam_served = _Adam(self.served, pace.lr * _component(self.served))
        self.adam_history = _Adam(self.history, pace.lr * _component(self.history))
        self.dim = dim

    def run(self) -> tuple[Float32, Float32, list[float]]:
        losses: list[float] = []
        total = max(float(self.examples.weight.sum()), 1e-12)
        for _ in range(self.pace.passes):
            order = self._order()
            loss = 0.0
            for first in range(0, len(order), _TARGETS_PER_STEP):
                loss += self._step(order[first : first + _TARGETS_PER_STEP])
            losses.append(loss / total)
        return (
            self.served - self.moving.served_rest,
            self.history - self.moving.history_rest,
            losses,
        )

    def _order(self) -> Places:
        """Shuffle the askers, and keep the interactions of each together."""
        asker = self.examples.asker
        rank = self.rng.permutation(int(asker.max(initial=-1)) + 1)
        return np.argsort(rank[asker], kind="stable")

    def _step(self, chosen: Places) -> float:
        examples, pace = self.examples, self.pace
        askers, asker = np.unique(examples.asker[chosen], return_inverse=True)
        asker = asker.reshape(-1)
        queries = None
        if examples.fixed is None:
            queries = _Queries(self, askers, asker, chosen)
            query = queries.unit
        else:
            query = examples.fixed[askers[asker]]
        target = examples.target[chosen]
        vectors, length = unit(self.served[target])
        places, moved = self._negatives()
        rows = self.catalogue.vectors[places].astype(np.float32)
        sampled, sampled_length = unit(self.served[moved[moved >= 0]])
        rows[moved >= 0] = sampled
        bias = self.catalogue.bias[places]
        share = math.log(len(self.catalogue.bias) / len(places))
        found = ranking_gradient(
            query,
            vectors,
            self.catalogue.bias[self.moving.item[target]],
            examples.weight[chosen],
            Sample(rows, bias, share),
            self._met(examples.list_of[askers[asker]], places),
            pace.tau,
        )
        of_sample = through_unit(found.sample[moved >= 0], sampled, sampled_length)
        of_target = through_unit(found.chosen, vectors, length)
        self.adam_served.step(
            np.concatenate([moved[moved >= 0], target]),
            np.concatenate([of_sample, of_target]),
        )
        if queries is not None:
            self.adam_history.step(*queries.back(found.query))
        return found.loss

    def _negatives(self) -> tuple[Places, Places]:
        count = len(self.catalogue.bias)
        places = np.arange(count)
        if count > self.pace.negatives:
            drawn = self.rng.integers(count, size=self.pace.negatives)
            places = np.unique(drawn)
        return places, self.moving_of[places]

    def _met(self, lists: Places, places: Places) -> tuple[Places, Places]:
        """Return the (query, sample) pairs that are no negatives."""
        seen = self.examples.seen
        self.place[places] = np.arange(len(places))
        owner, entry = seen.take(lists)
        at = self.place[seen.place[entry]]
        self.place[places] = -1
        return owner[at >= 0], at[at >= 0]


class _Queries:
    """Queries of some interactions: the mean history of the user without the item."""

    def __init__(
        self, learner: _Learner, askers: Places, asker: Places, chosen: Places
    ) -> None:
        examples = learner.examples
        self.owner, entry = examples.history.take(examples.list_of[askers])
        past = examples.history.place[entry]
        self.moving = examples.past_moving[past]
        rows = examples.past[past]
        moves = self.moving >= 0
        rows[moves] = learner.history[self.moving[moves]]
        self.weight = examples.history.weight[entry]
        total = np.zeros((len(askers), learner.dim), np.float32)
        _add_groups(total, self.owner, rows * self.weight[:, None])
        mass = np.bincount(self.owner, self.weight, len(askers)).astype(np.float32)
        own = examples.own[chosen]
        self.own = np.where(own >= 0, examples.history.place[own], -1)
        own_weight = np.where(own >= 0, examples.history.weight[own], 0)
        own_weight = own_weight.astype(np.float32)
        self.own_moving = np.where(own >= 0, examples.past_moving[self.own], -1)
        own_rows = examples.past[self.own]
        moves = self.own_moving >= 0
        own_rows[moves] = learner.history[self.own_moving[moves]]
        left = mass[asker] - own_weight
        known = left > 1e-6 * mass[asker]
        self.share = np.where(known, 1 / np.maximum(left, 1e-12), 0)
        self.share = self.share.astype(np.float32)
        self.own_share = self.share * own_weight
        mean = total[asker] * self.share[:, None] - own_rows * self.own_share[:, None]
        mean = np.where(known[:, None], mean, examples.empty)
        self.unit, self.length = unit(mean + examples.rest[askers[asker]])
        self.asker, self.askers = asker, len(askers)

    def back(self, gradient: Float32) -> tuple[Places, Float32]:
        """Return which history-side rows move, and the gradient of each."""
        by_mean = through_unit(gradient, self.unit, self.length)
        by_asker = np.zeros((self.askers, gradient.shape[1]), np.float32)
        order = np.argsort(self.asker, kind="stable")
        shared = (by_mean * self.share[:, None])[order]
        _add_groups(by_asker, self.asker[order], shared)
        moves = self.moving >= 0
        entries = by_asker[self.owner[moves]] * self.weight[moves][:, None]
        own = self.own_moving >= 0
        away = -by_mean[own] * self.own_share[own][:, None]
        return (
            np.concatenate([self.moving[moves], self.own_moving[own]]),
            np.concatenate([entries, away]),
        )


class _Adam:
    """Adam over rows; the moments of a row advance only when it has a gradient."""

    def __init__(self, rows: Float32, lr: float) -> None:
        self.rows, self.lr = rows, np.float32(lr)
        self.mean = np.zeros_like(rows)
        self.square = np.zeros_like(rows)
        self.steps = np.zeros(len(rows), np.int64)

    def step(self, place: Places, gradient: Float32) -> None:
        """Move the rows at ``place``, which may repeat, against their gradient."""
        if not len(place):
            return
        order = np.argsort(place, kind="stable")
        at, first = np.unique(place[order], return_index=True)
        total = np.add.reduceat(gradient[order], first, axis=0)
        self.steps[at] += 1
        age = self.steps[at][:, None].astype(np.float32)
        self.mean[at] = _BETA1 * self.mean[at] + (1 - _BETA1) * total
        self.square[at] = _BETA2 * self.square[at] + (1 - _BETA2) * total * total
        mean = self.mean[at] / (1 - _BETA1**age)
        square = self.square[at] / (1 - _BETA2**age)
        self.rows[at] -= self.lr * mean / (np.sqrt(square) + np.float32(1e-8))


def _add_groups(out: Float32, owner: Places, rows: Float32) -> None:
    """Add rows to ``out`` by owner; owners ascend."""
    if len(owner):
        at, first = np.unique(owner, return_index=True)
        out[at] += np.add.reduceat(rows, first, axis=0)


def _component(rows: Float32) -> float:
    """Return the typical size of one component of a row."""
    if not rows.size:
        return 0.0
    lengths = np.sqrt(np.square(rows).sum(1))
    known = lengths[lengths > 0]
    return float(np.median(known)) / math.sqrt(rows.shape[1]) if known.size else 0.1
