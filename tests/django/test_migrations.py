"""manage.py migrate brings the recsys schema up and down; operations for the app."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import world
from django.core.management import CommandError, call_command
from django.db import connection, migrations
from django.db.migrations.state import ProjectState
from django_project import SETTINGS_TOML, point
from world import Shop

from recsys import _db, schema
from recsys.django.operations import UpgradeModels, UpgradeSchema, WatchModel

CORE = Path(schema.__file__).parent.parent / "migrations" / "versions"


@pytest.fixture
def empty(empty_dsn: str, tmp_path: Path, settings_) -> Iterator[str]:
    """An empty database behind the alias "default"."""
    (tmp_path / "recsys.toml").write_text(SETTINGS_TOML)
    settings_.set(RECSYS={"CONFIG": tmp_path / "recsys.toml"})
    point("default", empty_dsn)
    yield empty_dsn
    connection.close()


def _revision(dsn: str) -> str | None:
    with psycopg.connect(dsn) as conn:
        known = conn.execute("select to_regclass('recsys.alembic_version')").fetchone()
        if known[0] is None:
            return None
        row = conn.execute("select version_num from recsys.alembic_version").fetchone()
        return row[0] if row else None


def _forwards(operation: migrations.operations.base.Operation, *, atomic: bool) -> None:
    with connection.schema_editor(atomic=atomic) as editor:
        state = ProjectState()
        operation.database_forwards("django_store", editor, state, state)


def _backwards(
    operation: migrations.operations.base.Operation, *, atomic: bool
) -> None:
    with connection.schema_editor(atomic=atomic) as editor:
        state = ProjectState()
        operation.database_backwards("django_store", editor, state, state)


def test_every_core_revision_has_a_migration_of_the_app() -> None:
    ours = sorted(p.stem for p in CORE.glob("0*.py"))
    folder = Path(schema.__file__).parent / "django" / "migrations"
    theirs = sorted(p.stem for p in folder.glob("0*.py"))

    assert ours == theirs
    for path in folder.glob("0*.py"):
        core = (CORE / path.name).read_text()
        safe = re.search(r"Safe before new code: (\w+)", core)[1]
        assert f"Safe before new code: {safe}" in path.read_text()
        assert f'UpgradeSchema("{path.stem[:4]}"' in path.read_text()


@pytest.mark.filterwarnings("ignore:Got an error checking:RuntimeWarning")
def test_the_models_and_the_migrations_agree(store: Shop) -> None:
    call_command("makemigrations", "recsys", check=True, dry_run=True, verbosity=0)


def test_migrate_makes_the_schema_and_takes_it_down(empty: str) -> None:
    seen = []
    for target in ("0001", "0003", "0005", "0003", "0001", "zero", "0005"):
        call_command("migrate", "recsys", target, verbosity=0)
        seen.append(_revision(empty))

    assert seen == ["0001", "0003", "0005", "0003", "0001", None, "0005"]


def test_a_schema_that_recsys_made_is_taken_over(empty: str) -> None:
    schema.upgrade(empty)

    call_command("migrate", "recsys", verbosity=0)

    assert _revision(empty) == schema.CORE_REVISION


def test_another_database_gets_no_schema(empty: str, settings_) -> None:
    with connection.schema_editor(atomic=False) as editor:
        state = ProjectState()
        settings_.set(RECSYS={"DATABASE": "other"})
        UpgradeSchema("0001", before="base").database_forwards(
            "recsys", editor, state, state
        )

    assert _revision(empty) is None


def test_sqlmigrate_prints_the_statements(empty: str) -> None:
    out = io.StringIO()

    call_command("sqlmigrate", "recsys", "0002", stdout=out)
    backwards = io.StringIO()
    call_command("sqlmigrate", "recsys", "0002", backwards=True, stdout=backwards)

    assert "create table recsys.item_change" in out.getvalue()
    assert "create table recsys.model " not in out.getvalue()
    assert "recsys.item_change" in backwards.getvalue()


def test_an_atomic_migration_is_refused_before_it_waits_for_itself(empty: str) -> None:
    with pytest.raises(CommandError, match=r"must not be atomic.*atomic = False"):
        _forwards(UpgradeSchema("0001", before="base"), atomic=True)

    assert _revision(empty) is None


def test_watch_model_puts_the_triggers_on_and_takes_them_off(store: Shop) -> None:
    def triggers() -> int:
        with _db.connect(store.dsn) as conn:
            return conn.execute(
                "select triggers from recsys.change_status where model = 'shop'"
            ).fetchone()[0]

    _forwards(WatchModel("shop"), atomic=True)
    watched = triggers()
    _backwards(WatchModel("shop"), atomic=True)

    assert watched > 0
    assert triggers() == 0


def test_watch_model_works_before_the_first_training(empty: str) -> None:
    schema.upgrade(empty)
    world.fill_shop(empty, items=5, users=2, events=2)

    _forwards(WatchModel("shop"), atomic=True)
    with _db.connect(empty) as conn:
        conn.execute("update product set title = 'other' where id = 1")
        queued = conn.execute("select item_id from recsys.item_change").fetchall()

    assert ("1",) in queued or (1,) in queued


def test_watch_model_is_undone_with_its_migration(store: Shop) -> None:
    def fail() -> None:
        with connection.schema_editor(atomic=True) as editor:
            state = ProjectState()
            WatchModel("shop").database_forwards("django_store", editor, state, state)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    with _db.connect(store.dsn) as conn:
        row = conn.execute("select triggers from recsys.change_status").fetchone()
    assert row == (0,)


@contextmanager
def _files(store: Shop, tmp_path: Path) -> Iterator[Path]:
    """Revision files for versions 3 and 4, their artifacts stored."""
    from recsys import revisions, versions

    folder = tmp_path / "recsys_versions"
    with _db.connect(store.dsn) as conn:
        model = world.shop_config(features=True)
        for seed in (3, 4):
            number = versions.next_number(conn, model)
            learned = world.learn(conn, model, seed=seed)
            revisions.write(
                world.plan(conn, learned, number),
                schema.alembic_config(store.dsn, folder),
                folder,
            )
    yield folder


def _numbers(dsn: str) -> list[int]:
    with _db.connect(dsn) as conn:
        rows = conn.execute("select number from recsys.model_version order by 1")
        return [row[0] for row in rows]


def test_upgrade_models_makes_the_versions_of_the_files_and_drops_them(
    store: Shop, tmp_path: Path
) -> None:
    toml = tmp_path / "recsys.toml"
    toml.write_text('versions = "recsys_versions"\n' + toml.read_text())
    with _files(store, tmp_path):
        _forwards(UpgradeModels("shop_3"), atomic=False)
        one = _numbers(store.dsn)
        _forwards(UpgradeModels("shop_4"), atomic=False)
        two = _numbers(store.dsn)
        _backwards(UpgradeModels("shop_4"), atomic=False)
        back = _numbers(store.dsn)
        _backwards(UpgradeModels("shop_3"), atomic=False)

    assert (one, two, back) == ([1, 2, 3], [1, 2, 3, 4], [1, 2, 3])
    assert _numbers(store.dsn) == [1, 2]


def test_a_revision_file_of_another_database_can_go(
    store: Shop, tmp_path: Path
) -> None:
    toml = tmp_path / "recsys.toml"
    toml.write_text('versions = "recsys_versions"\n' + toml.read_text())
    with _files(store, tmp_path), connection.cursor() as cursor:
        cursor.execute(
            "delete from recsys.artifact where not exists (select from"
            " recsys.model_version, jsonb_each_text(artifacts) where value = sha256)"
        )

        with pytest.raises(CommandError, match=r"not in this database.*: delete it"):
            _forwards(UpgradeModels("shop_3"), atomic=False)


def test_upgrade_models_leaves_a_database_without_artifacts_alone(
    empty: str, caplog: pytest.LogCaptureFixture
) -> None:
    schema.upgrade(empty)

    _forwards(UpgradeModels("shop_3"), atomic=False)
    _backwards(UpgradeModels("shop_3"), atomic=False)

    assert "holds no artifacts" in caplog.text


def test_upgrade_models_to_all_of_them_cannot_be_undone(store: Shop) -> None:
    with pytest.raises(CommandError, match=r"cannot be reversed.*Name the version"):
        _backwards(UpgradeModels(), atomic=False)


def test_operations_say_what_they_do() -> None:
    said = [
        operation.describe()
        for operation in (
            UpgradeSchema("0001", before="base"),
            UpgradeModels("shop_2"),
            WatchModel("shop"),
        )
    ]

    assert said == [
        "Upgrade the recsys schema to 0001",
        "Make the recsys model versions up to shop_2",
        "Capture the changes that concern the recsys model shop",
    ]


def test_a_migration_file_can_hold_the_operations() -> None:
    from django.db.migrations.writer import MigrationWriter

    class Migration(migrations.Migration):
        operations = [  # noqa: RUF012
            UpgradeSchema("0001", before="base"),
            UpgradeModels("shop_2"),
            WatchModel("shop"),
        ]

    text = MigrationWriter(Migration("0001", "django_store")).as_string()

    assert "recsys.django.operations.WatchModel(" in text
    assert "model='shop'" in text
