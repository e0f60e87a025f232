"""Everything at once, at random: short runs with fixed seeds. ``make soak`` runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import Chaos, Options
from conftest import Mortal
from scene import Scene


@pytest.mark.parametrize("seed", [101, 202])
def test_versions_equal_the_source_in_the_end(
    mortal: Mortal, mortal_scene: Scene, tmp_path: Path, seed: int
) -> None:
    chaos = Chaos(mortal_scene, Options(seed, seconds=9, data=mortal.data), tmp_path)

    found = chaos.run()

    assert found == [], f"python tests/live/soak.py --seed {seed}; {chaos.done}"
