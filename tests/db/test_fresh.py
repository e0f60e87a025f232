"""Within the day: what today's interactions add to the scores of a version."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import world

from recsys import Recommender, _db, artifacts, fresh, retrieval, versions
from recsys.popularity import HALF_LIVES_D, Counts, Trend

TREND = Trend(0.02, (0.1, 0.05, 0.0, 0.05))
END = datetime.now(UTC) - timedelta(days=2)
ITEMS = 400


@dataclass(frozen=True)
class Shop:
    dsn: str
    counts: Counts


@pytest.fixture(scope="module")
def shop_template(server: str, template: str) -> Iterator[Shop]:
    """Version 1 serves, trained two days ago; item 400 was never chosen."""
    model = world.shop_config()
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=ITEMS, users=20)
        _, learned = world.add_version(dsn, model, promote=True, cold=1)
        rng = np.random.default_rng(0)
        size = len(learned.item_ids)
        counts = Counts(
            item_ids=learned.item_ids,
            pop=rng.integers(1, 9, size).astype(np.float32),
            decayed=rng.random((len(HALF_LIVES_D), size)).astype(np.float32),
            end=END.timestamp(),
        )
        with _db.connect(dsn) as conn:
            sha256 = artifacts.put(conn, "safetensors", counts.pack("bigint"))
            conn.execute(
                "update recsys.model_version set spec = spec || %s::jsonb,"
                " artifacts = artifacts || %s::jsonb",
                (
                    json.dumps({"trend": TREND.to_dict()}),
                    json.dumps({"popularity": sha256}),
                ),
            )
        yield Shop(dsn, counts)


@pytest.fixture
def shop(server: str, shop_template: Shop) -> Iterator[Shop]:
    with world.database(server, world.name_of(shop_template.dsn)) as dsn:
        yield Shop(dsn, shop_template.counts)


def buy(dsn: str, item: int, users: range, hours: float = 24.0) -> None:
    """Let users buy an item some hours after the version's end."""
    with _db.connect(dsn) as conn, conn.cursor() as cur:
        cur.executemany(
            "insert into event values (%s, %s, 'purchase', %s)",
            [(user, item, END + timedelta(hours=hours)) for user in users],
        )


def refresh(dsn: str) -> dict[int, float]:
    with _db.connect(dsn, autocommit=True) as conn:
        fresh.refresh(conn, "shop")
        rows = conn.execute("select item_id, delta from recsys.item_trend").fetchall()
    return {int(item): delta for item, delta in rows}


def scores(dsn: str, k: int = ITEMS) -> dict[int, float]:
    with Recommender("shop", dsn=dsn) as shop:
        page = shop.recommend(history=[1, 2, 3], k=k)
    return {int(item.item_id): item.score for item in page}


def test_what_rose_is_the_formula_over_all_events(shop: Shop) -> None:
    buy(shop.dsn, 7, range(1000, 1005), hours=24)
    buy(shop.dsn, 7, range(1000, 1002), hours=12)  # the same people, earlier

    risen = refresh(shop.dsn)

    slow = TREND.long_run * math.log((shop.counts.pop[6] + 5) / shop.counts.pop[6])
    for row, (days, weight) in enumerate(zip(HALF_LIVES_D, TREND.recent, strict=True)):
        before = float(shop.counts.decayed[row, 6]) + 0.5
        slow += weight * math.log((before + 5 * 2 ** (1 / days)) / before)
    assert risen == {7: pytest.approx(slow, rel=1e-4)}


def test_the_search_adds_what_rose_and_nothing_else(shop: Shop) -> None:
    before = scores(shop.dsn)
    buy(shop.dsn, 7, range(1000, 1020))

    risen = refresh(shop.dsn)
    after = scores(shop.dsn)

    assert after[7] == pytest.approx(before[7] + risen[7], abs=1e-5)
    others = set(before) - {7}
    assert {i: after[i] for i in others} == {
        i: pytest.approx(before[i], abs=1e-6) for i in others
    }


