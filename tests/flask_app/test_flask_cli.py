"""``flask recsys ...`` is ``recsys ...`` on the application's database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import flask_shop_app as shop_app
import pytest
from flask import Flask

from recsys.cli.app import cli
from recsys.flask._cli import group


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("RECSYS_", "PG"))]:
        monkeypatch.delenv(name)


def test_every_command_is_there() -> None:
    ctx = click.Context(group)

    assert group.list_commands(ctx) == cli.list_commands(ctx)
    assert all(
        group.get_command(ctx, name) is cli.commands[name] for name in cli.commands
    )


def test_a_command_runs_on_the_database_of_the_session(app: Flask) -> None:
    done = app.test_cli_runner().invoke(
        args=["recsys", "recommend", "shop", "7", "-k", "2", "--format", "csv"]
    )

    assert done.exit_code == 0, done.output
    assert done.output.startswith("rank,item_id,score\n1,")


def test_a_dsn_in_the_configuration_comes_first(shop_dsn: str) -> None:
    app = shop_app.make(
        SQLALCHEMY_DATABASE_URI="postgresql+psycopg://nowhere", RECSYS_DSN=shop_dsn
    )

    done = app.test_cli_runner().invoke(
        args=["recsys", "versions", "--format", "csv"]
    )  # fmt: skip

    assert "shop,1,serving" in done.output.replace(" ", "")


def test_a_dsn_on_the_command_line_comes_before_all(app: Flask, shop_dsn: str) -> None:
    done = app.test_cli_runner().invoke(
        args=["recsys", "--dsn", "host=/nowhere", "versions"]
    )

    assert done.exit_code == 1
    assert "cannot connect" in done.output


def test_the_configuration_says_where_recsys_toml_is(
    shop_dsn: str, tmp_path: Path
) -> None:
    path = tmp_path / "conf" / "recsys.toml"
    path.parent.mkdir()
    app = shop_app.make(RECSYS_DSN=shop_dsn, RECSYS_CONFIG=str(path))

    done = app.test_cli_runner().invoke(args=["recsys", "init", "shop"])

    assert done.exit_code == 0, done.output
    assert path.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["recommend", "nope", "7"], "Error: no model named 'nope' is registered"),
        (["promote", "shop", "99"], "Hint:"),
        (["recommend", "shop", "seven"], "Error: USER_ID must be bigint, got 'seven'"),
        (
            ["recommend", "shop", "7", "--among", "select 1 from nowhere"],
            'Error: the filter',
        ),
    ],
)  # fmt: skip
def test_an_error_is_two_lines_and_exit_status_1(
    app: Flask, arguments: list[str], says: str
) -> None:
    done = app.test_cli_runner().invoke(args=["recsys", *arguments])

    assert done.exit_code == 1
    assert says in done.output
    assert "Traceback" not in done.output


def test_a_database_without_the_schema_is_said(empty_dsn: str) -> None:
    app = shop_app.make(RECSYS_DSN=empty_dsn)

    done = app.test_cli_runner().invoke(args=["recsys", "status"])

    assert done.exit_code == 1
    assert "'flask recsys upgrade'" in done.output


def test_advice_is_in_the_words_of_flask(
    app: Flask, tmp_path: Path, empty_dsn: str
) -> None:
    app.config["RECSYS_CONFIG"] = tmp_path / "recsys.toml"
    run = app.test_cli_runner().invoke

    lost = run(args=["recsys", "--dsn", "host=/nowhere", "versions"]).output
    doctor = run(args=["recsys", "--dsn", empty_dsn, "doctor"]).output
    made = run(args=["recsys", "init", "shop"]).output

    assert "Hint: Set SQLALCHEMY_DATABASE_URI, or RECSYS_DSN of app.config," in lost
    assert "'flask recsys doctor'" in lost
    assert "'flask recsys upgrade'" in doctor
    assert "'flask recsys upgrade'" in made


def test_wrong_usage_is_exit_status_2(app: Flask) -> None:
    done = app.test_cli_runner().invoke(args=["recsys", "promote"])

    assert done.exit_code == 2


def test_it_works_from_the_shell(shop_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from flask import Flask\n"
        "from recsys.flask import Recsys\n"
        "app = Flask(__name__)\n"
        f"app.config['RECSYS_DSN'] = {shop_dsn!r}\n"
        "Recsys(app)\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", "recsys", "versions",
         "--format", "csv"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "shop,1,serving" in done.stdout.replace(" ", "")
