"""A feature that knows the future is found, and those that may not are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import FAST, BeforeTheSearch, make_config

from recsys.config import Feature, Source
from recsys.popularity import DAY_S
from recsys.training.dataset import Dataset
from recsys.training.leaks import find_leaks
from recsys.training.split import split
from recsys.training.trainer import train

ITEMS, EVENTS, DAYS = 300, 12_000, 100
FEATURES = (
    Feature("embedding", "vector", dim=2),
    Feature("released", "time"),
    Feature("sold_total", "number"),
    Feature("price", "number", scale="log"),
    Feature("sold_before", "number"),
    Feature("brand", "category", min_count=1),
    Feature("last_sold", "time", parts=("age",)),
)


@pytest.fixture(scope="module")
def shop() -> Dataset:
    """Cheap items sell better, brands differ, and what sells changes with time."""
    rng = np.random.default_rng(0)
    price = rng.lognormal(3, 1, ITEMS)
    brand = rng.integers(0, 5, ITEMS)
    released = rng.random(ITEMS) * DAYS * 0.6
    peak = released + rng.random(ITEMS) * DAYS
    taste = -0.5 * np.log(price) + 0.4 * brand + rng.normal(size=ITEMS)
    day = np.sort(rng.random(EVENTS)) * DAYS
    item = np.empty(EVENTS, np.int64)
    for first in range(0, EVENTS, 500):
        now = day[first : first + 500].mean()
        chance = np.exp(taste - np.abs(now - peak) / 15) * (released <= now)
        item[first : first + 500] = rng.choice(ITEMS, 500, p=chance / chance.sum())
    times = 1e9 + day * DAY_S
    last = np.full(ITEMS, 1e9)
    np.maximum.at(last, item, times)
    return Dataset.from_arrays(
        make_config(items=Source("x", FEATURES)),
        rng.integers(0, 800, EVENTS),
        item,
        times=times,
        item_ids=list(range(ITEMS)),
        item_columns={
            "embedding": [[float(p), 1.0] for p in price],
            "released": list(1e9 + released * DAY_S),
            "sold_total": list(np.bincount(item, minlength=ITEMS).astype(float)),
            "price": list(price),
            "sold_before": list(
                np.bincount(item[day < 80], minlength=ITEMS).astype(float)
            ),
            "brand": [f"brand {b}" for b in brand],
            "last_sold": list(last),
        },
    )


def test_only_what_was_planted_is_found(shop: Dataset) -> None:
    leaks = find_leaks(shop, split(shop, 0.1, 0))

    assert {leak.feature for leak in leaks} == {"sold_total", "last_sold"}
    assert all(0.5 <= leak.known <= 1 for leak in leaks)


def test_features_are_named_before_the_search_and_in_the_report(
    shop: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(items=Source("x", FEATURES), train=replace(FAST, epochs=1))
    before = BeforeTheSearch(caplog)

    model = train(shop, config, progress=before)

    assert "feature sold_total knows the future" in before.text
    # That it also counts users is not said as well.
    assert caplog.text.count("sold_total") == 1
    assert len(model.report["leaks"]) == 2


def test_without_times_nothing_is_said() -> None:
    data = Dataset.from_arrays(make_config(), [1, 1, 2, 2], [1, 2, 1, 2])

    assert find_leaks(data, split(data, 0.3, 0)) == []
