"""op.capture_changes and op.stop_capturing: up, down, offline, the same as watch."""

from __future__ import annotations

import io
from pathlib import Path

import psycopg
import pytest
import world

from recsys import _db, capture, schema
from recsys.config import from_mapping
from recsys.errors import VersionStateError

REVISION = '''
"""Capture the changes of product and brand."""

from alembic import op

import recsys.operations

revision = "capture_1"
down_revision = None
branch_labels = ("model",)
depends_on = "0004"


def upgrade():
    op.capture_changes(
        "shop",
        "public.brand",
        item="select p.id from product p join changed on p.brand_id = changed.id",
        columns={"id": "integer", "name": "text"},
        keys=["id"],
    )
    op.capture_changes(
        "shop",
        "public.product",
        item="id",
        columns={"brand_id": "integer", "id": "bigint"},
    )


def downgrade():
    op.stop_capturing("shop", "public.product")
    op.stop_capturing("shop", "public.brand")
'''
WATCH = {
    "product": "id",
    "brand": "select p.id from product p join changed on p.brand_id = changed.id",
}
SOURCE = (
    "select p.id as item_id, b.name from product p join brand b on b.id = p.brand_id"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = (tmp_path / "versions").resolve()
    path.mkdir()
    (path / "capture_1.py").write_text(REVISION.lstrip(), encoding="utf-8")
    return path


@pytest.fixture
def shop_dsn(dsn: str) -> str:
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "create table brand (id int primary key, name text);"
            "create table product (id bigint primary key, brand_id int, stock int);"
            "insert into brand values (1, 'Acme');"
            "insert into product values (1, 1, 0), (2, 1, 0);"
            "insert into recsys.model (name, item_type, user_type)"
            " values ('shop', 'bigint', 'bigint')"
        )
    return dsn


def installed(dsn: str) -> list[str]:
    """Everything that capture made, as text."""
    with psycopg.connect(dsn) as conn:
        return [
            text
            for (text,) in conn.execute(
                "select pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '')"
                " from pg_proc as p where proname like '\\_capture\\_\\_%'"
                " union all select pg_get_triggerdef(oid) from pg_trigger"
                " where tgname like 'recsys\\_%' union all"
                " select to_jsonb(c)::text from (select model, enabled, lookups"
                " from recsys.capture) as c order by 1"
            )
        ]


def queued(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("delete from recsys.item_change returning item_id")
        return sorted({item for (item,) in rows})


def write(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        conn.execute("update product set stock = stock + 1")
        conn.execute("update brand set name = name || '!'")
    return queued(dsn)


def test_up_captures_and_down_stops(shop_dsn: str, folder: Path) -> None:
    schema.upgrade(shop_dsn, folder)
    assert write(shop_dsn) == ["1", "2"]

    schema.downgrade(shop_dsn, folder, revision="model@base")

    assert write(shop_dsn) == []
    assert all("trigger" not in text.lower() for text in installed(shop_dsn))
    schema.upgrade(shop_dsn, folder)
    assert write(shop_dsn) == ["1", "2"]


def test_a_migration_and_watch_install_the_same(
    server: str, shop_dsn: str, folder: Path
) -> None:
    with world.database(server, world.name_of(shop_dsn)) as other:
        raw = {
            "items": {"sql": SOURCE, "watch": WATCH},
            "interactions": {"sql": "select 1"},
        }
        with _db.connect(other) as conn:
            capture.watch(conn, from_mapping({"model": {"shop": raw}}).model("shop"))

        schema.upgrade(shop_dsn, folder)

        assert installed(shop_dsn) == installed(other)
        assert len(installed(other)) == 2 + 8 + 1


def test_offline_is_what_online_does(server: str, shop_dsn: str, folder: Path) -> None:
    up, down = io.StringIO(), io.StringIO()
    schema.upgrade("", folder, revision="0004:capture_1", sql=True, output=up)
    schema.downgrade("", folder, revision="capture_1:model@base", sql=True, output=down)
    with world.database(server, world.name_of(shop_dsn)) as other:
        with psycopg.connect(other, autocommit=True) as conn:
            conn.execute(up.getvalue().encode())
        schema.upgrade(shop_dsn, folder)

        assert installed(other) == installed(shop_dsn)

        with psycopg.connect(other, autocommit=True) as conn:
            conn.execute(down.getvalue().encode())
        assert write(other) == []


def test_the_core_schema_does_not_go_while_it_is_called(shop_dsn: str) -> None:
    """A trigger that calls functions that are gone would fail the application."""
    raw = {
        "items": {"sql": SOURCE, "watch": WATCH},
        "interactions": {"sql": "select 1"},
    }
    with _db.connect(shop_dsn) as conn:
        capture.watch(conn, from_mapping({"model": {"shop": raw}}).model("shop"))

    with pytest.raises(VersionStateError, match="still captured on"):
        schema.downgrade(shop_dsn, revision="0001")

    assert write(shop_dsn) == ["1", "2"]
    with _db.connect(shop_dsn) as conn:
        capture.unwatch(conn, "shop")
    schema.downgrade(shop_dsn, revision="0001")


def test_a_migration_refuses_a_function_that_a_trainer_made_first(
    shop_dsn: str, folder: Path
) -> None:
    name = capture.function_name("shop", "public.product")
    with psycopg.connect(world.as_role(shop_dsn, "recsys_trainer")) as conn:
        conn.execute(
            f"create function recsys.{name}() returns trigger language plpgsql as"
            " $$begin return null; end$$".encode()
        )

    with pytest.raises(psycopg.Error, match="may put no triggers"):
        schema.upgrade(shop_dsn, folder)

    assert all("CREATE TRIGGER" not in text for text in installed(shop_dsn))
