"""A shop made once and copied per test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import world


@pytest.fixture(scope="session")
def shop_template(server: str, template: str) -> Iterator[str]:
    """200 products with features, version 1 serving, version 2 ready."""
    model = world.shop_config(features=True)
    with world.database(server, template) as dsn:
        world.fill_shop(dsn)
        world.add_version(dsn, model, seed=1, promote=True)
        world.add_version(dsn, model, seed=2)
        yield dsn


@pytest.fixture
def shop(server: str, shop_template: str) -> Iterator[str]:
    """DSN of a copy of the shop that the test may change."""
    with world.database(server, world.name_of(shop_template)) as dsn:
        yield dsn
