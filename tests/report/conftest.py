from __future__ import annotations

from collections.abc import Iterator

import pytest
import world
from tasteful import Reported, make


@pytest.fixture(scope="session")
def reported(
    server: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reported]:
    """Made once; tests only read."""
    with world.database(server, template) as dsn:
        yield make(dsn, tmp_path_factory.mktemp("report"))