def test_an_item_far_behind_reaches_the_top_of_k_items(shop: Shop) -> None:
    order = list(scores(shop.dsn))
    last = order[-1]
    buy(shop.dsn, last, range(1000, 300_000, 7))

    refresh(shop.dsn)
    page = list(scores(shop.dsn, k=5))

    assert page == [last, *order[:4]]


def test_a_new_item_rises_from_what_new_items_have(shop: Shop) -> None:
    buy(shop.dsn, ITEMS, range(1000, 1003))

    risen = refresh(shop.dsn)

    zero = np.zeros((len(HALF_LIVES_D), 1), np.float32)
    usual = np.median(TREND.bias(shop.counts.pop, shop.counts.decayed))
    new = zero + 3 * np.exp2(1 / np.array(HALF_LIVES_D))[:, None]
    alone = TREND.bias(np.array([3.0]), new.astype(np.float32))[0]
    assert risen[ITEMS] == pytest.approx(float(alone - usual), rel=1e-4)


def test_the_future_and_the_past_are_not_counted(shop: Shop) -> None:
    buy(shop.dsn, 7, range(1000, 1005), hours=-1)
    buy(shop.dsn, 8, range(1000, 1005), hours=49)

    assert refresh(shop.dsn) == {}


def test_similar_items_do_not_follow_the_day(shop: Shop) -> None:
    def similar() -> list[tuple[object, float]]:
        with Recommender("shop", dsn=shop.dsn) as one:
            return [(i.item_id, i.score) for i in one.similar_items(3, k=9)]

    before = similar()
    buy(shop.dsn, 7, range(1000, 1050))
    refresh(shop.dsn)

    assert similar() == before


def test_items_the_user_knows_do_not_come_back(shop: Shop) -> None:
    buy(shop.dsn, 7, range(1000, 1050))
    refresh(shop.dsn)

    with Recommender("shop", dsn=shop.dsn) as one:
        page = one.recommend(user_id=1000, k=20)

    assert len(page) == 20
    assert 7 not in [item.item_id for item in page]


def test_what_no_longer_rises_is_taken_back(shop: Shop) -> None:
    buy(shop.dsn, 7, range(1000, 1005))
    assert refresh(shop.dsn)

    with _db.connect(shop.dsn) as conn:
        conn.execute("delete from event where customer_id >= 1000")

    assert refresh(shop.dsn) == {}


def test_a_null_among_the_excluded_hides_no_riser(shop: Shop) -> None:
    last = list(scores(shop.dsn))[-1]
    buy(shop.dsn, last, range(1000, 300_000, 7))
    refresh(shop.dsn)

    with _db.connect(shop.dsn) as conn:
        version = versions.get(conn, "shop", 1)
        sql = retrieval.statements(version.suffix, version.config, 1)
        query = _db.Halfvec(np.zeros(version.dim, np.float32))
        found, _ = retrieval.search(conn, sql, query, 5, [None], 100, 1.0)  # type: ignore[list-item]

    assert found[0] == last


def test_text_ids_are_looked_up_by_the_primary_key(server: str, template: str) -> None:
    with world.database(server, template) as dsn, _db.connect(dsn) as conn:
        conn.execute(
            "create table recsys.item_vector_plan"
            " (item_id text primary key, embedding halfvec(3));"
            "insert into recsys.item_vector_plan"
            " select 'item ' || n, '[1,2,3]' from generate_series(1, 5000) as n;"
            "create function recsys._search_plan(halfvec, integer, text[], integer,"
            " out item_ids text[], out scores real[]) language sql as"
            " $$ select '{}'::text[], '{}'::real[] $$;"
            "analyze recsys.item_vector_plan"
        )
        sql = retrieval.statements("plan", world.shop_config("text"), 1)
        assert sql.fresh is not None
        plan = conn.execute(b"explain " + sql.fresh, ("[1,2,3]", 5, ["item 1"], 9, 1.0))
        lines = [str(row[0]) for row in plan]

    assert not [line for line in lines if "Seq Scan on item_vector" in line]
    assert [line for line in lines if "item_vector_plan_pkey" in line]
