"""Django on a real Postgres: a copy of one template per test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import world
from world import Shop

from recsys import _db, rollout

sys.path.insert(0, str(Path(__file__).parent))

from django_project import SETTINGS_TOML, Changes, point


@pytest.fixture(scope="session")
def store_template(server: str, template: str) -> Iterator[Shop]:
    """The shop of tests/world.py, and Django's own tables beside it."""
    from django.core.management import call_command
    from django.db import connections

    model = world.shop_config(features=True)
    with world.database(server, template) as dsn:
        world.fill_shop(dsn)
        learned = {}
        metrics = {"validation": {"model": {"recall@20": 0.5, "ndcg@20": 0.3}}}
        for seed in (1, 2):
            number, made = world.add_version(dsn, model, seed=seed, metrics=metrics)
            learned[number] = made
        with _db.connect(dsn) as conn:
            rollout.promote(conn, "shop", 1, reason="test", force=True)
        point("default", dsn)
        call_command("migrate", verbosity=0)
        connections["default"].close()
        yield Shop(dsn, learned)


@pytest.fixture
def store(
    server: str, store_template: Shop, tmp_path: Path, settings_: Changes
) -> Iterator[Shop]:
    """A copy of the shop behind the alias "default", and its recsys.toml."""
    from django.db import connections

    with world.database(server, world.name_of(store_template.dsn)) as dsn:
        point("default", dsn)
        (tmp_path / "recsys.toml").write_text(SETTINGS_TOML)
        settings_.set(RECSYS={"CONFIG": tmp_path / "recsys.toml"})
        yield Shop(dsn, store_template.learned)
        for connection in connections.all(initialized_only=True):
            connection.close()


@pytest.fixture
def settings_() -> Iterator[Changes]:
    found = Changes()
    yield found
    found.undo()
