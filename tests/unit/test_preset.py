"""A data folder finds its preset."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from recsys import _preset, _show
from recsys._preset import Preset
from recsys.errors import ConfigError


def test_without_data_it_is_the_shop():
    preset = _preset.find(None)

    assert preset.model == "shop"
    assert (preset.folder / preset.generate).is_file()


def test_example_of_the_same_name_is_used(tmp_path):
    data = tmp_path / "movietweetings"
    data.mkdir()

    preset = _preset.find(data)

    assert preset.model == "movietweetings"
    assert preset.data == data


def test_folder_of_another_name_is_known_by_its_files(tmp_path):
    (tmp_path / "transactions.csv.gz").touch()

    assert _preset.find(tmp_path).model == "online_retail"


def test_own_demo_toml_comes_first(tmp_path):
    (tmp_path / "transactions.csv.gz").touch()
    (tmp_path / "demo.toml").write_text(
        'model = "mine"\nitem = "select 1, 2"\nholdout = "test.csv"\n'
    )

    assert _preset.find(tmp_path).model == "mine"


def test_unknown_data_says_how_to_go_on(tmp_path):
    with pytest.raises(ConfigError, match="no preset fits") as caught:
        _preset.find(tmp_path)
    assert "recsys import" in caught.value.hint

    with pytest.raises(ConfigError, match="there is no folder"):
        _preset.find(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "m"\n', r"missing \['item'\]"),
        ('model = "m"\nitem = "select"\nuntill = 1\n', r"unknown \['untill'\]"),
        ('model = "m"\nitem = "select"\n', "either 'until' or 'holdout'"),
        ('model = "m"\nitem = "s"\nuntil = 2013-10-01\n', "a time with a zone"),
        ("model = \n", "not valid TOML"),
    ],
)
def test_malformed_demo_toml_is_refused(tmp_path, text, message):
    (tmp_path / "demo.toml").write_text(text)

    with pytest.raises(ConfigError, match=message):
        _preset.find(tmp_path)


def test_the_promotion_that_the_demo_proposes_is_one_the_gate_lets_pass() -> None:
    """Trained until the same day as version 1 and compared; else forced, and why."""
    until = datetime(2026, 3, 1, tzinfo=UTC)
    timed = Preset(Path(), Path(), "shop", "select", until=until)
    train, compare, promote = _show._second_version("shop", timed)
    assert "--until 2026-03-01" in train
    assert compare.startswith("recsys compare shop 2")
    assert "--force" not in promote

    untimed = Preset(Path(), Path(), "shop", "select")
    assert "--force --reason" in _show._second_version("shop", untimed)[-1]
