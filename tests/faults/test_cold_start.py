"""A process with a small budget loads its first version all the same."""

from __future__ import annotations

import pytest
import world
from island import Island
from slow_line import slow_line

from recsys import Recommender, _breaker, _db, artifacts, rollout
from recsys.artifacts import Download
from recsys.errors import ArtifactError

_PADDING = 4_000_000


def large(tower: bytes) -> bytes:
    """Return the same tower with a long comment: doc_string, field 6 of the model."""
    size, varint = _PADDING, b""
    while size:
        size, low = size >> 7, size & 127
        varint += bytes([low | (128 if size else 0)])
    return tower + b"\x32" + varint + b"x" * _PADDING


@pytest.fixture
def heavy(primary: Island, monkeypatch: pytest.MonkeyPatch):
    """A version whose tower is large serves."""
    made = world.Learned.query_tower.fget
    monkeypatch.setattr(
        world.Learned, "query_tower", property(lambda self: large(made(self)))
    )
    model = world.shop_config(features=True)
    number = world.add_version(primary.dsn, model, seed=3, promote=True)[0]
    yield number
    with _db.connect(primary.dsn) as conn:
        rollout.promote(conn, "shop", 1, reason="test", force=True)


def test_a_version_that_no_budget_is_enough_for_is_loaded_in_steps(
    primary: Island, heavy: int
) -> None:
    with Recommender("shop", dsn=primary.dsn) as direct:
        expected = direct.recommend(7).items
    with (
        slow_line(primary.dsn, 2e6) as dsn,
        Recommender("shop", dsn=dsn, timeout_ms=300) as shop,
    ):
        pages = []
        while len(pages) < 60 and (not pages or pages[-1].degraded):
            pages.append(shop.recommend(7))
            assert _breaker.of(dsn).state == "closed"
        shop_again = shop.recommend(7)

    # More failures than open a breaker, and each of them brought it further.
    assert {page.degraded for page in pages[:-1]} == {"timeout"}
    assert _breaker.FAILURES < len(pages) <= 30
    assert (pages[-1].version, pages[-1].items) == (heavy, expected)
    assert shop_again.degraded is None


def test_a_line_that_brings_nothing_opens_the_breaker(
    primary: Island, heavy: int
) -> None:
    with (
        slow_line(primary.dsn, 3e4) as dsn,
        Recommender("shop", dsn=dsn, timeout_ms=300) as shop,
    ):
        reasons = [shop.recommend(7).degraded for _ in range(_breaker.FAILURES + 1)]
    assert reasons[-1] == "circuit open"


def test_a_download_is_what_was_stored(
    primary: Island, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "SLICE", 10)
    with _db.connect(primary.dsn) as conn:
        for content in (b"", b"x" * 9, bytes(range(10)), bytes(range(251)) * 3):
            sha256 = artifacts.put(conn, "json", content)
            assert Download(sha256).go_on(conn) == content
        with pytest.raises(ArtifactError, match="not in this database"):
            Download("0" * 64).go_on(conn)
        conn.rollback()
