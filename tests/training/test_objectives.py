"""Every objective against autograd of its plain formula, and on data with an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_trainer import scores
from torch import Tensor
from torch.nn import functional as F
from toys import FAST, make_config

from recsys.config import Interactions, NegativesConfig
from recsys.training.dataset import Dataset
from recsys.training.objectives import OBJECTIVES
from recsys.training.objectives.batch import LossBatch, Own, Pairs, log_share
from recsys.training.settings import Settings
from recsys.training.trainer import train

TAU, MARGIN, SHARE = 0.25, 0.1, 1.7
SETTINGS = Settings(
    8, TAU, 0.0, 0.5, 0.01, 4, 8, 0.0, margin=MARGIN, negative_weight=SHARE, pairs=2
)
GENERATOR = torch.Generator().manual_seed(5)
POSITIVES, OWNER = [1, 4, 7, 4, 9, 2], [0, 0, 0, 1, 1, 2]
NEGATIVES = [4, 2, 20, 21, 9, 28, 15]
# Query 0 has met item 4, query 1 items 4 and 9, query 2 item 2.
MET = {(0, 0), (1, 0), (1, 4), (2, 1)}
OWN, OWN_OWNER = [11, 12, 13], [0, 2, 2]
PAIRED = [[20, 21], [2, 4], [9, 28], [15, 2], [20, 28], [21, 9]]
PAIR_WEIGHT = [[1.0, 0.5], [2.0, 0.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.3, 1.0]]


def make(*, plain: bool) -> tuple[Tensor, Tensor, LossBatch]:
    generator = torch.Generator().manual_seed(3)
    query = F.normalize(torch.randn(3, 8, generator=generator), dim=1)
    rows = torch.randn(30, 8, generator=generator)
    bias = 0.3 * torch.randn(30, generator=generator)
    correction = torch.randn(7, generator=generator)
    own = Own(torch.tensor(OWN), torch.tensor(OWN_OWNER), torch.tensor([0.2, 1.0, 2.0]))
    met = sorted(MET)
    batch = LossBatch(
        negatives=torch.tensor(NEGATIVES),
        positives=torch.tensor(POSITIVES),
        owner=torch.tensor(OWNER),
        start=torch.tensor([0, 3, 5]),
        weight=torch.ones(6) if plain else torch.tensor([1.0, 3.0, 0.5, 2.0, 1.0, 4.0]),
        seen_query=torch.tensor([query for query, _ in met]),
        seen_place=torch.tensor([place for _, place in met]),
        bias=bias,
        log_share=log_share(30, 7),
        correction=None if plain else correction,
        own=None if plain else own,
        pairs=Pairs(torch.tensor(PAIRED), torch.tensor(PAIR_WEIGHT)),
    )
    return query, rows, batch


class Plain:
    """One pair at a time."""

    def __init__(self, query: Tensor, rows: Tensor, batch: LossBatch) -> None:
        self.batch = batch
        unit = rows / rows.norm(dim=1, keepdim=True)
        self.cosine = query @ unit.T  # (B, R)
        self.z = self.cosine / TAU + batch.bias

    def negatives(self, user: int) -> list[tuple[int, Tensor]]:
        """Item and weight of what the user may be pushed away from."""
        batch, found = self.batch, list[tuple[int, Tensor]]()
        for place, item in enumerate(NEGATIVES):
            if (user, place) not in MET:
                extra = 0.0 if batch.correction is None else batch.correction[place]
                found.append((item, torch.as_tensor(batch.log_share + extra).exp()))
        if batch.own is not None:
            for item, owner, weight in zip(
                OWN, OWN_OWNER, batch.own.log_weight, strict=True
            ):
                if owner == user:
                    found.append((item, weight.exp()))
        return found

    def mean(self, term: Callable[[int, int, int], Tensor]) -> Tensor:
        total = torch.zeros(())
        for place, (user, item) in enumerate(zip(OWNER, POSITIVES, strict=True)):
            total = total + self.batch.weight[place] * term(place, user, item)
        return total / self.batch.weight.sum()

    def mass(self, user: int) -> Tensor:
        return sum(
            (
                weight * self.z[user, item].exp()
                for item, weight in self.negatives(user)
            ),
            torch.zeros(()),
        )

    def ranking(self) -> Tensor:
        return self.mean(
            lambda _, user, item: F.softplus(self.mass(user).log() - self.z[user, item])
        )

    def softmax(self) -> Tensor:
        def term(place: int, user: int, item: int) -> Tensor:
            mine = [i for u, i in zip(OWNER, POSITIVES, strict=True) if u == user]
            every = self.mass(user) + self.z[user, mine].exp().sum()
            return every.log() - self.z[user, item]

        return self.mean(term)

    def bpr(self) -> Tensor:
        def term(place: int, user: int, item: int) -> Tensor:
            total = sum(PAIR_WEIGHT[place]) or 1.0
            costs = [
                weight * F.softplus(self.z[user, other] - self.z[user, item])
                for other, weight in zip(PAIRED[place], PAIR_WEIGHT[place], strict=True)
            ]
            return torch.stack(costs).sum() / total

        return self.mean(term)

    def _pointwise(
        self, f: Callable[[Tensor], Tensor], g: Callable[[Tensor], Tensor], s: Tensor
    ) -> Tensor:
        def term(place: int, user: int, item: int) -> Tensor:
            against = self.negatives(user)
            total = torch.stack([weight for _, weight in against]).sum()
            costs = [weight / total * g(s[user, other]) for other, weight in against]
            return f(s[user, item]) + SHARE * torch.stack(costs).sum()

        return self.mean(term)

    def logistic(self) -> Tensor:
        return self._pointwise(lambda s: F.softplus(-s), F.softplus, self.z)

    def cosine_contrastive(self) -> Tensor:
        score = self.cosine + TAU * self.batch.bias
        return self._pointwise(lambda s: 1 - s, lambda s: F.relu(s - MARGIN), score)


FORMULAS: dict[str, Callable[[Plain], Tensor]] = {
    "ranking": Plain.ranking,
    "softmax": Plain.softmax,
    "cosine": Plain.cosine_contrastive,
    "bpr": Plain.bpr,
    "logistic": Plain.logistic,
}


def test_every_objective_has_a_formula() -> None:
    assert set(FORMULAS) == set(OBJECTIVES)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "everything"])
@pytest.mark.parametrize("name", FORMULAS)
def test_loss_and_gradient_are_those_of_the_formula(name: str, plain: bool) -> None:
    query, rows, batch = make(plain=plain)
    ours = [query.clone().requires_grad_(), rows.clone().requires_grad_()]
    theirs = [query.clone().requires_grad_(), rows.clone().requires_grad_()]

    loss = OBJECTIVES[name](*ours, batch, SETTINGS)
    (2 * loss).backward()
    expected = FORMULAS[name](Plain(*theirs, batch))
    (2 * expected).backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_queries_without_a_positive_or_a_negative_cost_nothing_odd(name: str) -> None:
    query, rows, batch = make(plain=True)
    everything = replace(
        batch,
        # Query 2 has no positives, and query 0 has met the whole sample.
        positives=batch.positives[:5],
        owner=batch.owner[:5],
        weight=batch.weight[:5],
        start=torch.tensor([0, 3, 5]),
        seen_query=torch.zeros(7, dtype=torch.long),
        seen_place=torch.arange(7),
        pairs=Pairs(torch.tensor(PAIRED[:5]), torch.zeros(5, 2)),
    )
    leaves = [query.clone().requires_grad_(), rows.clone().requires_grad_()]

    loss = OBJECTIVES[name](*leaves, everything, SETTINGS)
    loss.backward()

    assert torch.isfinite(loss)
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)
    if name != "bpr":
        assert leaves[0].grad[2].abs().sum() == 0


@pytest.mark.parametrize(
    ("name", "mixed"),
    [*((name, False) for name in OBJECTIVES), ("softmax", True), ("bpr", True)],
)
def test_every_objective_recovers_a_checkerboard(
    board: Callable[..., Dataset], name: str, mixed: bool
) -> None:
    mix = NegativesConfig(uniform=0.4, popular=0.3, in_batch=0.3)
    config = make_config(
        train=replace(FAST, objective=name, epochs=12, negatives=24, lr=0.02),
        negatives=mix if mixed else NegativesConfig(),
    )

    model = train(board(config), config)

    ids = np.array(model.item_ids)
    for history in (list(range(0, 20, 2)), list(range(1, 20, 2))):
        best = ids[np.argsort(-scores(model, history))[:10]]
        assert (best % 2 == history[0] % 2).mean() >= 0.9


def test_logistic_scores_are_log_odds() -> None:
    """One user who chose an item of two: the optimum of a pointwise loss is known."""
    query = torch.tensor([[1.0, 0.0]])
    angle = torch.tensor(1.0, requires_grad=True)
    batch = LossBatch(
        negatives=torch.tensor([0]),
        positives=torch.tensor([0]),
        owner=torch.tensor([0]),
        start=torch.tensor([0]),
        weight=torch.ones(1),
        seen_query=torch.empty(0, dtype=torch.long),
        seen_place=torch.empty(0, dtype=torch.long),
        bias=torch.zeros(1),
        log_share=0.0,
    )
    # The same item is chosen once and refused three times as often.
    settings = replace(SETTINGS, tau=0.5, negative_weight=3.0)
    optimiser = torch.optim.Adam([angle], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        row = torch.stack([angle.cos(), angle.sin()]).unsqueeze(0)
        OBJECTIVES["logistic"](query, row, batch, settings).backward()
        optimiser.step()

    assert float(angle.detach().cos()) / 0.5 == pytest.approx(np.log(1 / 3), abs=0.01)


@pytest.mark.parametrize("name", ["ranking", "cosine"])
def test_weights_that_are_all_equal_change_nothing(
    board: Callable[..., Dataset], name: str
) -> None:
    found = []
    for weight in (1.0, 4.0):
        config = make_config(
            train=replace(FAST, objective=name, epochs=2),
            interactions=Interactions("select 1", {"view": weight}),
        )
        dataset = board(config, kinds=["view"] * len(board()))
        rows = train(dataset, config).id_served
        found.append(rows @ rows.T)  # the warm start may differ in signs

    np.testing.assert_allclose(found[0], found[1], atol=2e-3)
