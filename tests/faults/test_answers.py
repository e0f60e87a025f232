"""recommend() while the database does not answer: whose items, and which."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from island import Island

from recsys import Recommender, _db, _fallback, observe, rollout
from recsys._entry import Entry
from recsys.assignment import Assignment
from recsys.connections import place_of, source_of
from recsys.impressions import ImpressionLog
from recsys.observe import Answered
from recsys.rules import Rules
from recsys.types import Page

CHEAP = "select id from product where price < %s"
PER = "select id, price::int % 2 from product"


@contextmanager
def stuck(primary: Island) -> Iterator[None]:
    """Nobody gets at the vectors of either version."""
    with psycopg.connect(primary.dsn) as conn:
        for version in (1, 2):
            conn.execute(
                f"lock table recsys.item_vector_shop_{version}"
                " in access exclusive mode".encode()
            )
        yield


def promote(primary: Island, number: int) -> None:
    with _db.connect(primary.dsn) as conn:
        rollout.promote(conn, "shop", number, reason="test", force=True)


Ask = Callable[[Recommender], Page]


def like(**given: Any) -> Ask:
    kind = "similar_items" if "item_id" in given else "recommend"
    return lambda shop: getattr(shop, kind)(k=6, **given)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(like(user_id=7), like(user_id=8), id="user"),
        pytest.param(like(item_id=7), like(item_id=8), id="item"),
        pytest.param(like(item_id=7), like(user_id=7), id="kind"),
        pytest.param(like(history=[3, 4]), like(history=[5, 6]), id="session"),
        pytest.param(
            like(unit="a", history=[3, 4]), like(unit="b", history=[5, 6]), id="unit"
        ),
        pytest.param(
            like(user_id=7, history=[3]), like(user_id=7, history=[50]), id="history"
        ),
        pytest.param(
            like(user_id=7, among=(CHEAP, [20])),
            like(user_id=7, among=(CHEAP, [12])),
            id="values of the filter",
        ),
        pytest.param(
            like(user_id=7, among=CHEAP.replace("%s", "20")),
            like(user_id=7, among="select id from product where price > 60"),
            id="filter",
        ),
        pytest.param(like(user_id=7), like(user_id=7, among=(CHEAP, [12])), id="none"),
        pytest.param(
            like(user_id=7, rules=Rules(pin=[3])),
            like(user_id=7, rules=Rules(pin=[4])),
            id="rules",
        ),
        pytest.param(
            like(user_id=7, rules=Rules(at_most=1, per=PER)),
            like(user_id=7, rules=Rules(at_most=2, per=PER)),
            id="at most",
        ),
        pytest.param(
            like(user_id=7, boost={3: 50.0}),
            like(user_id=7, boost={4: 50.0}),
            id="boost",
        ),
        pytest.param(
            like(user_id=7),
            like(user_id=7, exclude_seen=False, boost={7: 90}),
            id="seen",
        ),
    ],
)
def test_every_request_gets_its_own_page_back(
    primary: Island, one: Ask, other: Ask
) -> None:
    with Recommender("shop", dsn=primary.dsn, timeout_ms=5000) as shop:
        good = one(shop), other(shop)
        shop._timeout_ms = 60.0
        with stuck(primary):
            held = one(shop), other(shop)

    assert {page.degraded for page in good} == {None}
    assert {page.degraded for page in held} == {"timeout"}
    assert good[0].items != good[1].items
    assert [page.items for page in held] == [page.items for page in good]


@pytest.mark.parametrize(
    ("asked", "unseen"),
    [
        pytest.param({"unit": "a"}, {"unit": "b"}, id="unit"),
        pytest.param({"recall_target": 0.9}, {"recall_target": 0.99}, id="recall"),
        pytest.param({"context": None}, {"context": {"device": "tv"}}, id="context"),
        pytest.param({"min_score": -90}, {"min_score": -91}, id="least score"),
        pytest.param({"exclude_seen": True}, {"exclude_seen": False}, id="seen"),
    ],
)
def test_another_request_gets_popular_items(
    primary: Island, asked: dict[str, Any], unseen: dict[str, Any]
) -> None:
    user = None if "unit" in asked else 7
    with Recommender("shop", dsn=primary.dsn, timeout_ms=5000) as shop:
        popular = shop.recommend(4_000_000, k=6)
        good = shop.recommend(user, k=6, **asked)
        with stuck(primary):
            same = shop.recommend(user, k=6, timeout_ms=60, **asked)
            other = shop.recommend(user, k=6, timeout_ms=60, **unseen)
            stranger = shop.recommend(5_000_000, k=6, timeout_ms=60)

    assert popular.degraded is None
    assert same.items == good.items
    # By popularity alone: scores that no good page has.
    assert [one.score for one in other] == [one.score for one in stranger]
    assert [one.score for one in other] != [one.score for one in good]


def test_another_database_answers_for_itself(primary: Island) -> None:
    elsewhere = psycopg.conninfo.make_conninfo(primary.dsn, dbname="postgres")
    with (
        _db.connect(primary.dsn) as mine,
        _db.connect(elsewhere) as other,
        Recommender("shop", connection=mine) as shop,
    ):
        good = shop.recommend(7, k=6)
        with primary.frozen():
            same = shop.recommend(7, k=6, timeout_ms=80)
            foreign = shop.on(other).recommend(7, k=6, timeout_ms=80)
    assert (same.items, same.degraded) == (good.items, "timeout")
    assert (foreign.items, foreign.degraded) == ((), "timeout")


def test_each_kind_of_connection_is_known_by_its_database(primary: Island) -> None:
    alchemy = pytest.importorskip("sqlalchemy")
    url = primary.dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    one, other = alchemy.create_engine(url), alchemy.create_engine(url + "2")
    with _db.connect(primary.dsn) as conn:
        mine = place_of(source_of(conn))
        assert mine is not None
        conn.close()
        assert place_of(source_of(conn)) == mine  # its page is there all the same
        assert place_of(source_of(conn)) == mine
    assert place_of(source_of(one)) not in (None, place_of(source_of(other)))
    assert place_of(source_of(None, "dbname=a")) == "dbname=a"
    never = psycopg.connect(primary.dsn)
    never.close()
    assert place_of(source_of(never)) is None


# popular items -----------------------------------------------------------------------


def test_popular_items_hold_nothing_that_was_not_committed(primary: Island) -> None:
    free = "select id from product where price < 0"
    with _db.connect(primary.dsn) as conn:
        shop = Recommender("shop", connection=conn)
        conn.execute("update product set price = -1 where id in (3, 4, 5)")
        for _ in range(2):
            page = shop.recommend(7, k=6, among=free, exclude_seen=False)
        conn.rollback()
        assert {*page.ids} == {3, 4, 5}
        with stuck(primary):
            held = shop.recommend(4_000_000, k=6, among=free, timeout_ms=60)
    assert (held.items, held.degraded) == ((), "timeout")


@pytest.mark.parametrize("timeout_ms", [None, 1000.0])
def test_popular_items_cost_one_request_a_bounded_time(
    primary: Island, timeout_ms: float | None
) -> None:
    primary.execute(
        "create or replace function heavy(id bigint) returns bool volatile"
        " language plpgsql as $$begin"
        " if current_setting('application_name') <> 'mine' then"
        " perform pg_sleep(3); end if; return true; end$$"
    )
    heavy = "select id from product where heavy(id)"
    took: list[float] = []
    with psycopg.connect(primary.dsn, application_name="mine") as conn:
        shop = Recommender("shop", connection=conn, timeout_ms=timeout_ms)
        shop.recommend(7)
        for _ in range(5):
            shop._engine.memory._next = 0.0
            started = time.monotonic()
            assert shop.recommend(7, among=heavy).degraded is None
            took.append(time.monotonic() - started)
        assert not conn.closed
        assert conn.execute("select 1").fetchone() == (1,)
    slow = [one for one in took if one > 0.15]
    assert len(slow) == 1  # and not once a second for ever
    assert slow[0] < _fallback.POPULAR_MOST_S + 0.3
    if timeout_ms is not None:
        assert slow[0] < 0.25 + 0.3


# what has changed since --------------------------------------------------------------


def test_pages_of_a_version_that_was_rolled_back_are_gone(primary: Island) -> None:
    with Recommender("shop", dsn=primary.dsn, timeout_ms=5000) as shop:
        try:
            promote(primary, 2)
            assert shop.recommend(7, k=6).version == 2
        finally:
            promote(primary, 1)
        assert shop.recommend(8, k=6).version == 1
        with stuck(primary):
            pages = [shop.recommend(u, k=6, timeout_ms=60) for u in (7, 8, 4_000_000)]
    assert {page.version for page in pages} <= {1, None}
    assert pages[1].version == 1


def test_what_was_bought_a_moment_ago_is_not_shown_again(primary: Island) -> None:
    with Recommender("shop", dsn=primary.dsn, timeout_ms=5000) as shop:
        good = shop.recommend(7, k=6)
        other = shop.recommend(8, k=6)
        with psycopg.connect(primary.dsn) as conn:
            shop.on(conn).record(7, good.ids[1], "view")
            conn.rollback()
        with stuck(primary):
            held = shop.recommend(7, k=6, timeout_ms=60)
            others = shop.recommend(8, k=6, timeout_ms=60)
            session = shop.recommend(
                history=list(other.ids), k=50, unit="new", timeout_ms=60
            )
    assert held.degraded == "timeout"
    assert held.ids[:5] == [one for one in good.ids if one != good.ids[1]]
    assert good.ids[1] not in held.ids
    assert others.items == other.items
    assert not {*session.ids} & {*other.ids}


def test_another_version_does_not_answer_for_an_arm() -> None:
    told: list[Answered] = []
    observe.add(told.append)
    try:
        for version in (2, 1):
            entry = Entry(ImpressionLog("off", ""), "shop", 5, "u")
            entry.assigned(Assignment(2, "test", "b"))
            entry.fell_back(Page((), uuid4(), "shop", version, degraded="timeout"))
    finally:
        observe.remove(told.append)
    assert [(one.version, one.experiment, one.arm) for one in told] == [
        (2, "test", "b"),
        (1, None, None),
    ]
