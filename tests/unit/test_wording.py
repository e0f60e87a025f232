"""Hints stand in tracebacks, and in the terms of the program that prints them."""

from __future__ import annotations

import pickle
import traceback

import pytest

from recsys import _wording
from recsys._wording import Wording, counted
from recsys.cli.app import cli
from recsys.errors import ConfigError, RecsysError, SchemaError


def test_every_command_is_known() -> None:
    assert sorted(_wording.COMMANDS.split("|")) == sorted(cli.commands)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Run 'recsys upgrade'.", "Run 'flask recsys upgrade'."),
        ("recsys watch store", "flask recsys watch store"),
        ("manage.py recsys init", "manage.py recsys init"),
        ("flask recsys init", "flask recsys init"),
        ("Upgrade the recsys package", "Upgrade the recsys package"),
        ("Set RECSYS_DSN.", "Set another."),
    ],
)
def test_commands_get_their_name_and_prose_stays(text: str, said: str) -> None:
    with _wording.speaking(Wording("flask recsys", {"RECSYS_DSN": "another"})):
        assert _wording.said(text) == said
    assert _wording.said(text) == text


def _shown(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))


def test_a_traceback_shows_the_hint_once() -> None:
    own = ConfigError("wrong", hint="do this")
    again = pickle.loads(pickle.dumps(own))

    assert str(own) == "wrong"
    assert _shown(own).count("Hint: do this") == 1
    assert _shown(again).count("Hint: do this") == 1
    assert "Hint: Run 'recsys upgrade'." in _shown(SchemaError("old"))
    assert "Hint" not in _shown(RecsysError("plain"))


def test_a_hint_is_reworded_in_the_traceback_too() -> None:
    with (
        pytest.raises(SchemaError) as caught,
        _wording.raising(Wording("manage.py recsys")),
    ):
        raise SchemaError("old")

    assert caught.value.hint == "Run 'manage.py recsys upgrade'."
    assert _shown(caught.value).count("Hint:") == 1
    assert "'manage.py recsys upgrade'" in _shown(caught.value)


def test_one_is_not_many() -> None:
    assert counted(1, "item") == "1 item"
    assert counted(0, "item") == "0 items"
    assert counted(2_000, "item") == "2,000 items"
    assert counted(1, "item is", "items are") == "1 item is"
    assert counted(2, "item is", "items are") == "2 items are"
