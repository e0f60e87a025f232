"""The length of vectors: chosen where that is cheap, fixed where somebody says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parents import DAY, config_of, data, parent_of
from toys import make_config

from recsys.config import Feature, IndexConfig, Source, TrainConfig
from recsys.errors import TrainingError
from recsys.training import health
from recsys.training.choice.clock import Clock
from recsys.training.choice.length import LARGER_DIM, may_be_longer
from recsys.training.dataset import Dataset
from recsys.training.full import train_full
from recsys.training.trainer import train

# Settings that leave nothing to choose but the length; epochs end the fits, not time.
REST = TrainConfig(
    tau=0.1, dropout=0.3, companions=0.0, budget_s=120, max_epochs=8, negatives=512
)


def couples(pairs: int = 300, users: int = 900, each: int = 6) -> Dataset:
    """Items that go in pairs: as many directions as pairs, nothing else to learn."""
    rng = np.random.default_rng(0)
    user: list[int] = []
    item: list[int] = []
    for number in range(users):
        for pair in rng.choice(pairs, each, replace=False).tolist():
            user += [number, number]
            item += [2 * pair, 2 * pair + 1]
    return Dataset.from_arrays(make_config(train=REST), user, item)


def test_a_catalogue_of_full_rank_gets_longer_vectors() -> None:
    model = train(couples(), make_config(train=REST))

    assert model.dim == LARGER_DIM
    assert model.id_history.shape[1] == LARGER_DIM
    assert model.report["settings"]["dim"] == LARGER_DIM
    assert {row["dim"] for row in model.report["curves"] if row["run"]} == {128, 256}


def test_a_larger_one_must_be_clearly_better() -> None:
    # Two tastes: two directions are enough.
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(300), 10)
    item = 2 * rng.integers(150, size=len(user)) + user % 2
    dataset = Dataset.from_arrays(make_config(train=REST), user, item)

    assert train(dataset, make_config(train=REST)).dim == 128


def many(items: int) -> Dataset:
    """A catalogue of which one item is chosen."""
    config = make_config(train=REST)
    return Dataset.from_arrays(config, [0], [0], item_ids=range(items))


@pytest.mark.parametrize(
    ("changes", "items"),
    [
        ({"train": replace(REST, dim=128)}, 1_000),
        ({"train": replace(REST, epochs=5)}, 1_000),
        ({"train": replace(REST, prefixes=(32,))}, 1_000),
        ({"index": IndexConfig(prefix=64)}, 1_000),
        ({"index": IndexConfig(quantisation="binary")}, 1_000),
        ({}, 20_001),
    ],
)
def test_no_other_length_is_tried(changes: dict[str, Any], items: int) -> None:
    config = make_config(train=REST)
    assert may_be_longer(many(20_000), config)

    assert not may_be_longer(many(items), replace(config, **changes))


def test_a_length_is_not_tried_that_no_tower_could_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    colour = Feature("colour", "category", min_count=1)
    config = make_config(train=REST, items=Source("x", (colour,)))
    dataset = Dataset.from_arrays(
        config, [0], [0], item_ids=[0, 1], item_columns={"colour": ["red", "blue"]}
    )
    assert dataset.items is not None
    rows = sum(dataset.items.fitted.table_sizes.values())
    assert may_be_longer(dataset, config)

    monkeypatch.setattr(health, "LARGEST_MODEL", 4 * 128 * rows)

    health.check_size(dataset, 128)
    assert not may_be_longer(dataset, config)


@pytest.mark.parametrize("dim", [8, 24])
def test_a_full_update_keeps_the_length_of_its_parent(dim: int) -> None:
    config = config_of(False)
    config = replace(config, train=replace(config.train, dim=dim))
    first = train(data(config, (0,)), config)
    unset = replace(config, train=replace(config.train, dim=0))

    second = train_full(data(unset, (0, 1)), unset, parent_of(config, first, DAY))

    assert second.dim == dim


def test_a_full_update_refuses_a_prefix_beyond_its_parent() -> None:
    config = config_of(False)
    first = train(data(config, (0,)), config)
    other = replace(
        config, train=replace(config.train, dim=0), index=IndexConfig(prefix=100)
    )

    with pytest.raises(TrainingError, match=r"of the parent, 8: .*index\.prefix"):
        train_full(data(other, (0, 1)), other, parent_of(config, first, DAY))


@pytest.mark.parametrize(
    ("epoch_s", "deadline"),
    [(0.1, 84.0), (0.5, 40.0), (3.0, 40.0)],
)
def test_the_search_takes_what_the_longest_fit_leaves(
    epoch_s: float, deadline: float
) -> None:
    # 100 epochs of all the data take 11 s, 55 s, more than there is.
    clock = Clock(TrainConfig(max_epochs=100), deadline=40.0, end=95.0)
    clock.measured(epoch_s, 0.1)

    clock.take_spare()

    assert clock.deadline == pytest.approx(deadline)
