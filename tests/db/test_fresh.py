"""Within the day: what today's interactions add to the scores of a version."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import world

from recsys import Recommender, _db, _request_sql, artifacts, fresh, retrieval, versions
from recsys.errors import RecsysError
from recsys.popularity import HALF_LIVES_D, Counts, Trend
from recsys.worker.tasks import TASKS

TREND = Trend(0.02, (0.1, 0.05, 0.0, 0.05))
ITEMS = 400


@dataclass(frozen=True)
class Shop:
    dsn: str
    counts: Counts

    def after_end(self, hours: float) -> datetime:
        """Return the time so long after the end of what version 1 has seen."""
        return datetime.fromtimestamp(self.counts.end, UTC) + timedelta(hours=hours)


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
            end=(datetime.now(UTC) - timedelta(days=2)).timestamp(),
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


def buy(shop: Shop, item: int, users: range, hours: float = 24.0) -> None:
    """Let users buy an item some hours after the version's end."""
    with _db.connect(shop.dsn) as conn, conn.cursor() as cur:
        cur.executemany(
            "insert into event values (%s, %s, 'purchase', %s)",
            [(user, item, shop.after_end(hours)) for user in users],
        )


def recount(shop: Shop, counts: Counts) -> None:
    """Let version 1 have been made of other counts."""
    with _db.connect(shop.dsn) as conn:
        sha256 = artifacts.put(conn, "safetensors", counts.pack("bigint"))
        conn.execute(
            "update recsys.model_version set artifacts = artifacts || %s::jsonb",
            (json.dumps({"popularity": sha256}),),
        )


