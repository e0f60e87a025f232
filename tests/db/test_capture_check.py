"""Sweeps and comparisons: every live version counts, whatever happens to another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import world

from recsys import _db, capture, capture_check, embedded, schema
from recsys.config import ModelConfig, from_mapping
from recsys.errors import SourceError

OLD = "select id as item_id, title, changed as updated from product"
NEW = "select id as item_id, title, stamped from product where id < 1000"


def with_source(sql: str, **items: object) -> ModelConfig:
    raw = world.toml(features=False)
    raw["model"]["shop"]["items"] = {"sql": sql, "sweep_s": 1, **items}
    return from_mapping(raw).model("shop")


def prepare(dsn: str) -> None:
    """Products with two times of change, of which each version knows one."""
    world.fill_shop(dsn, items=20)
    with psycopg.connect(dsn, autocommit=True) as conn:
        for column in ("changed", "stamped"):
            conn.execute(
                f"alter table product add column {column} timestamptz"
                " default now() - interval '1 day'".encode()
            )


@pytest.fixture
def swept(dsn: str) -> Iterator[_db.Connection]:
    """A model whose two live versions have sources of their own; nothing is queued."""
    prepare(dsn)
    world.add_version(dsn, with_source(OLD, updated_at="updated"), promote=True)
    world.add_version(dsn, with_source(NEW, updated_at="stamped"), seed=2)
    with _db.connect(dsn, autocommit=True) as conn:
        sweep(conn)
        conn.execute("delete from recsys.item_change")
        yield conn


def sweep(conn: _db.Connection) -> str:
    conn.execute("update recsys.capture set sweep_at = now()")
    return capture_check.check(conn, "shop")


def queue(conn: _db.Connection) -> list[str]:
    return sorted(
        item for (item,) in conn.execute("select item_id from recsys.item_change")
    )


def swept_to(conn: _db.Connection) -> object:
    return conn.execute("select swept_to from recsys.capture").fetchone()


def test_the_sources_of_all_live_versions_are_swept(swept: _db.Connection) -> None:
    swept.execute("update product set title = 'x', changed = now() where id = 5")
    swept.execute("update product set title = 'x', stamped = now() where id = 6")

    assert "2 items by updated_at" in sweep(swept)

    assert queue(swept) == ["5", "6"]


def test_a_watched_source_without_a_time_does_not_hide_the_others(
    swept: _db.Connection,
) -> None:
    swept.execute("create table other (id bigint)")
    watched = with_source("select id as item_id from other", watch={"other": "id"})
    swept.execute("insert into other select id from product")
    world.add_version(swept.info.dsn, watched, seed=3)
    with swept.transaction():
        capture.watch(swept, watched)
    swept.execute("update recsys.capture set reconcile_after = null")
    swept.execute("update product set title = 'x', changed = now() where id = 5")

    assert "1 item by updated_at" in sweep(swept)


def test_a_broken_source_does_not_stop_the_others(swept: _db.Connection) -> None:
    before = swept_to(swept)
    swept.execute("alter table product rename stamped to away")
    swept.execute("update product set title = 'x', changed = now() where id = 5")
    swept.execute("delete from recsys.item_vector_shop_1 where item_id = 7")

    with pytest.raises(SourceError, match=r"version 2: .*stamped"):
        sweep(swept)

    assert queue(swept) == ["5", "7"]
    assert swept_to(swept) == before, "what the broken one has to say is not lost"
    swept.execute("delete from recsys.item_change")
    with pytest.raises(SourceError, match=r"^version 2: items\.sql fails"):
        capture_check.compare_ids(swept, "shop")
    assert queue(swept) == ["7"]
    swept.execute("update product set away = now() where id = 9")
    swept.execute("alter table product rename away to stamped")
    sweep(swept)
    assert {"5", "9"} <= set(queue(swept))
    assert swept_to(swept) != before


def test_a_source_that_takes_too_long_does_not_stop_the_others(
    swept: _db.Connection,
) -> None:
    swept.execute(
        "update recsys.model_version set spec = jsonb_set(spec,"
        " '{items,sql}', %s) where number = 2",
        (json.dumps("select id as item_id, title, stamped from product, pg_sleep(9)"),),
    )
    swept.execute("delete from recsys.item_vector_shop_1 where item_id = 7")
    swept.execute("set statement_timeout = '500ms'")

    with pytest.raises(SourceError, match="version 2: QueryCanceled"):
        capture_check.compare_ids(swept, "shop")

    assert queue(swept) == ["7"]


def test_a_prepared_transaction_that_commits_late_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows appear when it is committed, and no session shows that it runs."""
    # As if it had been prepared long ago.
    monkeypatch.setattr(capture_check, "_OVERLAP", timedelta(0))
    data = tmp_path / "pg"
    embedded.start(data)
    embedded.stop(data)
    with (data / "postgresql.conf").open("a") as conf:
        conf.write("\nmax_prepared_transactions = 4\n")
    dsn = embedded.start(data)
    try:
        schema.upgrade(dsn)
        prepare(dsn)
        world.add_version(dsn, with_source(OLD, updated_at="updated"), promote=True)
        with _db.connect(dsn, autocommit=True) as conn:
            sweep(conn)
            conn.execute("begin")
            conn.execute("update product set changed = now() where id = 5")
            conn.execute("prepare transaction 'late'")
            sweep(conn)
            sweep(conn)
            conn.execute("commit prepared 'late'")
            conn.execute("delete from recsys.item_change")

            sweep(conn)

            assert queue(conn) == ["5"]
    finally:
        embedded.stop(data)
