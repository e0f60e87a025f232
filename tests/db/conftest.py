"""Databases with a shop and ready versions, made once and cloned per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import world
from world import Shop

from recsys import _db, rollout


@pytest.fixture(scope="session")
def shop_template(server: str, template: str) -> Iterator[Shop]:
    """200 products, 30 customers, item, user and context features."""
    model = world.shop_config(features=True)
    with world.database(server, template) as dsn:
        world.fill_shop(dsn)
        learned = {}
        for seed in (1, 2):
            number, made = world.add_version(dsn, model, seed=seed)
            learned[number] = made
        with _db.connect(dsn) as conn:
            rollout.promote(conn, "shop", 1, reason="test", force=True)
        yield Shop(dsn, learned)


@pytest.fixture
def shop(server: str, shop_template: Shop) -> Iterator[Shop]:
    """A copy of the shop that the test may change."""
    with world.database(server, world.name_of(shop_template.dsn)) as dsn:
        yield Shop(dsn, shop_template.learned)
