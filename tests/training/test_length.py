"""The length of vectors: chosen where that is cheap, fixed where somebody says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import make_config

from recsys._learning_config import TrainConfig
from recsys.training.choice.clock import Clock
from recsys.training.choice.tried import LARGER_DIM, changes, first_settings
from recsys.training.dataset import Dataset
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


def lengths_tried(config: TrainConfig, items: int = 1_000) -> list[float]:
    settings = first_settings(make_config(train=config))
    found = changes(settings, config, items, timed=False)
    return [change.value for change in found if change.name == "dim"]


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


@pytest.mark.parametrize(
    ("config", "items"),
    [
        (replace(REST, dim=128), 1_000),
        (replace(REST, epochs=5), 1_000),
        (replace(REST, prefixes=(32,)), 1_000),
        (REST, 20_001),
    ],
    ids=["fixed", "epochs are fixed", "prefixes", "a large catalogue"],
)
def test_no_other_length_is_tried(config: TrainConfig, items: int) -> None:
    assert lengths_tried(REST) == [LARGER_DIM]

    assert lengths_tried(config, items) == []


@pytest.mark.parametrize(
    ("epoch_s", "deadline"),
    [(0.1, 84.0), (0.5, 40.0), (3.0, 40.0)],
)
def test_the_search_takes_what_the_longest_fit_leaves(
    epoch_s: float, deadline: float
) -> None:
    # 100 epochs of all the data take 11 s, 55 s and more than there is.
    clock = Clock(TrainConfig(max_epochs=100), deadline=40.0, end=95.0)
    clock.measured(epoch_s, 0.1)

    clock.take_spare()

    assert clock.deadline == pytest.approx(deadline)
