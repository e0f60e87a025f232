"""A watched shop, made once and copied per test, and a server that may be crashed."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import scene as scenes
import world
from chaos import halt
from scene import Scene

from recsys import embedded, schema


@pytest.fixture(scope="session")
def scene_template(server: str, template: str) -> Iterator[Scene]:
    """60 products, version 1 ready, triggers in place, nothing queued."""
    with world.database(server, template) as dsn:
        yield scenes.build(dsn, items=60)


@pytest.fixture
def scene(server: str, scene_template: Scene) -> Iterator[Scene]:
    """A copy that the test may change."""
    with world.database(server, world.name_of(scene_template.dsn)) as dsn:
        yield Scene(dsn, scene_template.model)


@dataclass(frozen=True)
class Mortal:
    """A server that a test may crash.

    Attributes:
        data: Its folder.
        server: DSN of its database ``postgres``.
        template: Name of a database with the scene.
        model: Of the scene.
    """

    data: Path
    server: str
    template: str
    scene: Scene


@pytest.fixture(scope="session")
def mortal() -> Iterator[Mortal]:
    """One such server."""
    with tempfile.TemporaryDirectory(prefix="recsys-mortal-") as folder:
        data = Path(folder) / "pgdata"
        server = embedded.start(data)
        with world.database(server) as dsn:
            schema.upgrade(dsn)
            made = scenes.build(dsn, items=200)
            yield Mortal(data, server, world.name_of(dsn), made)
        halt(data)


@pytest.fixture
def mortal_scene(mortal: Mortal) -> Iterator[Scene]:
    """A copy of the scene on that server."""
    with world.database(mortal.server, mortal.template) as dsn:
        scene = Scene(dsn, mortal.scene.model)
        # A sequence of a cloned database goes back in a crash before a checkpoint: the
        # values it took in advance were logged for the template.
        scene.run("checkpoint")
        yield scene
