"""Replicas while their primary stalls, is down, or is another one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from island import Island, caught_up, wait_for
from test_replicas import at, look, paused, promote

from recsys import Recommender, _replicas
from recsys._loaded import LoadedVersions
from recsys._position import Position, lag_s
from recsys._replicas import LATE, Reads
from recsys.types import Page


@pytest.fixture
def shop(primary: Island, standby: Island) -> Iterator[Recommender]:
    with Recommender(
        "shop", dsn=primary.dsn, reads=[standby.dsn], max_lag_s=1.5, timeout_ms=400
    ) as made:
        made.recommend(7, timeout_ms=5000)
        assert look(made)
        yield made


def reads_of(shop: Recommender) -> Reads:
    assert shop._engine.reads is not None
    return shop._engine.reads


def looking(shop: Recommender) -> Page:
    """Ask, and have positions compared before."""
    reads = reads_of(shop)
    reads._due = reads.replicas[0].due = 0.0
    return shop.recommend(7)


def test_a_replica_that_kept_up_answers_while_the_primary_stalls(
    shop: Recommender, primary: Island
) -> None:
    with primary.frozen():
        assert looking(shop).degraded is None
        assert not reads_of(shop).down
        # The primary may have written since: its bound is for how long that is so.
        time.sleep(1.6)
        assert looking(shop).degraded not in (None, LATE)
        assert not reads_of(shop).replicas[0].fresh


def test_a_stall_brings_no_replica_back_that_does_not_know_a_switch(
    shop: Recommender, primary: Island, standby: Island
) -> None:
    with paused(standby):
        promote(primary, 2)
        try:
            wait_for(lambda: shop.recommend(7).version == 2)
            with primary.frozen():
                pages = [looking(shop) for _ in range(_replicas._DOWN_AFTER + 2)]
                assert reads_of(shop).down
            assert {page.version for page in pages} == {2}  # from memory
            assert None not in {page.degraded for page in pages}
            wait_for(lambda: shop.recommend(7).degraded is None, 5)
            assert shop.recommend(7).version == 2
        finally:
            promote(primary, 1)
    caught_up(primary, standby)


def test_a_replica_that_is_30_s_behind_answers_only_when_the_primary_is_down(
    shop: Recommender, primary: Island, standby: Island
) -> None:
    standby.execute("alter system set recovery_min_apply_delay = '30s'")
    standby.execute("select pg_reload_conf()")
    first = shop.recommend(7, k=1).ids[0]
    primary.execute("insert into event values (7, %s, 'view', now())", first)
    time.sleep(1.6)
    primary.execute("insert into event values (6, %s, 'view', now())", first)
    assert not look(shop)
    good = shop.recommend(7)
    assert first not in good.ids

    with primary.frozen():
        for _ in range(_replicas._DOWN_AFTER - 1):
            page = looking(shop)
            assert page.degraded not in (None, LATE)
            assert page.items == good.items
        for _ in range(2):
            page = looking(shop)
            assert page.degraded == LATE
            assert first in page.ids  # it knows no better

    started = time.monotonic()
    wait_for(lambda: shop.recommend(7).degraded is None, 5)
    assert time.monotonic() - started < _replicas.CHECK_S + 0.7
    assert first not in shop.recommend(7).ids
    assert not reads_of(shop).replicas[0].fresh
    primary.execute("delete from event where created_at > now() - interval '1 min'")


def test_what_a_late_replica_answers_is_not_remembered_as_good(
    shop: Recommender, primary: Island
) -> None:
    with Recommender(
        "shop", dsn=primary.dsn.replace(str(primary.folder), "/nowhere"),
        reads=[reads_of(shop).replicas[0].source.dsn()], timeout_ms=2000,
    ) as other:  # fmt: skip
        page = other.recommend(7)  # a refusal is proof at once
        assert (page.degraded, len(page)) == (LATE, 20)
        reads_of(other).replicas[0].late = False
        assert len(other.recommend(7)) == 0


def test_a_primary_that_answers_requests_is_not_down(shop: Recommender) -> None:
    """Whatever the looks say, which have a part of the budget only."""
    reads = reads_of(shop)
    reads._due = time.monotonic() + 60
    reads._failures, reads.replicas[0].fresh = _replicas._DOWN_AFTER, False
    assert reads.down

    assert shop.recommend(7).degraded is None

    assert not reads.down


# what is known ------------------------------------------------------------------------


@pytest.fixture
def reads() -> Reads:
    return Reads("shop", ["host=/nowhere"], LoadedVersions("shop"))


def said(generation: int, identity: str = "a") -> Position:
    return Position(False, 1, 0.0, None, 1.0, generation, identity)


def test_a_generation_that_was_seen_stays_but_on_another_primary(reads: Reads) -> None:
    reads._sampled(said(5))
    reads.saw(7)
    reads._sampled(said(6))  # read before the switch, noted after it
    assert reads.generation == 7

    reads._sampled(said(2, "created anew"))
    assert reads.generation == 2


def test_a_primary_says_who_it_is(primary: Island, standby: Island) -> None:
    def asked(island: Island) -> Position:
        with psycopg.connect(island.dsn) as conn:
            return _replicas.position(conn, "shop")

    assert asked(primary).identity == asked(primary).identity
    assert asked(primary).identity.count("/") == 2
    assert asked(standby).standby


def test_lag_grows_while_the_primary_is_not_asked() -> None:
    primary = [at(50, 0.0, clock=100.0), at(100, 10.0, clock=110.0)]

    assert lag_s(primary, at(100, 14.0), compared=False) == pytest.approx(4.0)
    behind = at(99, 14.0, replayed=109.5)
    assert lag_s(primary, behind, compared=False) == pytest.approx(4.5)
    assert lag_s([], at(100, 14.0), compared=False) == float("inf")


def test_threads_compare_while_another_one_samples(reads: Reads) -> None:
    behind = at(0, 10.0)
    wrong: list[BaseException] = []
    end = time.monotonic() + 0.3

    def work(what: object) -> None:
        try:
            while time.monotonic() < end:
                what()  # type: ignore[operator]
        except BaseException as exc:
            wrong.append(exc)

    works = [lambda: reads._sampled(said(1)), lambda: lag_s(reads._samples, behind)]
    threads = [threading.Thread(target=work, args=(one,)) for one in works * 2]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert len(reads._samples) <= _replicas._SAMPLES
