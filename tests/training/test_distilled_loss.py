"""The divergence from a teacher, and its gradient by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_ranking_loss import make_batch
from torch import Tensor
from torch.nn import functional as F

from recsys.training.matryoshka import shortened
from recsys.training.objectives.batch import LossBatch, Taught
from recsys.training.objectives.distilled import distilled

TAU, THEIR_TAU = 0.2, 0.1
UNKNOWN = (2, 5)


def taught(*, knows: tuple[float, ...] = (1, 1, 1), dim: int = 12) -> Taught:
    generator = torch.Generator().manual_seed(4)
    query = F.normalize(torch.randn(3, dim, generator=generator), dim=1)
    places = torch.tensor([6, 0, 4, 1, 3])
    vectors = torch.randn(len(places), dim, generator=generator)
    return Taught(
        query=query,
        places=places,
        vectors=F.normalize(vectors, dim=1),
        knows=torch.tensor(knows, dtype=torch.float32),
        tau=THEIR_TAU,
        weight=1.0,
    )


def step(*, corrected: bool = False) -> tuple[Tensor, Tensor, LossBatch]:
    query, rows, batch = make_batch(weighted=True)
    generator = torch.Generator().manual_seed(5)
    correction = torch.randn(7, generator=generator) if corrected else None
    return query, rows, replace(batch, taught=taught(), correction=correction)


def formula(query: Tensor, rows: Tensor, batch: LossBatch) -> Tensor:
    """The loss as its module states it, one query at a time."""
    teacher = batch.taught
    assert teacher is not None
    seen = set(zip(batch.seen_query.tolist(), batch.seen_place.tolist(), strict=True))
    total = torch.zeros(())
    for user in range(len(query)):
        places = [j for j in range(7) if (user, j) not in seen and j not in UNKNOWN]
        items = batch.negatives[places]
        extra = batch.bias[items]
        if batch.correction is not None:
            extra = extra + batch.correction[places]
        unit = rows[items] / rows[items].norm(dim=1, keepdim=True)
        mine = torch.log_softmax(unit @ query[user] / TAU + extra, 0)
        at = [teacher.places.tolist().index(j) for j in places]
        score = teacher.vectors[at] @ teacher.query[user] / THEIR_TAU
        theirs = torch.softmax(score + extra, 0)
        mass = batch.weight[batch.owner == user].sum() * teacher.knows[user]
        total = total + mass * (theirs * (theirs.log() - mine)).sum()
    return total / batch.weight.sum()


@pytest.mark.parametrize("corrected", [False, True])
def test_gradient_by_hand_is_that_of_the_formula(corrected: bool) -> None:
    query, rows, batch = step(corrected=corrected)
    ours = [query.clone().requires_grad_(), rows.clone().requires_grad_()]
    theirs = [query.clone().requires_grad_(), rows.clone().requires_grad_()]

    loss = distilled(*ours, batch, TAU)
    (3 * loss).backward()
    expected = formula(*theirs, batch)
    (3 * expected).backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_bfloat16_changes_the_gradient_by_its_rounding_only() -> None:
    query, rows, batch = step()
    grads: list[Tensor] = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = rows.clone().requires_grad_()
        distilled(query, leaf, replace(batch, products=dtype), TAU).backward()
        assert leaf.grad is not None
        grads.append(leaf.grad)

    assert (grads[0] - grads[1]).norm() < 0.02 * grads[0].norm()


def test_what_the_teacher_does_not_know_is_left_alone() -> None:
    query, rows, batch = step()
    batch = replace(batch, taught=taught(knows=(1, 0, 1)))
    leaves = [query.clone().requires_grad_(), rows.clone().requires_grad_()]

    distilled(*leaves, batch, TAU).backward()

    of_query, of_rows = (leaf.grad for leaf in leaves)
    assert of_query is not None
    assert of_rows is not None
    assert of_query[1].abs().sum() == 0
    assert of_query[[0, 2]].abs().sum(1).min() > 0
    assert of_rows[batch.negatives[list(UNKNOWN)]].abs().sum() == 0
    assert of_rows[batch.negatives[[0, 1, 3, 4, 6]]].abs().sum(1).min() > 0


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    query, rows, batch = step()
    told = taught()
    vectors = F.normalize(rows[batch.negatives[told.places]], dim=1)
    same = replace(told, query=query, vectors=vectors, tau=TAU)
    leaf = query.clone().requires_grad_()

    loss = distilled(leaf, rows, replace(batch, taught=same), TAU)
    loss.backward()

    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert leaf.grad is not None
    assert leaf.grad.abs().max() < 1e-6


def test_a_user_who_has_met_the_whole_sample_gives_no_nan() -> None:
    query, rows, batch = step()
    everything = replace(
        batch,
        seen_query=torch.arange(3).repeat_interleave(7),
        seen_place=torch.arange(7).repeat(3),
    )
    leaf = query.clone().requires_grad_()

    loss = distilled(leaf, rows, everything, TAU)
    loss.backward()

    assert loss.item() == 0
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() == 0


def test_a_teacher_that_knows_nothing_of_the_sample_is_silent() -> None:
    query, rows, batch = step()
    nothing = replace(
        taught(), places=torch.tensor([], dtype=torch.int64), vectors=torch.zeros(0, 12)
    )
    leaf = query.clone().requires_grad_()

    loss = distilled(leaf, rows, replace(batch, taught=nothing), TAU)
    loss.backward()

    assert loss.item() == 0
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() == 0


def test_a_prefix_learns_by_its_own_scores() -> None:
    query, rows, batch = step()
    short_query, short_rows = shortened(query, rows, 4)

    loss = distilled(short_query, short_rows, batch, TAU)

    cut = F.normalize(rows, dim=1)[:, :4]
    filled = torch.cat([cut, (1 - cut.square().sum(1, keepdim=True)).sqrt()], 1)
    wanted = formula(F.pad(query[:, :4], (0, 1)), filled, batch)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
