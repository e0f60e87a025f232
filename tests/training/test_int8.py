"""Towers of eight bits: smaller, and published only if they find the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from toys import FAST, make_config

from recsys._query_config import QueryConfig
from recsys.config import Feature, Interactions, Source
from recsys.errors import ArtifactError
from recsys.training import quantise
from recsys.training.dataset import Dataset
from recsys.training.trainer import train

ITEMS = 60


@pytest.fixture(scope="module")
def shop() -> tuple[Dataset, Any]:
    rng = np.random.default_rng(0)
    title = Feature("title", "text", buckets=4096)
    model = make_config(
        items=Source("select 1", (title,)),
        train=dataclasses.replace(FAST, epochs=2, tau=0.15, dropout=0.3, int8=True),
    )
    pairs = [(u, i) for u in range(80) for i in range(ITEMS) if (u + i) % 6 == 0]
    users, items = np.array(pairs).T
    words = [f"word{n}" for n in range(300)]
    titles = [" ".join(rng.choice(words, 4)) for _ in range(ITEMS)]
    dataset = Dataset.from_arrays(
        model,
        users,
        items,
        item_ids=list(range(ITEMS)),
        item_columns={"title": titles},
    )
    return dataset, model


def test_the_published_towers_are_a_third_and_find_the_same(
    shop: tuple[Dataset, Any],
) -> None:
    model = train(*shop)

    said = model.report["int8"]
    assert said["bytes"] == len(model.item_tower) + len(model.query_tower)
    assert said["bytes"] < said["before"] / 3
    assert said["overlap"] >= quantise.LEAST_OVERLAP
    assert model.report["parity"]["overlap"] >= 0.99


def test_towers_that_find_other_items_are_not_published(
    shop: tuple[Dataset, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, config = shop
    plain = dataclasses.replace(config.train, int8=False)
    model = train(dataset, dataclasses.replace(config, train=plain))
    other = dataclasses.replace(FAST, epochs=1, tau=0.2, dropout=0.3, seed=9)
    stranger = train(dataset, dataclasses.replace(config, train=other))
    monkeypatch.setattr(
        quantise,
        "int8",
        lambda t: stranger.item_tower if t == model.item_tower else t,
    )

    with pytest.raises(ArtifactError, match="eight bits") as caught:
        quantise.with_int8_towers(model, dataset)

    assert "int8" in caught.value.hint


def test_a_tower_that_minds_order_is_compared_with_ages_and_kinds() -> None:
    rng = np.random.default_rng(0)
    model = make_config(
        train=dataclasses.replace(FAST, epochs=1, tau=0.15, dropout=0.3, int8=True),
        query=QueryConfig(encoder="decay", length=8),
        interactions=Interactions("select 1", weights={"buy": 2, "view": 1}),
    )
    users, items = rng.integers(30, size=300), rng.integers(ITEMS, size=300)
    dataset = Dataset.from_arrays(
        model,
        users,
        items,
        times=1e9 + 3600.0 * rng.integers(900, size=300),
        kinds=["buy", "view"] * 150,
    )

    trained = train(dataset, model)

    assert trained.query.kinds == ("buy", "view")
    assert trained.report["int8"]["overlap"] >= quantise.LEAST_OVERLAP
