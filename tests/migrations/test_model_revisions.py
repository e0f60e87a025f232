"""A revision file per model version: written, run up and down, online and offline."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import world
from schema_dump import dump

from recsys import _db, artifacts, revisions, rollout, schema, versions
from recsys.backfill import backfill
from recsys.config import IdType
from recsys.errors import (
    ArtifactError,
    ConfigError,
    RecsysError,
    SchemaError,
    VersionStateError,
)
from recsys.versions import VersionPlan

METRICS = {"validation": {"model": {"recall@20": 0.5, "ndcg@20": 0.25}}}


def declare(
    dsn: str, folder: Path, *, seed: int = 0, id_type: IdType = "bigint"
) -> Path:
    """Store artifacts and write the revision file, as a training does."""
    return write(dsn, folder, make_plan(dsn, seed=seed, id_type=id_type))


def make_plan(dsn: str, *, seed: int = 0, id_type: IdType = "bigint") -> VersionPlan:
    model = world.shop_config(id_type, features=True)
    with _db.connect(dsn) as conn:
        number = versions.next_number(conn, model)
        learned = world.learn(conn, model, seed=seed)
        return world.plan(conn, learned, number, metrics=METRICS)


def write(dsn: str, folder: Path, plan: VersionPlan) -> Path:
    return revisions.write(plan, schema.alembic_config(dsn, folder), folder)


def text_of(dsn: str) -> str:
    with psycopg.connect(dsn) as conn:
        return dump(conn)


def serving(dsn: str) -> int | None:
    with _db.connect(dsn) as conn:
        return versions.serving_number(conn, "shop")


def promote(dsn: str, number: int) -> None:
    backfill(dsn, "shop", number)
    with _db.connect(dsn) as conn:
        rollout.promote(conn, "shop", number, reason="test", force=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return (tmp_path / "recsys_versions").resolve()


@pytest.fixture
def shop_dsn(dsn: str) -> str:
    world.fill_shop(dsn, items=60, users=10)
    return dsn


def test_the_file_is_clean_python_and_tells_the_metrics(
    shop_dsn: str, folder: Path
) -> None:
    path = declare(shop_dsn, folder)

    text = path.read_text(encoding="utf-8")
    compile(text, str(path), "exec")
    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ruff.returncode == 0, ruff.stdout
    assert path.name == "shop_0001.py"
    assert "recall@20 0.5000" in text
    assert [p.name for p in folder.iterdir()] == ["shop_0001.py"]


@pytest.mark.parametrize("id_type", ["bigint", "uuid", "text"])
def test_up_and_down_leave_what_was_before(
    dsn: str, folder: Path, id_type: IdType
) -> None:
    world.fill_shop(dsn, id_type, items=60, users=10)
    before = text_of(dsn)
    declare(dsn, folder, id_type=id_type)

    schema.upgrade(dsn, folder)
    up = text_of(dsn)
    backfill(dsn, "shop")
    schema.downgrade(dsn, folder, revision="model@base")
    down = text_of(dsn)
    schema.upgrade(dsn, folder)

    assert up != before
    assert down == before
    assert text_of(dsn) == up
    backfill(dsn, "shop")
    promote(dsn, 1)


def test_both_roads_give_the_same_and_meet(shop_dsn: str, folder: Path) -> None:
    plan = make_plan(shop_dsn)
    with _db.connect(shop_dsn) as conn:
        versions.create(conn, plan)
    direct = text_of(shop_dsn)
    write(shop_dsn, folder, plan)

    schema.upgrade(shop_dsn, folder)

    assert text_of(shop_dsn) == direct
    with _db.connect(shop_dsn) as conn:
        versions.create(conn, plan)
        rollout.drop(conn, "shop", 1)
    schema.downgrade(shop_dsn, folder, revision="model@base")
    schema.upgrade(shop_dsn, folder)
    assert text_of(shop_dsn) == direct


def test_versions_form_a_chain(shop_dsn: str, folder: Path) -> None:
    declare(shop_dsn, folder, seed=1)
    schema.upgrade(shop_dsn, folder)
    declare(shop_dsn, folder, seed=2)
    schema.upgrade(shop_dsn, folder)

    schema.downgrade(shop_dsn, folder, revision="model@-1")
    with _db.connect(shop_dsn) as conn:
        assert [v.number for v in versions.list_versions(conn, "shop")] == [1]
    schema.upgrade(shop_dsn, folder)
    with _db.connect(shop_dsn) as conn:
        assert [v.number for v in versions.list_versions(conn, "shop")] == [2, 1]


def test_a_fresh_database_gets_core_and_versions_at_once(
    shop_dsn: str, empty_dsn: str, folder: Path, tmp_path: Path
) -> None:
    declare(shop_dsn, folder, seed=1)
    declare(shop_dsn, folder, seed=2)
    schema.upgrade(shop_dsn, folder)
    carried = tmp_path / "artifacts"
    with _db.connect(shop_dsn) as conn:
        for number in (1, 2):
            artifacts.export_version(conn, "shop", number, carried)

    with pytest.raises(ArtifactError, match="item_tower") as caught:
        schema.upgrade(empty_dsn, folder)
    assert "artifacts import" in caught.value.hint
    schema.upgrade(empty_dsn, revision="core@head")
    with _db.connect(empty_dsn) as conn:
        artifacts.import_folder(conn, carried)
    world.fill_shop(empty_dsn, items=60, users=10)
    schema.upgrade(empty_dsn, folder)

    assert text_of(empty_dsn) == text_of(shop_dsn)


def test_a_down_of_the_serving_version_hands_over(shop_dsn: str, folder: Path) -> None:
    for seed in (1, 2):
        declare(shop_dsn, folder, seed=seed)
        schema.upgrade(shop_dsn, folder)
        promote(shop_dsn, seed)

    schema.downgrade(shop_dsn, folder, revision="model@-1")

    assert serving(shop_dsn) == 1
    with _db.connect(shop_dsn) as conn:
        row = conn.execute("select * from recsys.switch_log limit 1").fetchone()
        assert row
        assert row[1:3] == (2, 1)
        assert row[-1] == "version 2 dropped"


def test_a_down_of_the_only_one_that_served_refuses_or_stops_serving(
    shop_dsn: str, folder: Path
) -> None:
    declare(shop_dsn, folder)
    schema.upgrade(shop_dsn, folder)
    promote(shop_dsn, 1)

    with pytest.raises(VersionStateError, match="no earlier version") as caught:
        schema.downgrade(shop_dsn, folder, revision="model@base")
    assert "promote shop none" in caught.value.hint
    assert serving(shop_dsn) == 1

    schema.downgrade(shop_dsn, folder, revision="model@base", stop_serving=True)
    assert serving(shop_dsn) is None


@pytest.mark.parametrize("direction", ["up", "down"])
def test_the_offline_script_does_what_the_migration_does(
    shop_dsn: str, folder: Path, direction: str
) -> None:
    declare(shop_dsn, folder)
    up, down = io.StringIO(), io.StringIO()
    schema.upgrade("", folder, revision="0005:shop_1", sql=True, output=up)
    schema.downgrade("", folder, revision="shop_1:model@base", sql=True, output=down)
    before = text_of(shop_dsn)

    with psycopg.connect(shop_dsn, autocommit=True) as conn:
        conn.execute(up.getvalue().encode())
        if direction == "down":
            conn.execute(down.getvalue().encode())
    offline = text_of(shop_dsn)

    if direction == "down":
        assert offline == before
        schema.upgrade(shop_dsn, folder)
    else:
        backfill(shop_dsn, "shop")
        schema.downgrade(shop_dsn, folder, revision="model@base")
        schema.upgrade(shop_dsn, folder)
        assert offline == text_of(shop_dsn)


def test_missing_artifacts_are_refused_and_nothing_is_made(
    shop_dsn: str, folder: Path
) -> None:
    declare(shop_dsn, folder)
    before = text_of(shop_dsn)
    with _db.connect(shop_dsn) as conn:
        conn.execute("delete from recsys.artifact where kind = 'safetensors'")

    with pytest.raises(ArtifactError, match="embeddings"):
        schema.upgrade(shop_dsn, folder)

    assert text_of(shop_dsn) == before


def test_other_id_types_are_refused(shop_dsn: str, folder: Path) -> None:
    plan = make_plan(shop_dsn)
    spec = {**plan.spec, "item_id": "text"}
    write(shop_dsn, folder, VersionPlan("shop", 1, spec, plan.artifacts))

    with pytest.raises(ConfigError, match="registered with item ids bigint"):
        schema.upgrade(shop_dsn, folder)


def test_a_missing_file_is_named(shop_dsn: str, folder: Path) -> None:
    path = declare(shop_dsn, folder)
    schema.upgrade(shop_dsn, folder)
    path.unlink()

    with pytest.raises(SchemaError, match="whose file is not here") as caught:
        schema.upgrade(shop_dsn, folder)

    assert "versions" in caught.value.hint


def test_sources_with_colons_percents_and_quotes_survive_the_file(
    shop_dsn: str, folder: Path
) -> None:
    plan = make_plan(shop_dsn)
    spec = {**plan.spec}
    spec["items"] = {
        **spec["items"],
        "sql": "select id as item_id, title, brand, price, created_at from product"
        " where title not like '%:name%' and title <> 'it''s \\ \"x\"' -- 100 %",
    }
    write(shop_dsn, folder, VersionPlan("shop", 1, spec, plan.artifacts))

    schema.upgrade(shop_dsn, folder)

    with _db.connect(shop_dsn) as conn:
        assert versions.get(conn, "shop", 1).spec["items"] == spec["items"]
    assert backfill(shop_dsn, "shop").item_count == 60


def test_a_revision_is_never_written_twice(shop_dsn: str, folder: Path) -> None:
    plan = make_plan(shop_dsn)
    path = write(shop_dsn, folder, plan)
    before = path.read_bytes()

    with pytest.raises(ConfigError, match="shop_1 exists already"):
        write(shop_dsn, folder, plan)
    renamed = path.rename(folder / "first.py")
    with pytest.raises(ConfigError, match="shop_1 exists already"):
        write(shop_dsn, folder, plan)

    assert [p.name for p in folder.glob("*.py")] == ["first.py"]
    assert renamed.read_bytes() == before


def test_a_broken_file_is_an_error_of_ours(shop_dsn: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "shop_0001.py").write_text("revision = 'x'\n")

    with pytest.raises((RecsysError, Exception)):
        schema.upgrade(shop_dsn, folder)


def test_a_file_that_was_not_applied_is_named(shop_dsn: str, folder: Path) -> None:
    declare(shop_dsn, folder)
    with _db.connect(shop_dsn) as conn:
        assert revisions.waiting(conn, folder, "shop") == [1]
    schema.upgrade(shop_dsn, folder)
    with _db.connect(shop_dsn) as conn:
        assert revisions.waiting(conn, folder, "shop") == []
    declare(shop_dsn, folder)
    with _db.connect(shop_dsn) as conn:
        assert revisions.waiting(conn, folder, "shop") == [2]
