"""``recsys evaluate``: what it says of versions that have seen the answers."""

from __future__ import annotations

import pytest
from conftest import Run

from recsys import _db

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
