"""Updating only the item rows that a step touches: the same result for less work."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_processes import CASES, built
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import FAST, make_config

from recsys._parent import Parent
from recsys.config import ModelConfig, from_mapping
from recsys.errors import ConfigError
from recsys.training import loop
from recsys.training.dataset import Dataset
from recsys.training.distil import teacher_of
from recsys.training.model import Towers
from recsys.training.row_adam import RowAdam, touched
from recsys.training.rows import query_rows
from recsys.training.settings import settings_of
from recsys.training.svd import first_rows

WIDTH = 8


class Both:
    """Tables under Adam over all rows, and copies of them under ``RowAdam``."""

    def __init__(self, rows: int, kind: Any = torch.optim.Adam) -> None:
        generator = torch.Generator().manual_seed(0)
        start = [torch.randn(rows, WIDTH, generator=generator) for _ in range(2)]
        self.whole = [nn.Parameter(table.clone()) for table in start]
        self.tables = [nn.Parameter(table.clone()) for table in start]
        self.sparse = kind is torch.optim.SparseAdam
        fused = {} if self.sparse else {"fused": True}
        self.reference = kind(self.whole, lr=0.01, **fused)
        self.optimiser = torch.optim.Adam(self.tables, lr=0.01, fused=True)
        self.rows = RowAdam(self.optimiser, self.tables)

    def step(self, places: Tensor, gradients: list[Tensor], lr: float) -> None:
        for table, gradient in zip(self.whole, gradients, strict=True):
            shape, at = table.shape, places.unsqueeze(0)
            every = torch.sparse_coo_tensor(at, gradient, shape, check_invariants=True)
            table.grad = every if self.sparse else every.to_dense()
        self.reference.param_groups[0]["lr"] = lr
        self.reference.step()
        taken = self.rows.take(places)
        for rows, gradient in zip(taken, gradients, strict=True):
            rows.grad = gradient.clone()
        self.rows.step(lr)

    def draw(self, places: Tensor, seed: int, least: int = -4) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        # From tiny to huge: Adam does not mind, and neither may this.
        scale = 10.0 ** (seed % 9 + least)
        shape = (len(places), WIDTH)
        return [scale * torch.randn(shape, generator=generator) for _ in range(2)]

    def far(self) -> float:
        pairs = zip(self.whole, self.tables, strict=True)
        return max((a - b).detach().abs().max().item() for a, b in pairs)


def test_a_step_that_touches_every_row_is_that_of_adam() -> None:
    both, every = Both(40), torch.arange(40)

    for number in range(30):
        both.step(every, both.draw(every, number), 0.01 / (1 + number))

    assert both.far() == 0.0
    for whole, table in zip(both.whole, both.tables, strict=True):
        expected = both.reference.state[whole]
        for name, value in both.optimiser.state[table].items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("settled", "least", "far"),
    # The last: Adam's eps, which the product takes for constant, is a third of sqrt(v).
    [(1, -4, 1e-5), (7, -4, 1e-5), (10**6, -4, 1e-5), (10**6, -6, 1e-3)],
)
def test_rows_end_where_adam_over_all_rows_takes_them(
    settled: int, least: int, far: float
) -> None:
    both, rng = Both(60), np.random.default_rng(0)
    steps = 400

    for number in range(steps):
        # The first rows come often, the last ones never; row 50 twice, far apart.
        found = set(rng.geometric(0.15, rng.integers(1, 5)).clip(max=49).tolist())
        if number in (3, 390):
            found.add(50)
        places = torch.tensor(sorted(found))
        lr = 0.01 * 0.5 * (1 + math.cos(math.pi * number / steps))
        both.step(places, both.draw(places, number, least), lr)
        if number % settled == 0:
            both.rows.settle()
    both.rows.settle()

    # Rows have moved by 0.1 and more.
    assert both.far() < far
    assert torch.equal(both.tables[0][51:], both.whole[0][51:])
    for whole, table in zip(both.whole, both.tables, strict=True):
        expected, found_ = both.reference.state[whole], both.optimiser.state[table]
        assert found_["step"] == steps
        for name in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_allclose(found_[name], expected[name], 1e-3, 1e-12)


def test_the_lazy_adam_of_torch_agrees_only_where_no_step_was_missed() -> None:
    both = Both(10, torch.optim.SparseAdam)
    often, seldom = torch.tensor([0, 1]), torch.tensor([0, 1, 7])

    for number in range(40):
        places = seldom if number % 10 == 0 else often
        both.step(places, [torch.ones(len(places), WIDTH)] * 2, 0.01)
    both.rows.settle()

    start = Both(10).whole[0]
    torch.testing.assert_close(both.whole[0][:2], both.tables[0][:2], rtol=0, atol=1e-5)
    lazy, whole = (
        (table[7] - start[7]).detach().abs().mean().item()
        for table in (both.whole[0], both.tables[0])
    )
    assert lazy < 0.5 * whole  # what Adam does to a row of few gradients


def trained(case: str, way: str) -> dict[str, Tensor]:
    return fitted(way, *CASES[case]())[-1]


def fitted(
    way: str, config: ModelConfig, dataset: Dataset, *parent: Parent
) -> list[dict[str, Tensor]]:
    """Return the weights after each of two epochs."""
    rows = query_rows(dataset, np.ones(len(dataset), bool), dataset.until, 32)
    settings = settings_of(config, 0.15, 0.3)
    settings = replace(
        settings, query=config.query, item_updates=way, prefixes=config.train.prefixes
    )
    start = first_rows(rows, config.train.dim, 0)
    teacher = teacher_of(parent[0], dataset, rows) if parent else None
    torch.manual_seed(0)  # of layers that drop at random
    seen: list[dict[str, Tensor]] = []

    def after(epoch: loop.Epoch, towers: Towers) -> bool:
        seen.append({n: value.clone() for n, value in towers.state_dict().items()})
        return False

    loop.fit(dataset, rows, settings, 2, 0, start, after, teacher=teacher)
    return seen


@pytest.mark.parametrize("case", CASES)
def test_a_fit_is_the_same_whichever_rows_are_updated(case: str) -> None:
    dense, sparse = trained(case, "dense"), trained(case, "sparse")

    assert dense.keys() == sparse.keys()
    for name, value in dense.items():
        torch.testing.assert_close(sparse[name], value, rtol=0, atol=2e-3, msg=name)


def test_rows_that_few_steps_touch_are_up_to_date_after_each_epoch() -> None:
    config, dataset = large("dense", 600)

    dense, sparse = (fitted(way, config, dataset) for way in ("dense", "sparse"))

    for whole, some in zip(dense, sparse, strict=True):
        for name in ("served", "history"):
            torch.testing.assert_close(
                some[name], whole[name], rtol=0, atol=2e-3, msg=name
            )


class Largest(TorchDispatchMode):
    """Notes the numbers of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        new = all(r.alias_info is None for r in func._schema.returns)
        if isinstance(out, Tensor) and new and not out.is_sparse:
            self.numbers = max(self.numbers, out.numel())
        return out


