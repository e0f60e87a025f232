"""Newcomers: measured on the validation slice, let into lists only where it pays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from toys import FAST, make_config

from recsys.config import Feature, ModelConfig, Source
from recsys.training.choice.tried import first_settings
from recsys.training.cold import MEDIAN, QUANTILES, Newcomers, Placed
from recsys.training.dataset import Dataset
from recsys.training.loop import fit
from recsys.training.rows import query_rows
from recsys.training.split import split
from recsys.training.svd import first_rows
from recsys.training.trainer import train

DAY = 86_400.0


def launches(share: float, **train_changes: Any) -> tuple[ModelConfig, Dataset]:
    """Users of two colours choose items of theirs, ten new ones near the end.

    ``share`` of what they choose in the last tenth are the new ones, 60 to 69.
    """
    rng = np.random.default_rng(0)
    users, items, times = [], [], []
    for user in range(160):
        old = rng.permutation(np.arange(user % 2, 60, 2))[:14]
        for n, item in enumerate(old.tolist()):
            late = n >= 12
            if late and rng.random() < share:
                item = int(rng.choice(np.arange(60 + user % 2, 70, 2)))
            users.append(user)
            items.append(item)
            times.append((95 + n if late else 5 * n) * DAY + user)
    config = make_config(
        items=Source("x", (Feature("colour", "category", min_count=1),)),
        train=replace(FAST, **{"epochs": 8, "validation": 0.15, **train_changes}),
    )
    ids = list(range(70))
    colour = {"colour": ["red" if item % 2 else "blue" for item in ids]}
    return config, Dataset.from_arrays(
        config, users, items, times=times, item_ids=ids, item_columns=colour
    )


def placed(share: float) -> tuple[Placed | None, Newcomers]:
    config, dataset = launches(share)
    cut = split(dataset, 0.15, 0)
    rows = query_rows(dataset, cut.train, cut.end, 32)
    start = first_rows(rows, 16, 0)
    towers = fit(dataset, rows, first_settings(config), 8, 0, start)
    new = Newcomers(dataset, rows, cut, 0)
    return new.place(towers, 0.1 * torch.log(rows.pop)), new


def test_newcomers_that_users_choose_are_let_into_lists() -> None:
    found, new = placed(0.9)

    assert found is not None
    assert new.items.tolist() == list(range(60, 70))
    assert found.quantile > MEDIAN
    assert found.report["items"] == 10
    assert found.report["new_in_all"]["recall@20"] > 0.3
    # 20 places hold all ten newcomers: what tells is who stands in front.
    assert found.report["new_among_new"]["ndcg@20"] > 0.5


def test_newcomers_that_nobody_chooses_stay_behind() -> None:
    found, new = placed(0.0)

    assert found is None
    assert not new.asked


def test_a_few_hits_do_not_open_the_lists(monkeypatch: Any) -> None:
    found, _ = placed(0.04)

    assert found is not None
    assert found.quantile in QUANTILES
    assert found.report["all"]["recall@20"] > 0


def test_without_features_there_is_nothing_to_place() -> None:
    config = make_config()
    _, dataset = launches(0.9)
    bare = replace(dataset, items=None)
    cut = split(bare, 0.15, 0)
    rows = query_rows(bare, cut.train, cut.end, 32)
    towers = fit(bare, rows, first_settings(config), 1, 0, first_rows(rows, 16, 0))

    found = Newcomers(bare, rows, cut, 0).place(towers, torch.log(rows.pop))

    assert found is None


def test_the_level_and_the_measure_reach_the_version() -> None:
    config, dataset = launches(0.9, epochs=4)

    model = train(dataset, config)

    cold = model.report["cold"]
    assert cold["quantile"] > MEDIAN
    expected = np.quantile(model.bias[model.trained], cold["quantile"])
    assert float(model.weights["cold_bias"]) == np.float32(expected)
    assert cold["users"] > 50
