"""A shop with a serving version, and an engine on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import world
from sa_shop import RECORD, url_of
from sqlalchemy import Engine, create_engine


@pytest.fixture(scope="session")
def sa_template(server: str, template: str) -> Iterator[str]:
    """200 products, 30 customers; version 1 serves; record() writes to event."""
    with world.database(server, template) as dsn:
        world.fill_shop(dsn)
        model = world.shop_config(features=True, record=RECORD)
        world.add_version(dsn, model, promote=True)
        yield dsn


@pytest.fixture
def shop_dsn(server: str, sa_template: str) -> Iterator[str]:
    """A copy of the shop that the test may change."""
    with world.database(server, world.name_of(sa_template)) as dsn:
        yield dsn


@pytest.fixture
def engine(shop_dsn: str) -> Iterator[Engine]:
    """An engine on the shop."""
    made = create_engine(url_of(shop_dsn))
    yield made
    made.dispose()
