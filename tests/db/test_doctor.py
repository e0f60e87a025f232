"""doctor: every kind of damage is found, named, and never hides the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import world
from psycopg.types.json import Jsonb
from world import Shop

from recsys import _db, capture, doctor
from recsys import config as configuration
from recsys.doctor import Finding, examine
from recsys.settings import Settings


def look(dsn: str, config: Path = Path("/nonexistent/recsys.toml")) -> list[Finding]:
    return examine(Settings(dsn=dsn, config=config))


def bad(findings: list[Finding]) -> list[Finding]:
    shared = ("memory", "/dev/shm", "pgvector", "server")
    return [f for f in findings if f.result != "ok" and f.check not in shared]


def test_a_healthy_database_has_nothing_to_do(shop: Shop) -> None:
    findings = look(shop.dsn)

    assert bad(findings) == []
    checks = [f.check for f in findings]
    assert checks[0] == "server"
    for name in ("pgvector", "memory", "privileges", "schema", "shop 1", "shop 2"):
        assert name in checks
    assert "shop 1 coverage" in checks


def test_no_server_is_one_finding_with_a_hint() -> None:
    (finding,) = look("host=/nowhere")

    assert finding.result == "fail"
    assert finding.hint


def test_a_database_without_schema_or_pgvector_is_told(empty_dsn: str) -> None:
    findings = {f.check: f for f in look(empty_dsn)}

    assert findings["schema"].result == "fail"
    assert "recsys upgrade" in findings["schema"].hint
    assert findings["pgvector"].result == "fail"
    assert "create extension" in findings["pgvector"].hint


def damage(*statements: str) -> Callable[[_db.Connection], None]:
    def do(conn: _db.Connection) -> None:
        for statement in statements:
            conn.execute(statement.encode())

    return do


@pytest.mark.parametrize(
    ("how", "check", "result", "detail"),
    [
        (
            damage("drop index recsys.item_vector_shop_1_hnsw"),
            "shop 1",
            "fail",
            "HNSW index is missing",
        ),
        (
            damage("delete from recsys.artifact where kind = 'onnx'"),
            "shop 1",
            "fail",
            "not in this database",
        ),
        (
            damage(
                "alter table recsys.artifact drop constraint"
                " artifact_content_matches_its_name",
                "update recsys.artifact set content = 'x'",
            ),
            "shop 1",
            "fail",
            "corrupted",
        ),
        (
            damage("drop table recsys.item_vector_shop_1 cascade"),
            "shop 1",
            "fail",
            "tables are missing",
        ),
        (
            damage(
                "drop index recsys.item_vector_shop_1_hnsw",
                "alter table recsys.item_vector_shop_1 alter embedding"
                " type halfvec(4) using subvector(embedding, 1, 4)",
            ),
            "shop 1",
            "fail",
            "4 dimensions",
        ),
        (
            damage("delete from product where id < 4"),
            "shop 1 coverage",
            "warn",
            "3 vectors without an item",
        ),
        (
            damage("drop table product"),
            "shop 1 coverage",
            "fail",
            "product",
        ),
        (
            damage(
                "update recsys.model_version set state = 'building', error = 'boom'"
            ),
            "shop 1",
            "warn",
            "boom",
        ),
        (
            damage(
                "create or replace function recsys.schema_version() returns text"
                " language sql immutable return '9999'"
            ),
            "schema",
            "fail",
            "newer",
        ),
    ],
)
def test_damage_is_named_and_hides_nothing(
    shop: Shop,
    how: Callable[[_db.Connection], None],
    check: str,
    result: str,
    detail: str,
) -> None:
    with _db.connect(shop.dsn) as conn:
        how(conn)

    findings = look(shop.dsn)

    found = [f for f in findings if f.check == check and f.result == result]
    assert found
    assert detail in found[0].detail
    assert found[0].hint
    assert any(f.check == "recsys.toml" for f in findings)


def test_a_role_without_privileges_is_told(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        conn.execute("create role recsys_test_doctor")
    try:
        findings = bad(look(world.as_role(shop.dsn, "recsys_test_doctor")))
    finally:
        with _db.connect(shop.dsn) as conn:
            conn.execute("drop role recsys_test_doctor")

    assert any("grant recsys_app" in f.hint for f in findings)


@pytest.mark.parametrize("role", ["recsys_app", "recsys_analyst", "recsys_trainer"])
def test_every_role_can_run_it(shop: Shop, role: str) -> None:
    findings = look(world.as_role(shop.dsn, role))

    assert any(f.check == "schema" and f.result == "ok" for f in findings)


def test_the_configuration_is_checked_against_the_database(
    shop: Shop, tmp_path: Path
) -> None:
    path = tmp_path / "recsys.toml"
    path.write_text("[modle.x]\n")
    assert any("modle" in f.detail for f in bad(look(shop.dsn, path)))
    sql = json.dumps("select id as item_id from no_such_table")
    path.write_text(
        '[model.x]\nitem_id = "bigint"\nuser_id = "bigint"\n'
        f"[model.x.items]\nsql = {sql}\n"
        '[model.x.interactions]\nsql = "select 1 as user_id, 2 as item_id"\n'
    )
    (finding,) = bad(look(shop.dsn, path))
    assert "no_such_table" in finding.detail
    path.write_text(
        '[model.x]\n[model.x.items]\nsql = "select id as item_id, title from product"\n'
        'features = { title = { type = "number" } }\n'
        '[model.x.interactions]\nsql = "select 1 as user_id, 2 as item_id"\n'
    )
    (finding,) = bad(look(shop.dsn, path))
    assert finding.result == "fail"
    assert "feature 'title' is declared as number" in finding.detail


def test_an_old_server_and_pgvector_are_warned_about(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_db, "pgvector_version", lambda _: (0, 8, 1))
    findings = {f.check: f for f in look(shop.dsn)}
    assert findings["pgvector"].result == "warn"
    assert "0.8.4" in findings["pgvector"].hint
    monkeypatch.setattr(_db, "pgvector_version", lambda _: (0, 7, 0))
    findings = {f.check: f for f in look(shop.dsn)}
    assert findings["pgvector"].result == "fail"
    assert doctor is not None


def test_a_version_whose_requests_fail_is_told(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        conn.execute("alter table event rename column created_at to moment")

    findings = {f.check: f for f in look(shop.dsn)}

    assert findings["shop 1 requests"].result == "fail"
    assert "created_at" in findings["shop 1 requests"].detail


# changes ----------------------------------------------------------------------------


def changes(dsn: str, path: Path = Path("/nonexistent/recsys.toml")) -> list[str]:
    """What is wrong with capture, queue, workers and tasks."""
    return [
        f"{f.check}: {f.detail} -> {f.hint}"
        for f in bad(look(dsn, path))
        if "coverage" not in f.check
    ]


@pytest.fixture
def watched(shop: Shop, tmp_path: Path) -> tuple[Shop, Path]:
    """A shop with triggers on its products, and its recsys.toml."""
    path = tmp_path / "recsys.toml"
    path.write_text(TOML.replace("COLUMNS", "title"), encoding="utf-8")
    with _db.connect(shop.dsn) as conn:
        capture.watch(conn, configuration.load(path).model("shop"))
        conn.execute("update recsys.capture set reconcile_after = null")
    return shop, path


TOML = """
[model.shop]
item_id = "bigint"
user_id = "bigint"
[model.shop.items]
sql = "select id as item_id, COLUMNS from product"
watch = { product = "id" }
[model.shop.interactions]
sql = "select customer_id as user_id, product_id as item_id from event"
"""


def test_a_watched_model_that_works_has_nothing_to_do(
    watched: tuple[Shop, Path],
) -> None:
    shop, path = watched

    assert changes(shop.dsn, path) == []
    with _db.connect(shop.dsn) as conn:
        conn.execute("update product set title = 'x'")
    assert changes(shop.dsn, path) == [], "they wait for a moment only"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "drop trigger recsys_capture_shop_update on product",
            "switched them off or changed them -> recsys watch shop",
        ),
        (
            "alter table product disable trigger recsys_capture_shop_insert",
            "switched them off or changed them -> recsys watch shop",
        ),
        (
            "alter table product disable trigger all",
            "no enabled trigger stands on them -> recsys watch shop",
        ),
        (
            "drop trigger recsys_capture_shop_delete on product",
            "switched them off or changed them -> recsys watch shop",
        ),
        (
            "alter function recsys._capture__shop__f5ba9791() security invoker",
            "switched them off or changed them -> recsys watch shop",
        ),
        (
            "alter function recsys._capture__shop__f5ba9791() owner to recsys_trainer",
            "switched them off or changed them -> recsys watch shop",
        ),
        (
            "create table shelves"
            " (like product including all); create trigger recsys_capture_shop_delete"
            " after delete on shelves execute function"
            " recsys._capture__shop__f5ba9791()",
            "switched them off or changed them -> recsys watch shop",
        ),
        (
            "create table shelves (like product including defaults);"
            "alter table product inherit shelves",
            "switched them off or changed them -> recsys watch shop",
        ),
        (
            "drop function recsys._capture__shop__f5ba9791() cascade",
            "no enabled trigger stands on them -> recsys watch shop",
        ),
        (
            "select recsys.set_capture('shop', false)",
            "switched off: changes do not reach the versions -> recsys watch shop --on",
        ),
        (
            "insert into recsys.item_change (model, bucket, item_id, changed_at)"
            " values ('shop', recsys._item_bucket('1'), '1',"
            " now() - interval '2 minutes')",
            "1 changes wait, and no worker runs -> recsys worker",
        ),
        (
            "insert into recsys.item_change (model, bucket, item_id, changed_at)"
            " values ('shop', recsys._item_bucket('1'), '1',"
            " now() - interval '20 minutes');"
            "insert into recsys.worker (id, host, pid)"
            " values (gen_random_uuid(), 'here', 1)",
            "the oldest for 0:20:00",
        ),
        (
            "insert into recsys.item_failure (model, number, item_id, error)"
            " values ('shop', 1, '1', 'boom')",
            "1 item was given up -> select * from recsys.dead_letter",
        ),
        (
            "insert into recsys.item_failure (model, number, item_id, error, retry_at)"
            " values ('shop', 1, '1', 'boom', now() + interval '1 minute')",
            "1 item failed and is tried again -> select number, item_id, error",
        ),
        (
            "insert into recsys.schedule (task, model, every, next_at)"
            " values ('clean up', 'shop', '1 s', now() - interval '1 hour')",
            "1 periodic tasks are overdue, and no worker runs -> recsys worker",
        ),
        (
            "insert into recsys.ramp (model, number, steps, every, next_at)"
            " values ('shop', 2, '{50, 100}', '1 h', now() - interval '1 hour')",
            "the next step of shop is overdue, and no worker runs -> recsys worker",
        ),
        (
            "insert into recsys.schedule (task, model, every, error)"
            " values ('ramp', 'shop', '1 s', 'boom')",
            "task ramp shop: boom",
        ),
        (
            "update recsys.capture set reconcile_after = '3', reason = 'it was lost';"
            "update recsys.audit set at = at - interval '1 hour'",
            "every item is to be queued (it was lost), and nothing did",
        ),
        (
            "delete from recsys.rollout; delete from recsys.model_version",
            "4 triggers of a model without versions -> recsys unwatch shop",
        ),
    ],
)
def test_what_keeps_changes_from_the_versions(
    watched: tuple[Shop, Path], how: str, said: str
) -> None:
    shop, path = watched
    with _db.connect(shop.dsn) as conn:
        conn.execute(how.encode())

    (found,) = changes(shop.dsn, path)

    assert said in found


def test_missing_vectors_are_a_workers_task_when_changes_wait(
    watched: tuple[Shop, Path],
) -> None:
    shop, path = watched
    with _db.connect(shop.dsn) as conn:
        conn.execute("alter table product disable trigger all")
        conn.execute(
            "insert into product select (jsonb_populate_record(p, %s)).*"
            " from product as p limit 1",
            (Jsonb({"id": 900}),),
        )
        conn.execute("alter table product enable trigger all")

    def hints() -> set[str]:
        return {f.hint for f in look(shop.dsn, path) if f.check == "shop 1 coverage"}

    assert hints() == {"recsys backfill shop 1"}
    with _db.connect(shop.dsn) as conn:
        conn.execute("update product set title = 'y' where id = 900")
    assert hints() == {"recsys worker"}


def test_triggers_of_an_older_source_are_told(watched: tuple[Shop, Path]) -> None:
    shop, path = watched
    path.write_text(TOML.replace("COLUMNS", "shelf"), encoding="utf-8")

    (found,) = changes(shop.dsn, path)

    assert "public.product do not fit the item source" in found
    with _db.connect(shop.dsn) as conn:
        capture.watch(conn, configuration.load(path).model("shop"))
        conn.execute("update recsys.capture set reconcile_after = null")
    assert changes(shop.dsn, path) == []
