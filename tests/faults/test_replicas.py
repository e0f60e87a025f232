"""A real streaming replica answers while it is fresh, and only then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from island import Island, caught_up, wait_for

from recsys import Recommender, _db, _replicas, rollout
from recsys._replicas import Position, lag_s
from recsys.errors import ConfigError, UnknownItem


@pytest.fixture
def shop(primary: Island, standby: Island) -> Iterator[Recommender]:
    with Recommender(
        "shop", dsn=primary.dsn, reads=[standby.dsn], max_lag_s=1.5, timeout_ms=5000
    ) as made:
        made.recommend(7)
        yield made


def fresh(shop: Recommender) -> bool:
    assert shop._engine.reads is not None
    return shop._engine.reads.replicas[0].fresh


def look(shop: Recommender) -> bool:
    """Make the next request compare positions; say whether the replica may answer."""
    reads = shop._engine.reads
    assert reads is not None
    reads._due = reads.replicas[0].due = 0.0
    assert shop.recommend(7).degraded is None
    return fresh(shop)


def promote(primary: Island, number: int) -> None:
    with _db.connect(primary.dsn) as conn:
        rollout.promote(conn, "shop", number, reason="test", force=True)


@contextmanager
def paused(standby: Island) -> Iterator[None]:
    standby.execute("select pg_wal_replay_pause()")
    query = "select pg_get_wal_replay_pause_state()"
    wait_for(lambda: standby.execute(query) == [("paused",)])
    try:
        yield
    finally:
        standby.execute("select pg_wal_replay_resume()")


@contextmanager
def cut_off(standby: Island) -> Iterator[None]:
    """Nothing is received any more; what was received is replayed."""
    standby.execute("alter system set primary_conninfo = 'host=/nowhere'")
    standby.execute("select pg_reload_conf()")
    query = "select pid from pg_stat_wal_receiver"
    wait_for(lambda: standby.execute(query) == [])
    try:
        yield
    finally:
        standby.execute("alter system reset primary_conninfo")
        standby.execute("select pg_reload_conf()")


def test_a_fresh_replica_answers_and_the_primary_need_not(
    shop: Recommender, primary: Island
) -> None:
    good = shop.recommend(7)
    reads = shop._engine.reads
    assert reads is not None
    assert fresh(shop)
    reads._due = time.monotonic() + 60
    with primary.frozen():
        started = time.monotonic()
        page = shop.recommend(7)
        assert time.monotonic() - started < 1.0

    assert (page.items, page.degraded, page.version) == (good.items, None, 1)


@pytest.mark.parametrize("fault", [paused, cut_off])
def test_a_replica_that_falls_behind_answers_no_more(
    shop: Recommender, primary: Island, standby: Island, fault: object
) -> None:
    first = shop.recommend(7, k=1).ids[0]
    with fault(standby):  # type: ignore[operator]
        primary.execute("insert into event values (7, %s, 'view', now())", first)
        assert look(shop)  # within its bound
        time.sleep(1.6)
        primary.execute("insert into event values (6, %s, 'view', now())", first)

        assert not look(shop)
        assert first not in shop.recommend(7, k=20).ids
    caught_up(primary, standby)

    assert look(shop)
    assert first not in shop.recommend(7, k=20).ids


def test_an_idle_primary_leaves_its_replica_fresh(
    shop: Recommender, primary: Island, standby: Island
) -> None:
    """The last commit it replayed may be long ago: there was none since."""
    caught_up(primary, standby)
    time.sleep(1.6)
    assert look(shop)


def test_a_switch_is_seen_and_never_unseen(
    shop: Recommender, primary: Island, standby: Island
) -> None:
    before = shop.recommend(7)
    assert before.version == 1
    try:
        with paused(standby):
            promote(primary, 2)
            wait_for(lambda: shop.recommend(7).version == 2, 2 * _replicas.CHECK_S)
            end = time.monotonic() + 1.2
            while time.monotonic() < end:
                assert shop.recommend(7).version == 2
            assert not fresh(shop)
        caught_up(primary, standby)
        assert look(shop)
        assert shop.recommend(7).version == 2
    finally:
        promote(primary, 1)
        caught_up(primary, standby)


def test_no_answer_mixes_versions_while_a_replica_lags(
    shop: Recommender, primary: Island, standby: Island
) -> None:
    expected: dict[int | None, object] = {}
    for number in (2, 1):
        promote(primary, number)
        with Recommender("shop", dsn=primary.dsn) as direct:
            expected[number] = direct.recommend(7).items
    standby.execute("alter system set recovery_min_apply_delay = '150ms'")
    standby.execute("select pg_reload_conf()")
    seen: set[int | None] = set()
    reads = shop._engine.reads
    assert reads is not None
    for switch in range(8):
        promote(primary, 2 - switch % 2)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            reads._due = min(reads._due, time.monotonic() + 0.05)
            page = shop.recommend(7)
            assert page.degraded is None
            assert page.items == expected[page.version]
            seen.add(page.version)
    assert seen == {1, 2}


def test_a_replica_that_is_down_or_frozen_costs_no_answer(
    shop: Recommender, primary: Island, standby: Island
) -> None:
    good = shop.recommend(7)
    with standby.frozen():
        for _ in range(12):
            started = time.monotonic()
            page = shop.recommend(7, timeout_ms=400)
            assert time.monotonic() - started < 0.9
            assert (page.items, page.degraded) == (good.items, None)
        assert not fresh(shop)
    assert look(shop)


def test_what_only_the_primary_knows_is_asked_there(
    shop: Recommender, primary: Island, standby: Island
) -> None:
    with paused(standby):
        primary.execute(
            "insert into recsys.item_vector_shop_1 (item_id, embedding)"
            " select 9001, embedding from recsys.item_vector_shop_1 where item_id = 1"
        )
        try:
            assert fresh(shop)
            assert shop.similar_items(9001, k=1).ids == [1]
            with pytest.raises(UnknownItem):
                shop.similar_items(9002)
        finally:
            primary.execute(
                "delete from recsys.item_vector_shop_1 where item_id = 9001"
            )


def test_writes_never_go_to_a_replica(shop: Recommender, primary: Island) -> None:
    shop.record(7, 42, "view")
    query = "select count(*) from recsys.interaction where user_id = '7'"
    assert primary.execute(query) == [(1,)]
    primary.execute("delete from recsys.interaction")


def test_towers_are_loaded_once(shop: Recommender) -> None:
    reads = shop._engine.reads
    assert reads is not None
    assert look(shop)
    shop._engine.versions.forget()
    reads.replicas[0].fresh = False
    reads._due = time.monotonic() + 60
    shop.recommend(7)
    there = reads.replicas[0].versions.cached(None)
    here = shop._engine.versions.cached(None)
    assert here is not None
    assert there is not None
    assert here.version.tower is there.version.tower


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reads": "host=replica"}, "list of connection strings"),
        ({"reads": ["nonsense"]}, "malformed"),
        ({"reads": ["host=r"], "impressions": "transaction"}, "replica cannot store"),
        ({"reads": ["host=r"], "max_lag_s": 0}, "max_lag_s"),
    ],
)
def test_a_wrong_list_of_replicas_is_refused(
    options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Recommender("shop", dsn="host=p", **options)  # type: ignore[arg-type]


# lag ---------------------------------------------------------------------------------


def at(
    lsn: int | None, at: float, *, clock: float = 0.0, replayed: float | None = None,
    standby: bool = True, started: float = 1.0,
) -> Position:  # fmt: skip
    return Position(standby, lsn, clock, replayed, started, 1, "", at)


def test_lag_is_zero_only_for_who_has_replayed_what_the_primary_wrote() -> None:
    primary = [at(50, 0.0, clock=100.0), at(100, 10.0, clock=110.0)]

    assert lag_s(primary, at(100, 10.1)) == 0
    assert lag_s(primary, at(120, 10.1)) == 0
    # Behind: as old as the last commit, or as the sample it has reached.
    assert lag_s(primary, at(99, 10.1, replayed=109.5)) == pytest.approx(0.5)
    assert lag_s(primary, at(99, 10.1, replayed=3.0)) == pytest.approx(10.1)
    assert lag_s(primary, at(49, 10.1, replayed=80.0)) == pytest.approx(30.0)
    assert lag_s(primary, at(49, 10.1)) == float("inf")
    assert lag_s(primary, at(None, 10.1)) == float("inf")


def test_a_server_that_is_no_standby_is_the_primary_or_nobody() -> None:
    primary = [at(100, 10.0, standby=False, started=7.0)]

    assert lag_s(primary, at(100, 10.1, standby=False, started=7.0)) == 0
    assert lag_s(primary, at(100, 10.1, standby=False, started=8.0)) == float("inf")
