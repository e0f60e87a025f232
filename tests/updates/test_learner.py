"""The numpy objective and the step against torch's autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys._tower import QueryTower
from recsys.encoder import FittedSide
from recsys.encoder.towers import query_tower
from recsys.updates import objective
from recsys.updates.histories import PlacedEvents
from recsys.updates.learner import Catalogue, Examples, Lists, Moving, Pace, _Learner
from recsys.updates.validation import Examiner, Quality, highest, paired_difference

TAU = 0.3


def rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("seen", [True, False])
def test_gradient_is_autograds(seen: bool) -> None:
    rng = np.random.default_rng(0)
    query, chosen = (objective.unit(rows(rng, 5, 8))[0] for _ in range(2))
    sample = objective.unit(rows(rng, 20, 8))[0]
    bias, own = rows(rng, 20) * 0.2, rows(rng, 5) * 0.2
    weight = rng.random(5).astype(np.float32) + 0.5
    pairs = (np.array([0, 0, 3]), np.array([4, 7, 0]))
    if not seen:
        pairs = (np.zeros(0, np.int64), np.zeros(0, np.int64))

    found = objective.ranking_gradient(
        query, chosen, own, weight, objective.Sample(sample, bias, 0.7), pairs, TAU
    )

    q, c, s = (torch.tensor(a, requires_grad=True) for a in (query, chosen, sample))
    logits = (q @ s.T + torch.tensor(bias)) / TAU
    hidden = torch.zeros_like(logits)
    hidden[pairs] = -math.inf
    level = torch.logsumexp(logits + hidden, 1) + 0.7
    score = ((q * c).sum(1) + torch.tensor(own)) / TAU
    loss = (F.softplus(level - score) * torch.tensor(weight)).sum()
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    for actual, expected in ((found.query, q), (found.chosen, c), (found.sample, s)):
        np.testing.assert_allclose(actual, expected.grad.numpy(), atol=2e-5)


class Collected:
    """Stands where Adam is, and keeps the gradient."""

    def __init__(self, like: np.ndarray) -> None:
        self.total = np.zeros_like(like)

    def step(self, place: np.ndarray, gradient: np.ndarray) -> None:
        np.add.at(self.total, place, gradient)


def a_problem(rng: np.random.Generator) -> tuple[Catalogue, Moving, Examples]:
    """Six items of which 1, 3 and 4 move; askers 0 and 1 are user 0, asker 2 user 1.

    User 1 has no history but the item itself.
    """
    catalogue = Catalogue(
        objective.unit(rows(rng, 6, 4))[0].astype(np.float16), rows(rng, 6) * 0.1
    )
    moving = Moving(
        np.array([1, 3, 4]), rows(rng, 3, 4), rows(rng, 3, 4),
        rows(rng, 3, 4) * 0.3, rows(rng, 3, 4) * 0.3,
    )  # fmt: skip
    history = Lists(
        np.array([0, 3, 4]),
        np.array([0, 1, 2, 3]),
        np.array([1, 2, 0.5, 1], np.float32),
    )
    past = rows(rng, 4, 4)
    past_moving = np.array([-1, 0, 1, 2])
    for row, place in ((1, 0), (2, 1), (3, 2)):
        past[row] = (moving.history + moving.history_rest)[place]
    seen = Lists(np.array([0, 3, 4]), np.array([0, 1, 3, 4]), np.ones(4, np.float32))
    return (
        catalogue,
        moving,
        Examples(
            list_of=np.array([0, 0, 1]),
            history=history,
            past=past,
            past_moving=past_moving,
            seen=seen,
            rest=rows(rng, 3, 4) * 0.5,
            empty=rows(rng, 4),
            fixed=None,
            asker=np.array([0, 1, 2]),
            target=np.array([0, 1, 2]),
            own=np.array([1, 2, 3]),
            weight=np.array([1, 2, 0.5], np.float32),
        ),
    )


def test_a_step_has_the_gradient_of_its_loss() -> None:
    """Through the mean without the item, user features, both sides, the sample."""
    rng = np.random.default_rng(1)
    catalogue, moving, given = a_problem(rng)
    learner = _Learner(catalogue, moving, given, Pace(TAU))
    served, past = Collected(moving.served), Collected(moving.history)
    learner.adam_served, learner.adam_history = served, past

    loss = learner._step(np.arange(3))

    x = torch.tensor(moving.served + moving.served_rest, requires_grad=True)
    h = torch.tensor(moving.history + moving.history_rest, requires_grad=True)
    items = torch.tensor(catalogue.vectors.astype(np.float32))
    items = items.index_copy(0, torch.tensor(moving.item), F.normalize(x, dim=1))
    bias = torch.tensor(catalogue.bias)
    still = torch.tensor(given.past)[0]
    rest, empty = torch.tensor(given.rest), torch.tensor(given.empty)
    means = [
        (1 * still + 0.5 * h[1]) / 1.5,
        (1 * still + 2 * h[0]) / 3,
        empty,
    ]
    expected = torch.zeros(())
    for n, (mean, own, seen) in enumerate(
        zip(means, (1, 3, 4), ([0, 1, 3], [0, 1, 3], [4]), strict=True)
    ):
        query = F.normalize(mean + rest[n], dim=0)
        logits = (items @ query + bias) / TAU
        free = [i for i in range(6) if i not in seen]
        level = torch.logsumexp(logits[free], 0)
        expected = expected + float(given.weight[n]) * F.softplus(level - logits[own])
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    np.testing.assert_allclose(served.total, x.grad.numpy(), atol=1e-3)
    np.testing.assert_allclose(past.total, h.grad.numpy(), atol=1e-3)


def test_fixed_queries_leave_history_rows_alone() -> None:
    from dataclasses import replace

    rng = np.random.default_rng(2)
    catalogue, moving, given = a_problem(rng)
    fixed = objective.unit(rows(rng, 3, 4))[0]

    learner = _Learner(catalogue, moving, replace(given, fixed=fixed), Pace(TAU))
    served, past, losses = learner.run()

    assert not np.allclose(served, moving.served, atol=1e-3)
    np.testing.assert_allclose(past, moving.history, atol=1e-6)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("counts", "first"), [(0.0, 0), (1.0, 1)])
def test_popularity_counts_as_the_query_says(counts: float, first: int) -> None:
    axes = np.eye(4, dtype=np.float32)
    model = query_tower(
        4,
        FittedSide(),
        FittedSide(),
        {
            "default_query": axes[0],
            "lean.weight": np.zeros(4, np.float32),
            "lean.constant": np.float32(counts - 1).reshape(()),
        },
    )
    nothing = np.zeros(0, np.int64)
    events = PlacedEvents(
        1, nothing, nothing, np.zeros(0), np.zeros(0, np.float32),
        np.arange(2), np.full(2, -1),
    )  # fmt: skip
    examiner = Examiner(events, (np.array([0]), np.array([first])), 1.0, 5)
    # The second item is far from the query, and popular; a third has no vector yet.
    catalogue = Catalogue(
        axes[[0, 1, 0]].astype(np.float16), np.array([0, 3, -np.inf], np.float32)
    )

    found = examiner.examine(
        QueryTower(model, (), (), 4), np.zeros((0, 4), np.float32), catalogue, ({}, {})
    )

    assert found.ndcg.tolist() == [1.0]


@pytest.mark.parametrize("items", [20, 999, 2_050, 5_049])
def test_the_highest_are_those_of_a_sort(items: int) -> None:
    rng = np.random.default_rng(items)
    score = rows(rng, 7, items)
    score[:, ::3] = -np.inf  # met before

    found = highest(score, 20)

    expected = -np.sort(-score, axis=1)[:, :20]
    actual = -np.sort(-np.take_along_axis(score, found, 1), axis=1)
    np.testing.assert_array_equal(actual, expected)


def quality(ndcg: np.ndarray) -> Quality:
    return Quality(ndcg, ndcg, ndcg)


def test_the_luck_of_the_better_step_does_not_help_it_past_the_guard() -> None:
    rng = np.random.default_rng(0)
    found: list[float] = []
    for _ in range(2000):
        before, one, other = rng.random((3, 40))
        trials = [quality(one), quality(other)]
        found.append(paired_difference(quality(before), trials)[0])

    # Without a better step there is nothing to win: .036 is what the better one shows.
    assert np.mean(found) == pytest.approx(0, abs=4 * np.std(found) / np.sqrt(2000))


def test_the_guard_sees_what_the_better_step_changes() -> None:
    before = np.linspace(0, 1, 41)
    better, worse = quality(before + 0.2), quality(before - 0.3)

    for trials in ([better, worse], [worse, better], [better]):
        assert paired_difference(quality(before), trials) == pytest.approx((0.2, 0))
    assert paired_difference(quality(before), [worse]) == pytest.approx((-0.3, 0))
    assert paired_difference(quality(before[:1]), [worse]) == (0.0, math.inf)
