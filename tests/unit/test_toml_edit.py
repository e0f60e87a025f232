"""Settings put into recsys.toml without harm to the rest of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from recsys import _toml_edit
from recsys.errors import ConfigError

TEXT = """\
# our shop
[model.shop]
item_id = "bigint"   # as in the application

[model.shop.train]   # chosen in March
dim = 64
tau = 0.1  # cold
# lr = 1
budget_s = 60

[model.shop.index]
m = 16
"""


def test_values_are_replaced_and_added_and_remarks_stay() -> None:
    after = _toml_edit.edited(TEXT, "model.shop.train", {"tau": 0.2, "lr": 0.004})

    assert "tau = 0.2  # cold\n" in after
    assert "# our shop\n" in after
    assert "# lr = 1\n" in after
    assert "budget_s = 60\nlr = 0.004\n\n[model.shop.index]" in after
    wanted = tomllib.loads(TEXT)
    wanted["model"]["shop"]["train"] |= {"tau": 0.2, "lr": 0.004}
    assert tomllib.loads(after) == wanted


def test_a_missing_table_is_added_at_the_end() -> None:
    after = _toml_edit.edited("[model.shop]\n", "model.shop.train", {"dropout": 0.5})

    assert tomllib.loads(after) == {"model": {"shop": {"train": {"dropout": 0.5}}}}


@pytest.mark.parametrize(
    "text",
    [
        "[model.shop]\ntrain = { tau = 0.1 }\n",
        "[model.shop.train]\ntau = [\n 1,\n]\n",
        '[model.shop]\nsql = """\n[model.shop.train]\ntau = 3\n"""\n',
    ],
    ids=["inline", "several lines", "inside a text"],
)
def test_what_cannot_be_edited_by_line_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not edited here"):
        _toml_edit.edited(text, "model.shop.train", {"tau": 0.2})


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "recsys.toml"
    path.write_text("[model.shop]\n")

    with pytest.raises(ConfigError, match="changed meanwhile"):
        _toml_edit.replace(path, "[model.other]\n", "x = 1\n")

    assert path.read_text() == "[model.shop]\n"
    assert [p.name for p in tmp_path.iterdir()] == ["recsys.toml"]


def test_texts_and_marks_are_written_as_toml() -> None:
    snippet = _toml_edit.snippet("model.shop.train", {"query": 'a "b"', "on": True})

    found = tomllib.loads(snippet)
    assert found["model"]["shop"]["train"] == {"query": 'a "b"', "on": True}
