"""``recsys tune`` on a shop's own tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import world
from conftest import SHOP, Run

from recsys import config


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tables(server: str, template: str) -> Iterator[str]:
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=60, users=60, events=12)
        yield dsn


SMALL = f"# the shop\n{SHOP}[model.shop.train]\ndim = 8      # small\nepochs = 2\n"


@pytest.fixture(autouse=True)
def _small(toml: Path) -> None:
    toml.write_text(SMALL)


def test_trials_are_printed_and_the_best_settings_written(
    run: Run, tables: str, tmp_path: Path
) -> None:
    first = run("--dsn", tables, "tune", "shop", "--trials", 1, "--format", "json")
    again = run("--dsn", tables, "tune", "shop", "--trials", 1)
    less = run(
        "--dsn", tables, "tune", "shop", "--resume", "--until", "2026-01-02",
        "--trials", 1,
    )  # fmt: skip
    more = run(
        "--dsn", tables, "tune", "shop", "--resume", "--trials", 6, "--write"
    )  # fmt: skip

    assert first.code == 0, first.err
    (row,) = json.loads(first.out)
    assert row["trial"] == 0
    assert row["state"] == "complete"
    assert (row["tau"], row["dropout"]) == (0.1, 0.5)
    assert "Only today's settings were tried" in first.err
    assert "Go on: recsys tune shop --resume --budget " in first.err
    assert less.code == 1
    assert "leaves out some of what the study shop.study was begun on" in less.err
    assert again.code == 1
    assert "exists: 1 trial, of which 1 finished" in again.err
    assert "--resume" in again.err
    assert more.code == 0, more.err
    text = (tmp_path / "recsys.toml").read_text()
    assert text.startswith("# the shop\n")
    assert "dim = 8      # small\n" in text
    settings = config.load(tmp_path / "recsys.toml").model("shop").train
    if "Another seed confirms it" in more.err:
        assert f"+tau = {settings.tau!r}" in more.out
    else:
        assert "Nothing was written" in more.err
        assert text == SMALL


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "must be positive"),
        (["--budget", "-1"], "must be positive"),
        (["--search", "colour", "--trials", "1"], "colour cannot be searched"),
        (["--study", "recsys.toml", "--trials", "1"], "is not a study"),
        (["--study", "no/such/folder", "--trials", "1"], "cannot use"),
    ],
)
def test_bad_arguments_say_what_to_do(
    run: Run, tables: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run("--dsn", tables, "tune", "shop", *arguments)

    assert result.code == 1
    assert message in result.err
    assert "Hint: " in result.err or "positive" in message


def test_a_study_that_is_not_there_is_not_begun_by_resuming(
    run: Run, tables: str, tmp_path: Path
) -> None:
    ended = run("--dsn", tables, "tune", "shop", "--resume", "--study", "no.study")

    assert ended.code == 1
    assert "there is no study" in ended.err
    assert "leave out --resume" in ended.err
    assert not (tmp_path / "no.study").exists()


def test_a_budget_that_ends_no_trial_says_how_to_begin_anew(
    run: Run, tables: str, toml: Path
) -> None:
    toml.write_text(SMALL.replace("epochs = 2", "epochs = 5000"))

    ended = run("--dsn", tables, "tune", "shop", "--budget", 0.5)

    assert ended.code == 0, ended.err
    assert "No trial was finished in this time, so nothing was compared" in ended.err
    assert "Begin a new study with --study FILE and a larger --budget." in ended.err


def test_the_command_that_goes_on_has_the_study_and_no_smaller_budget(
    run: Run, tables: str
) -> None:
    ended = run(
        "--dsn", tables, "tune", "shop", "--trials", 1, "--budget", 3000,
        "--study", "my own.study",
    )  # fmt: skip

    assert (
        "Go on: recsys tune shop --study 'my own.study' --resume --budget 3000"
        in ended.err
    )