def second(shop: Shop) -> None:
    """Register version 1 once more, as a ready version 2."""
    with _db.connect(shop.dsn) as conn:
        conn.execute(
            "insert into recsys.model_version select (jsonb_populate_record(v,"
            """ '{"number": 2, "state": "ready"}')).* from recsys.model_version as v"""
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
    buy(shop, 7, range(1000, 1005), hours=24)
    buy(shop, 7, range(1000, 1002), hours=12)  # the same people, earlier

    risen = refresh(shop.dsn)

    slow = TREND.long_run * math.log((shop.counts.pop[6] + 5) / shop.counts.pop[6])
    for row, (days, weight) in enumerate(zip(HALF_LIVES_D, TREND.recent, strict=True)):
        then = float(shop.counts.decayed[row, 6])
        now = then * 2 ** (-2 / days) + 5 * 2 ** (-1 / days)
        slow += weight * math.log((now + 0.5) / (then + 0.5))
    assert risen == {7: pytest.approx(slow, rel=1e-3)}


@pytest.mark.parametrize("days", [1, 7, 30])
def test_one_choice_is_worth_the_same_however_old_the_version(
    shop: Shop, days: int
) -> None:
    decayed = shop.counts.decayed.copy()
    decayed[:, 6], decayed[:, 7] = 0, 9
    end = datetime.now(UTC) - timedelta(days=days)
    recount(shop, replace(shop.counts, decayed=decayed, end=end.timestamp()))
    for item in (7, 8):
        buy(shop, item, range(1000, 1001), hours=47.99)

    risen = refresh(shop.dsn)

    pop = float(shop.counts.pop[6])
    worth = sum(TREND.recent) * math.log(1.5 / 0.5)
    worth += TREND.long_run * math.log((pop + 1) / pop)
    # Item 8 fell: it was chosen more often before the version's end.
    assert risen.get(7) == pytest.approx(worth, rel=1e-2)
    assert risen.get(8, 0) < 0.04


def test_who_had_the_item_before_is_no_new_user(shop: Shop) -> None:
    decayed = np.full_like(shop.counts.decayed, 5)
    recount(shop, replace(shop.counts, decayed=decayed))
    buy(shop, 7, range(1000, 1020), hours=-24)
    buy(shop, 7, range(1000, 1020), hours=24)

    risen = refresh(shop.dsn)

    rise = 0.0
    for days, weight in zip(HALF_LIVES_D, TREND.recent, strict=True):
        now = 5 * 2 ** (-2 / days) + 20 * (2 ** (-1 / days) - 2 ** (-3 / days))
        rise += weight * math.log((now + 0.5) / 5.5)
    assert risen == {7: pytest.approx(rise, rel=1e-3)}


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_times_without_a_zone_are_utc_in_every_session(shop: Shop, zone: str) -> None:
    with _db.connect(shop.dsn, autocommit=True) as conn:
        conn.execute("set timezone to 'UTC'")
        conn.execute("alter table event alter column created_at type timestamp")
    with _db.connect(shop.dsn, autocommit=True) as conn, conn.cursor() as cur:
        for item, hours in ((7, -1), (8, 1)):
            time = shop.after_end(hours).replace(tzinfo=None)
            cur.executemany(
                "insert into event values (%s, %s, 'purchase', %s)",
                [(user, item, time) for user in range(1000, 1050)],
            )
        conn.execute("select set_config('timezone', %s, false)", (zone,))
        fresh.refresh(conn, "shop")
        rows = conn.execute("select item_id from recsys.item_trend").fetchall()

    assert rows == [("8",)]


def test_a_broken_version_stops_no_other(shop: Shop) -> None:
    second(shop)
    with _db.connect(shop.dsn) as conn:
        conn.execute(
            "insert into recsys.rollout (model, number, percent, candidate)"
            " values ('shop', 2, 10, true);"
            "update recsys.model_version set artifacts = artifacts"
            """ || '{"popularity": "0"}' where number = 2"""
        )
    buy(shop, 7, range(1000, 1005))

    with _db.connect(shop.dsn, autocommit=True) as conn:
        with pytest.raises(RecsysError):
            fresh.refresh(conn, "shop")
        rows = conn.execute("select number, item_id from recsys.item_trend").fetchall()

    assert rows == [(1, "7")]


def test_a_version_that_answers_nobody_is_not_counted(shop: Shop) -> None:
    second(shop)
    buy(shop, 7, range(1000, 1005))
    refresh(shop.dsn)

    with _db.connect(shop.dsn) as conn:
        rows = conn.execute("select number, item_id from recsys.item_trend").fetchall()

    assert rows == [(1, "7")]
    assert TASKS["trend"].slow


def test_what_nobody_measures_any_more_leaves_the_scores(shop: Shop) -> None:
    before = scores(shop.dsn)
    buy(shop, 7, range(1000, 1020))
    refresh(shop.dsn)
    risen = scores(shop.dsn)[7]
    with _db.connect(shop.dsn) as conn:
        conn.execute(
            "update recsys.item_trend set measured_at = now() - '2 d'::interval"
        )

    assert scores(shop.dsn)[7] == pytest.approx(before[7], abs=1e-6)
    refresh(shop.dsn)  # measured again, though it is the same
    assert scores(shop.dsn)[7] == pytest.approx(risen, abs=1e-3)
    assert risen > before[7] + 0.01


def test_the_search_adds_what_rose_and_nothing_else(shop: Shop) -> None:
    before = scores(shop.dsn)
    buy(shop, 7, range(1000, 1020))

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
    buy(shop, last, range(1000, 300_000, 7))

    refresh(shop.dsn)
    page = list(scores(shop.dsn, k=5))

    assert page == [last, *order[:4]]


@pytest.mark.parametrize("cold", [None, 0.015])
def test_a_new_item_rises_from_what_new_items_have(
    shop: Shop, cold: float | None
) -> None:
    buy(shop, ITEMS, range(1000, 1003))
    usual = float(np.median(TREND.bias(shop.counts.pop, shop.counts.decayed)))
    if cold is not None:
        usual = cold
        with _db.connect(shop.dsn) as conn:
            conn.execute(
                "update recsys.model_version"
                " set spec = jsonb_set(spec, '{trend,cold}', to_jsonb(%s::float8))",
                (cold,),
            )

    risen = refresh(shop.dsn)

    new = 3 * np.exp2(-1 / np.array(HALF_LIVES_D, np.float32))[:, None]
    alone = TREND.bias(np.array([3.0], np.float32), new)[0]
    assert risen[ITEMS] == pytest.approx(float(alone - usual), rel=1e-3)


def test_the_future_and_the_past_are_not_counted(shop: Shop) -> None:
    buy(shop, 7, range(1000, 1005), hours=-1)
    buy(shop, 8, range(1000, 1005), hours=49)

    assert refresh(shop.dsn) == {}


def test_similar_items_do_not_follow_the_day(shop: Shop) -> None:
    def similar() -> list[tuple[object, float]]:
        with Recommender("shop", dsn=shop.dsn) as one:
            return [(i.item_id, i.score) for i in one.similar_items(3, k=9)]

    before = similar()
    buy(shop, 7, range(1000, 1050))
    refresh(shop.dsn)

    assert similar() == before


def test_items_the_user_knows_do_not_come_back(shop: Shop) -> None:
    buy(shop, 7, range(1000, 1050))
    refresh(shop.dsn)

    with Recommender("shop", dsn=shop.dsn) as one:
        page = one.recommend(user_id=1000, k=20)

    assert len(page) == 20
    assert 7 not in [item.item_id for item in page]


def test_what_no_longer_rises_is_taken_back(shop: Shop) -> None:
    buy(shop, 7, range(1000, 1005))
    assert refresh(shop.dsn)

    with _db.connect(shop.dsn) as conn:
        conn.execute("delete from event where customer_id >= 1000")

    assert refresh(shop.dsn) == {}


def test_a_null_among_the_excluded_hides_no_riser(shop: Shop) -> None:
    last = list(scores(shop.dsn))[-1]
    buy(shop, last, range(1000, 300_000, 7))
    refresh(shop.dsn)

    with _db.connect(shop.dsn) as conn:
        version = versions.get(conn, "shop", 1)
        sql = _request_sql.statements(version.suffix, version.config, 1)
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
        sql = _request_sql.statements("plan", world.shop_config("text"), 1)
        assert sql.fresh is not None
        plan = conn.execute(b"explain " + sql.fresh, ("[1,2,3]", 5, ["item 1"], 9, 1.0))
        lines = [str(row[0]) for row in plan]

    assert not [line for line in lines if "Seq Scan on item_vector" in line]
    assert [line for line in lines if "item_vector_plan_pkey" in line]
