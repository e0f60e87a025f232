"""Servers that break on demand."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import island
from island import Island

from recsys import _breaker


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A folder of short name: it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="recsys-f") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def _primary(ground: Path) -> Iterator[Island]:
    made = island.primary(ground)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def _standby(_primary: Island, ground: Path) -> Iterator[Island]:
    made = island.standby(_primary, ground)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _no_memory_of_earlier_tests() -> None:
    _breaker._breakers.clear()


@pytest.fixture
def primary(_primary: Island) -> Island:
    """A server with a shop; version 1 serves."""
    return _primary


@pytest.fixture
def standby(primary: Island, _standby: Island) -> Iterator[Island]:
    """A streaming replica of it that has caught up."""
    island.caught_up(primary, _standby)
    yield _standby
    island.repair(primary, _standby)
