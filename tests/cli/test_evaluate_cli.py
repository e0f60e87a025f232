"""``recsys evaluate``: what it says of versions that have seen the answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run

from recsys import _db, rollout

pytestmark = pytest.mark.usefixtures("toml")


@pytest.mark.parametrize("more", [(), ("--new-users",)])
def test_a_version_that_has_seen_the_answers_is_named(
    run: Run, own_dsn: str, more: tuple[str, ...]
) -> None:
    evaluate = ("--dsn", own_dsn, "evaluate", "shop", "1", "--after", "2026-01-01")
    with _db.connect(own_dsn) as conn:
        conn.execute(
            "update recsys.model_version"
            """ set spec = spec || '{"trained_until": "2026-01-02T00:00:00+00:00"}'"""
        )
    assert "Warning: version 1 was trained" in run(*evaluate, *more).err
    with _db.connect(own_dsn) as conn:
        conn.execute(
            "update recsys.model_version"
            """ set spec = spec || '{"trained_until": "2026-01-01T00:00:00+00:00"}'"""
        )

    assert "Warning: version" not in run(*evaluate, *more).err


def test_the_version_that_is_taken_is_named_with_the_reason(
    run: Run, own_dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "hits.csv").write_text("user_id,item_id\n7,1\n7,1000000\n")
    evaluate = ("--dsn", own_dsn, "evaluate", "shop")
    hits = ("--holdout", "hits.csv")

    serving = run(*evaluate, *hits)
    given = run(*evaluate, 2, *hits)
    reported = run("--dsn", own_dsn, "report", "shop")
    with _db.connect(own_dsn) as conn:
        rollout.promote(conn, "shop", None)
    ready = run(*evaluate, *hits)

    assert "Version 1 of shop: the base that serves" in serving.err
    assert "Warning: no list can find 1 of 2 hits: version 1 does not" in serving.err
    assert "Version 2 of shop" not in given.err
    assert "Version 2: the newest; the base is version 1" in reported.err
    assert "Version 2 of shop: the newest that is ready, as none serves" in ready.err


def test_a_file_of_ids_that_nobody_knows_is_an_error(
    run: Run, own_dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "hits.csv").write_text("user_id,item_id\n7,1000000\n")

    ended = run("--dsn", own_dsn, "evaluate", "shop", "--holdout", "hits.csv")

    assert ended.code == 1
    assert "version 1 has none of the items of the holdout (1)" in ended.err
    assert "Hint: Are these ids of another table" in ended.err
