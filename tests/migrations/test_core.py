"""The core revision: up, down, offline, twice at once; databases that do not fit."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
import world
from schema_dump import dump

from recsys import _db, schema
from recsys.backfill import backfill
from recsys.errors import (
    ConfigError,
    DatabaseUnavailable,
    SchemaError,
    VersionStateError,
)


def text_of(dsn: str) -> str:
    with psycopg.connect(dsn) as conn:
        return dump(conn)


def test_up_down_and_up_again_gives_the_same_schema(empty_dsn: str) -> None:
    schema.upgrade(empty_dsn)
    first = text_of(empty_dsn)

    schema.downgrade(empty_dsn, revision="base")
    with psycopg.connect(empty_dsn) as conn:
        left = conn.execute(
            "select relname from pg_class where relnamespace = 'recsys'::regnamespace"
            " and relkind in ('r', 'v', 'S') union all select proname from pg_proc"
            " where pronamespace = 'recsys'::regnamespace"
        ).fetchall()
    schema.upgrade(empty_dsn)
    schema.upgrade(empty_dsn)

    assert left == [("alembic_version",)]
    assert text_of(empty_dsn) == first


@pytest.mark.parametrize("direction", ["up", "down"])
def test_the_offline_script_does_what_the_migration_does(
    empty_dsn: str, direction: str
) -> None:
    up, down = io.StringIO(), io.StringIO()
    schema.upgrade("", sql=True, output=up)
    schema.downgrade("", revision="0005:base", sql=True, output=down)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create extension vector")
        conn.execute(up.getvalue().encode())
    if direction == "down":
        with psycopg.connect(empty_dsn, autocommit=True) as conn:
            conn.execute(down.getvalue().encode())
        schema.upgrade(empty_dsn)
    offline = text_of(empty_dsn)

    schema.downgrade(empty_dsn, revision="base")
    schema.upgrade(empty_dsn)

    assert offline == text_of(empty_dsn)
    with _db.connect(empty_dsn) as conn:
        schema.check(conn)


def test_versions_answer_in_sql_before_and_after_the_revision_that_leans(
    dsn: str,
) -> None:
    world.fill_shop(dsn, users=8)
    world.add_version(dsn, world.shop_config(), promote=True, leans=True)

    schema.downgrade(dsn, revision="0004")

    query = "select count(*) from recsys.recommend('shop', 7, k => 5)"
    with psycopg.connect(dsn) as conn:
        assert conn.execute(query).fetchone() == (5,)

    schema.upgrade(dsn)

    with psycopg.connect(dsn) as conn:
        assert conn.execute(query).fetchone() == (5,)
    backfill(dsn, "shop")
    world.assert_alike_in_sql(dsn, range(1, 9))


def test_upgrades_at_once_wait_for_each_other(empty_dsn: str) -> None:
    code = "import sys; from recsys import schema; input(); schema.upgrade(sys.argv[1])"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_dsn],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in started]

    assert errors == [""] * 4
    with _db.connect(empty_dsn) as conn:
        schema.check(conn)


def test_a_failing_upgrade_leaves_nothing(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys import _sql

    read = _sql.read
    monkeypatch.setattr(
        _sql, "read", lambda n: "select 1/0" if n.startswith("grants") else read(n)
    )
    with pytest.raises(psycopg.errors.DivisionByZero):
        schema.upgrade(empty_dsn)

    with psycopg.connect(empty_dsn) as conn:
        row = conn.execute("select to_regnamespace('recsys')").fetchone()
    assert row == (None,)


def test_check_tells_missing_older_and_newer_apart(empty_dsn: str) -> None:
    with _db.connect(empty_dsn) as conn:
        with pytest.raises(SchemaError, match="no recsys schema") as missing:
            schema.check(conn)
        assert "recsys upgrade" in missing.value.hint
    schema.upgrade(empty_dsn)
    with _db.connect(empty_dsn) as conn:
        schema.check(conn)
        for found, message, hint in (
            ("9999", "newer than this code", "Upgrade the recsys package"),
            ("0000", "this code needs", "recsys upgrade"),
        ):
            conn.execute(
                "create or replace function recsys.schema_version() returns text"
                f" language sql immutable return '{found}'".encode()
            )
            with pytest.raises(SchemaError, match=message) as caught:
                schema.check(conn)
            assert hint in caught.value.hint
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_newer_database_is_refused_by_upgrade_and_downgrade(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("update recsys.alembic_version set version_num = '9999'")
    before = text_of(dsn)

    with pytest.raises(SchemaError, match="whose file is not here") as caught:
        schema.upgrade(dsn)
    with pytest.raises(SchemaError):
        schema.downgrade(dsn, revision="base")

    assert caught.value.hint
    assert text_of(dsn) == before


def test_the_core_stays_while_a_version_exists(dsn: str) -> None:
    world.fill_shop(dsn, items=30)
    world.add_version(dsn, world.shop_config(), ready=False)

    with pytest.raises(VersionStateError, match="shop 1") as caught:
        schema.downgrade(dsn, revision="base")

    assert "recsys drop" in caught.value.hint
    with _db.connect(dsn) as conn:
        schema.check(conn)


@pytest.mark.parametrize("revision", ["nope", "model@-1", "+x", ""])
def test_a_revision_that_is_not_there_is_an_error(dsn: str, revision: str) -> None:
    with pytest.raises((SchemaError, ConfigError)):
        schema.downgrade(dsn, revision=revision)


def test_no_server_is_named() -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot connect"):
        schema.upgrade("host=/nowhere")


def test_an_old_pgvector_is_refused() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"0\.7\.4 is too old") as caught:
        _db.check_pgvector((0, 7, 4))
    assert "alter extension vector update" in caught.value.hint
    _db.check_pgvector((0, 8, 0))


def test_a_missing_pgvector_is_named(empty_dsn: str) -> None:
    with (
        _db.connect(empty_dsn) as conn,
        pytest.raises(DatabaseUnavailable, match="not installed") as caught,
    ):
        _db.require_pgvector(conn)
    assert "create extension vector" in caught.value.hint


@pytest.fixture
def nobody(server: str) -> Iterator[str]:
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("drop role if exists recsys_test_nobody")
        conn.execute("create role recsys_test_nobody")
        yield "recsys_test_nobody"
        conn.execute("drop role recsys_test_nobody")


def test_a_role_that_may_not_install_pgvector_is_told(
    empty_dsn: str, nobody: str
) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot install it") as caught:
        schema.upgrade(world.as_role(empty_dsn, nobody))
    assert "create extension vector" in caught.value.hint


def test_pgvector_in_a_schema_of_its_own(empty_dsn: str) -> None:
    """As on some managed services; its types must be on the search_path."""
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create schema extensions")
        conn.execute("create extension vector schema extensions")
        with pytest.raises(DatabaseUnavailable, match="'extensions'") as caught:
            schema.upgrade(empty_dsn)
        assert 'set search_path = "$user", public, "extensions"' in caught.value.hint
        wanted = caught.value.hint.rsplit("set ", 1)[1].rstrip(";")
        conn.execute(f'alter database "{conn.info.dbname}" set {wanted}'.encode())

    schema.upgrade(empty_dsn)

    world.fill_shop(empty_dsn)
    world.add_version(empty_dsn, world.shop_config(), promote=True)
    with psycopg.connect(empty_dsn) as conn:
        found = conn.execute("select * from recsys.recommend('shop', 7)").fetchall()
    assert len(found) == 20
