"""Settings, checks and manage.py recsys."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import (
    CommandError,
    call_command,
    get_commands,
    load_command_class,
)
from django.db import connection
from django_project import SETTINGS_TOML, Changes, point
from django_store.models import Product
from django_store.recommenders import shop
from world import Shop

from recsys import _db
from recsys.django import checks, conf, recommender
from recsys.django._registry import _registered
from recsys.django._source import dsn_of_alias
from recsys.errors import ConfigError, UnknownModel


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"MODELS": {"shop": {}}}, "recsys.toml only"),
        ({"DATABSE": "default"}, "Did you mean 'DATABASE'?"),
        ({"NONSENSE": 1}, "Known keys"),
        ({"DATABASE": "nowhere"}, "names no database"),
        ({"TIMEOUT_MS": "200"}, "must be int or float, got str"),
        ({"TIMEOUT_MS": True}, "must be int or float, got bool"),
        ({"TIMEOUT_MS": 0.2}, "milliseconds, 1 or more"),
        ({"IMPRESSIONS": "always"}, "is unknown: 'always'"),
        ({"READS": "replica"}, "must be list or tuple"),
        ({"READS": [1]}, "aliases or connection strings"),
        ({"SESSION_ITEMS": 0}, "1 to 1000"),
        ({"FALLBACK": 1}, "must be bool"),
        (["CONFIG"], "must be a dict"),
    ],
)
def test_a_wrong_setting_is_found_by_check(
    store: Shop, settings_: Changes, given: object, said: str
) -> None:
    settings_.set(RECSYS=given)

    found = checks.check_settings()

    assert [message.id for message in found] == ["recsys.E001"]
    assert said in f"{found[0].msg} {found[0].hint}"
    with pytest.raises(ConfigError):
        conf.current()


def test_a_right_set_up_has_nothing_to_say(store: Shop) -> None:
    for name in ("settings", "middleware", "recommenders"):
        assert getattr(checks, f"check_{name}")() == []
    assert checks.check_database(databases=["default"]) == []
    assert checks.check_database(databases=None) == []
    call_command("check", databases=["default"], verbosity=0, stdout=io.StringIO())


def test_a_missing_or_broken_toml_is_found(
    store: Shop, settings_: Changes, tmp_path: Path
) -> None:
    settings_.set(RECSYS={"CONFIG": tmp_path / "nothing.toml"})
    missing = checks.check_settings()
    (tmp_path / "broken.toml").write_text("[model.shop]\nnonsense = 1\n")
    settings_.set(RECSYS={"CONFIG": str(tmp_path / "broken.toml")})
    broken = checks.check_settings()

    assert [m.id for m in (*missing, *broken)] == ["recsys.W003", "recsys.E002"]
    assert "nothing.toml" in missing[0].msg
    assert checks.check_recommenders() == []


def test_another_kind_of_database_is_found(store: Shop, settings_: Changes) -> None:
    settings_.set(RECSYS={**settings.RECSYS, "DATABASE": "lite"})

    assert [m.id for m in checks.check_settings()] == ["recsys.E003"]
    with pytest.raises(ConfigError, match="no PostgreSQL but sqlite"):
        shop.recommend(7)


def test_a_middleware_in_the_wrong_place_is_found(
    store: Shop, settings_: Changes
) -> None:
    settings_.set(MIDDLEWARE=list(reversed(settings.MIDDLEWARE)))
    wrong = checks.check_middleware()
    settings_.set(MIDDLEWARE=[])

    assert [m.id for m in wrong] == ["recsys.E004", "recsys.E004"]
    assert checks.check_middleware() == []


def test_a_recommender_of_no_model_or_of_other_ids_is_found(store: Shop) -> None:
    recommender("books", Product)
    recommender("shop", Product, item_field="title")
    try:
        found = checks.check_recommenders()
    finally:
        del _registered["books"]
        recommender("shop", Product)

    assert sorted(m.id for m in found) == ["recsys.E005", "recsys.E006"]
    assert any("TextField" in m.msg for m in found)


def test_a_database_without_schema_or_serving_version_is_found(
    empty_dsn: str, settings_: Changes, tmp_path: Path
) -> None:
    (tmp_path / "recsys.toml").write_text(SETTINGS_TOML)
    settings_.set(RECSYS={"CONFIG": tmp_path / "recsys.toml"})
    point("default", empty_dsn)
    not_migrated = checks.check_database(databases=["default"])
    call_command("migrate", "recsys", "0002", verbosity=0)
    half_migrated = checks.check_database(databases=["default"])
    call_command("migrate", "recsys", verbosity=0)
    no_version = checks.check_database(databases=["default"])
    with connection.cursor() as cursor:
        cursor.execute("drop schema recsys cascade")
    no_schema = checks.check_database(databases=["default"])
    connection.close()
    point("default", "host=/nonexistent dbname=x")
    no_server = checks.check_database(databases=["default"])

    assert [(m.id, m.hint) for m in not_migrated] == [
        ("recsys.W001", "Run 'manage.py migrate'.")
    ]
    assert [m.id for m in half_migrated] == ["recsys.W001"]
    assert "revision 0002" in half_migrated[0].msg
    assert [m.id for m in no_version] == ["recsys.W002"]
    assert "train shop --apply; then" in no_version[0].hint
    assert [m.id for m in no_schema] == ["recsys.W001"]
    assert "no recsys schema" in no_schema[0].msg
    assert [m.id for m in no_server] == ["recsys.W001"]


def test_a_version_that_is_ready_is_named_for_the_promotion(store: Shop) -> None:
    with connection.cursor() as cursor:
        cursor.execute("delete from recsys.rollout")

    (found,) = checks.check_database(databases=["default"])

    assert found.hint == "manage.py recsys promote shop 2"


def test_a_setting_beside_recsys_is_found(store: Shop, settings_: Changes) -> None:
    settings_.set(RECSY={}, RECSYS_TIMEOUT_MS=200)

    found = checks.check_settings()

    assert [m.id for m in found] == ["recsys.W004"] * 2
    assert "Did you mean 'RECSYS'?" in found[0].hint
    assert '{"TIMEOUT_MS": ...}' in found[1].hint


def test_a_password_in_the_settings_is_found(store: Shop, settings_: Changes) -> None:
    settings_.set(RECSYS={**settings.RECSYS, "READS": ["default", "host=a password=b"]})

    assert [m.id for m in checks.check_settings()] == ["recsys.W005"]


def test_the_core_in_installed_apps_is_told_from_the_app(tmp_path: Path) -> None:
    code = (
        "import django; from django.conf import settings;"
        "settings.configure(INSTALLED_APPS=['recsys']); django.setup()"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert "the Django app is 'recsys.django'" in done.stderr


def test_the_command_speaks_of_manage_py(
    empty_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    point("default", empty_dsn)
    command = load_command_class("recsys.django", "recsys")
    with pytest.raises(SystemExit):
        command.run_from_argv(["manage.py", "recsys", "versions", "shop"])
    failed = capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.run_from_argv(["manage.py", "recsys", "doctor", "--format", "csv"])

    assert "Hint: Run 'manage.py migrate'." in failed
    assert "manage.py migrate" in capsys.readouterr().out


def test_a_wrong_alias_is_one_line(
    settings_: Changes, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_.set(RECSYS={"DATABASE": "nowhere"})
    command = load_command_class("recsys.django", "recsys")
    command.stderr._out = sys.stderr

    with pytest.raises(SystemExit):
        command.run_from_argv(["manage.py", "recsys", "versions"])

    said = capsys.readouterr().err
    assert "CommandError: RECSYS['DATABASE'] names no database: 'nowhere'" in said
    assert "Traceback" not in said


def test_an_error_in_a_view_speaks_of_manage_py(empty_dsn: str) -> None:
    point("default", empty_dsn)
    call_command("migrate", "recsys", verbosity=0)

    with pytest.raises(UnknownModel) as caught:
        shop.recommend(7)
    connection.close()

    assert "'manage.py recsys train MODEL'" in caught.value.hint
    assert f"Hint: {caught.value.hint}" in caught.value.__notes__


def test_changed_settings_are_read_anew(store: Shop, settings_: Changes) -> None:
    before = shop.core
    same = shop.core

    settings_.set(RECSYS={"TIMEOUT_MS": 500})

    assert before is same
    assert shop.core is not before


def test_replicas_are_named_by_alias_or_connection_string(
    store: Shop, settings_: Changes
) -> None:
    settings_.set(RECSYS={"READS": ["default", store.dsn]})

    page = shop.recommend(7, k=5)

    assert len(page) == 5


def test_a_connection_string_has_what_django_connects_with(store: Shop) -> None:
    options = connection.settings_dict["OPTIONS"]
    options.update(
        assume_role="recsys_trainer", application_name="shop web", connect_timeout=3
    )
    try:
        with _db.connect(dsn_of_alias("default")) as conn:
            row = conn.execute("select current_user, current_database()").fetchone()
    finally:
        options.clear()

    assert row == ("recsys_trainer", connection.settings_dict["NAME"])
    with pytest.raises(ConfigError, match="no alias 'nowhere'"):
        dsn_of_alias("nowhere")


def test_the_command_runs_on_the_database_of_the_settings(store: Shop) -> None:
    out = io.StringIO()

    call_command("recsys", "versions", "shop", "--format", "csv", stdout=out)

    assert get_commands()["recsys"] == "recsys.django"
    assert "shop,2,ready" in out.getvalue()


def test_a_training_does_not_replace_the_process_that_calls_it(
    store: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)

    with pytest.raises(CommandError, match="failed"):
        call_command("recsys", "train", "books", stderr=io.StringIO())

    assert "MALLOC_MMAP_MAX_" not in os.environ


def test_a_command_that_fails_says_so(store: Shop) -> None:
    err = io.StringIO()

    with pytest.raises(CommandError, match="'recsys versions books' failed"):
        call_command("recsys", "versions", "books", stderr=err)

    assert "no model named 'books'" in err.getvalue()


def test_the_command_mirrors_every_command_of_the_cli(
    store: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    from recsys.cli.app import cli

    load_command_class("recsys.django", "recsys").run_from_argv(
        ["manage.py", "recsys", "--help"]
    )

    shown = capsys.readouterr().out
    for name in cli.commands:
        assert f"  {name}" in shown
    assert "Usage: manage.py recsys" in shown


def test_manage_py_recsys_in_a_process_of_its_own(store: Shop, tmp_path: Path) -> None:
    parts = {
        key: value
        for key, value in connection.settings_dict.items()
        if key in ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT")
    }
    (tmp_path / "own_settings.py").write_text(
        "SECRET_KEY = 'x'\nUSE_TZ = True\n"
        "INSTALLED_APPS = ['django.contrib.auth', 'django.contrib.contenttypes',"
        " 'recsys.django']\n"
        f"DATABASES = {{'default': {parts!r}}}\n"
        f"RECSYS = {{'CONFIG': {str(tmp_path / 'recsys.toml')!r}}}\n"
    )

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "django", "recsys", *arguments],
            env={"DJANGO_SETTINGS_MODULE": "own_settings", "PYTHONPATH": "."},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    good = manage("--settings=own_settings", "recommend", "shop", "7", "-k", "2")
    bad = manage("promote", "shop", "9")
    usage = manage("recommend")

    assert good.returncode == 0, good.stderr
    assert "item_id" in good.stdout
    assert (bad.returncode, usage.returncode) == (1, 2)
    assert "Error: model 'shop' has no version 9" in bad.stderr
    assert "manage.py recsys" in usage.stderr
    assert "Traceback" not in good.stderr + bad.stderr + usage.stderr


def test_importing_recsys_loads_no_django() -> None:
    code = "import recsys, sys; assert 'django' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)
