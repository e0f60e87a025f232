"""A shop with a serving version and Flask applications on it."""

from __future__ import annotations

from collections.abc import Iterator

import flask_shop_app as shop_app
import pytest
import world
from flask import Flask


@pytest.fixture(scope="session")
def flask_template(server: str, template: str) -> Iterator[str]:
    """200 products, 30 customers; version 1 serves; record() writes to event."""
    with world.database(server, template) as dsn:
        world.fill_shop(dsn)
        model = world.shop_config(features=True, record=shop_app.RECORD)
        world.add_version(dsn, model, promote=True)
        yield dsn


@pytest.fixture
def shop_dsn(server: str, flask_template: str) -> Iterator[str]:
    """A copy of the shop that the test may change."""
    with world.database(server, world.name_of(flask_template)) as dsn:
        yield dsn


@pytest.fixture
def app(request: pytest.FixtureRequest, flask_template: str) -> Iterator[Flask]:
    """The application on Flask-SQLAlchemy's session.

    A test that also asks for ``shop_dsn`` has a copy of the shop to change; the others
    share one and only read.
    """
    own = "shop_dsn" in request.fixturenames
    dsn = request.getfixturevalue("shop_dsn") if own else flask_template
    made = shop_app.make(SQLALCHEMY_DATABASE_URI=shop_app.url_of(dsn))
    yield made
    with made.app_context():
        shop_app.db.engine.dispose()
