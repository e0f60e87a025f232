from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recsys.training.device import resolve
from recsys.training.objectives.batch import LossBatch, log_share
from recsys.training.objectives.ranking import ranking_loss

TAU = 0.2


def make_batch(weighted: bool) -> tuple[torch.Tensor, torch.Tensor, LossBatch]:
    generator = torch.Generator().manual_seed(3)
    query = F.normalize(torch.randn(3, 8, generator=generator), dim=1)
    rows = torch.randn(30, 8, generator=generator)
    positives = torch.tensor([1, 4, 7, 4, 9, 2])
    owner = torch.tensor([0, 0, 0, 1, 1, 2])
    negatives = torch.tensor([4, 2, 20, 21, 9, 28, 15])
    weight = torch.tensor([1.0, 3.0, 0.5, 2.0, 1.0, 4.0])
    batch = LossBatch(
        negatives=negatives,
        positives=positives,
        owner=owner,
        start=torch.tensor([0, 3, 5]),
        weight=weight if weighted else torch.ones(6),
        # Query 0 has met item 4, query 1 items 4 and 9, query 2 item 2.
        seen_query=torch.tensor([0, 1, 1, 2]),
        seen_place=torch.tensor([0, 0, 4, 1]),
        bias=0.3 * torch.randn(30, generator=generator),
        log_share=log_share(30, 7),
    )
    return query, rows, batch


def formula(query: torch.Tensor, rows: torch.Tensor, batch: LossBatch) -> torch.Tensor:
    """The loss as its module states it, one pair at a time."""
    seen = {
        (int(u), int(batch.negatives[place]))
        for u, place in zip(batch.seen_query, batch.seen_place, strict=True)
    }
    unit = rows / rows.norm(dim=1, keepdim=True)

    def z(user: int, item: int) -> torch.Tensor:
        return query[user] @ unit[item] / TAU + batch.bias[item]

    total = torch.zeros(())
    for place in range(len(batch.positives)):
        user, item = int(batch.owner[place]), int(batch.positives[place])
        others = [
            z(user, int(j)) for j in batch.negatives if (user, int(j)) not in seen
        ]
        level = torch.stack(others).logsumexp(0) + batch.log_share
        total = total + batch.weight[place] * F.softplus(level - z(user, item))
    return total / batch.weight.sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_by_hand_is_that_of_the_formula(weighted: bool) -> None:
    query, rows, batch = make_batch(weighted)
    ours = [query.clone().requires_grad_(), rows.clone().requires_grad_()]
    theirs = [query.clone().requires_grad_(), rows.clone().requires_grad_()]

    loss = ranking_loss(*ours, batch, TAU, torch.float32)
    loss.backward()
    expected = formula(*theirs, batch)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_bfloat16_changes_the_gradient_by_its_rounding_only() -> None:
    query, rows, batch = make_batch(weighted=True)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = rows.clone().requires_grad_()
        ranking_loss(query, leaf, batch, TAU, dtype).backward()
        assert leaf.grad is not None
        grads.append(leaf.grad)

    assert (grads[0] - grads[1]).norm() < 0.02 * grads[0].norm()


def test_items_a_user_has_met_do_not_push_back() -> None:
    query, rows, batch = make_batch(weighted=False)
    leaf = rows.clone().requires_grad_()

    # Item 28 is unseen by all: it gets a gradient. Alone with item 4, seen by 0 and 1:
    ranking_loss(query, leaf, batch, TAU, torch.float32).backward()
    assert leaf.grad is not None
    assert leaf.grad[28].abs().sum() > 0
    changed = batch.bias.clone()
    changed[9] += 50.0  # a logit that would drown everything for users who may see it
    louder = LossBatch(
        **{f: getattr(batch, f) for f in batch.__slots__ if f != "bias"}, bias=changed
    )
    one = torch.zeros(3)
    for user in range(3):
        only = query.clone().requires_grad_()
        ranking_loss(only, rows, louder, TAU, torch.float32).backward()
        assert only.grad is not None
        one[user] = only.grad[user].norm()
    quiet = query.clone().requires_grad_()
    ranking_loss(quiet, rows, batch, TAU, torch.float32).backward()
    assert quiet.grad is not None

    # User 1 has met item 9, so as a negative it is masked; user 2 has not.
    assert one[2] != pytest.approx(quiet.grad[2].norm().item(), rel=1e-3)


def test_a_user_who_has_met_the_whole_sample_gives_no_nan() -> None:
    query, rows, batch = make_batch(weighted=False)
    everything = LossBatch(
        negatives=batch.negatives,
        positives=batch.positives,
        owner=batch.owner,
        start=batch.start,
        weight=batch.weight,
        seen_query=torch.arange(3).repeat_interleave(7),
        seen_place=torch.arange(7).repeat(3),
        bias=batch.bias,
        log_share=batch.log_share,
    )
    leaf = query.clone().requires_grad_()

    loss = ranking_loss(leaf, rows, everything, TAU, torch.float32)
    loss.backward()

    assert torch.isfinite(loss)
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def test_a_low_temperature_is_not_left_to_bfloat16() -> None:
    assert resolve().products(0.01) == torch.float32
