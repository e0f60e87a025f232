"""Databases with the shop of two tastes, made once and cloned per test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import world

sys.path.insert(0, str(Path(__file__).parents[1] / "live"))

from twofold import Twofold, fill, settings

from recsys.config import from_mapping


def _template(server: str, template: str, features: bool) -> Iterator[Twofold]:
    config = from_mapping(settings(features=features)).model("shop")
    with world.database(server, template) as dsn:
        fill(dsn, config)
        yield Twofold(dsn, config)


@pytest.fixture(scope="session")
def plain_template(server: str, template: str) -> Iterator[Twofold]:
    yield from _template(server, template, features=False)


@pytest.fixture(scope="session")
def features_template(server: str, template: str) -> Iterator[Twofold]:
    yield from _template(server, template, features=True)


@pytest.fixture
def shop(server: str, plain_template: Twofold) -> Iterator[Twofold]:
    """A copy of the shop, whose items have no features."""
    with world.database(server, world.name_of(plain_template.dsn)) as dsn:
        yield Twofold(dsn, plain_template.config)


@pytest.fixture
def featured(server: str, features_template: Twofold) -> Iterator[Twofold]:
    """A copy of the shop with item, user and context features."""
    with world.database(server, world.name_of(features_template.dsn)) as dsn:
        yield Twofold(dsn, features_template.config)