def large(way: str, items: int = 30_000) -> tuple[ModelConfig, Dataset]:
    """As many users as items, each with its own and a few that all choose."""
    users = np.repeat(np.arange(items), 2)
    chosen = np.stack([np.arange(items), np.arange(items) % 50], 1).flatten()
    train = replace(FAST, dim=2, batch=16, item_updates=way)
    config = make_config(train=train)
    return config, Dataset.from_arrays(config, users, chosen)


@pytest.mark.parametrize(("way", "grows"), [("auto", False), ("dense", True)])
def test_no_step_makes_anything_as_long_as_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, way: str, grows: bool
) -> None:
    run = built(monkeypatch, *large(way))
    chosen = torch.arange(16)

    def step() -> None:
        run.descent.take(run.descent.loss(run.sampler.step(chosen)), 0.5)

    step()
    with Largest() as made:
        step()

    assert (made.numbers >= 30_000) is grows


def test_few_rows_of_many_are_updated_alone() -> None:
    popularity = 1 / torch.arange(1.0, 1_000_001)

    assert touched(popularity[:1000], 500, 5000.0) > loop.SPARSE_BELOW
    assert touched(popularity, 8192, 20_000.0) < loop.SPARSE_BELOW
    drawn = np.random.default_rng(0).choice(
        1000, 5000, p=(popularity[:1000] / popularity[:1000].sum()).double().numpy()
    )
    share = len(np.unique(drawn)) / 1000
    assert touched(popularity[:1000], 0, 5000.0) == pytest.approx(share, rel=0.05)


def test_another_way_to_update_is_refused() -> None:
    source = {"sql": "select 1"}
    model = {"items": source, "interactions": source, "train": {"item_updates": "x"}}

    with pytest.raises(ConfigError, match='item_updates must be one of "auto"'):
        from_mapping({"model": {"m": model}})
