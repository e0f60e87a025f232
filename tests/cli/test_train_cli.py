"""``recsys train`` and ``evaluate``: what they say of an early end, and of the past."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import world

from recsys import _db
from recsys.training import trainer

Run = Callable[..., Any]

TOML = """\
[model.shop]
[model.shop.items]
sql = "select id as item_id from product"
[model.shop.interactions]
sql = "select customer_id as user_id, product_id as item_id, created_at as occurred_at\
 from event"
"""


@pytest.fixture
def tables(server: str, shop_dsn: str, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "recsys.toml").write_text(TOML)
    with world.database(server, world.name_of(shop_dsn)) as dsn:
        yield dsn


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_says_whether_the_fit_is_kept(
    run: Run, tables: str, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    def interrupted(*_: object, checkpoint: Any, **__: object) -> None:
        if begun:
            checkpoint.path.write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupted)
    ended = run("--dsn", tables, "train", "shop", "--checkpoint", "state")

    assert ended.code == 130
    assert ("--checkpoint state --resume goes on with it" in ended.err) is begun
    assert ended.err.rstrip().endswith("Interrupted.")


def test_a_time_before_all_interactions_is_named(run: Run, tables: str) -> None:
    ended = run("--dsn", tables, "train", "shop", "--until", "1990-01-01")

    assert ended.code == 1
    assert "no interactions before 1990-01-01" in ended.err
    assert "later --until" in ended.err


def test_interactions_that_name_no_item_are_not_blamed_on_the_time(
    run: Run, tables: str
) -> None:
    with _db.connect(tables) as conn:
        conn.execute("update event set product_id = product_id + 1000000")

    ended = run("--dsn", tables, "train", "shop", "--until", "2099-01-01")

    assert ended.code == 1
    assert "among those of items.sql" in ended.err


@pytest.mark.parametrize("more", [(), ("--new-users",)])
def test_a_version_that_has_seen_the_answers_is_named(
    run: Run, tables: str, more: tuple[str, ...]
) -> None:
    evaluate = ("--dsn", tables, "evaluate", "shop", "1", "--after", "2026-01-01")
    with _db.connect(tables) as conn:
        conn.execute(
            "update recsys.model_version"
            """ set spec = spec || '{"trained_until": "2026-01-02T00:00:00+00:00"}'"""
        )
    assert "Warning: version 1 was trained" in run(*evaluate, *more).err
    with _db.connect(tables) as conn:
        conn.execute(
            "update recsys.model_version"
            """ set spec = spec || '{"trained_until": "2026-01-01T00:00:00+00:00"}'"""
        )

    assert "Warning" not in run(*evaluate, *more).err
