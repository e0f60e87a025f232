"""The gate: known answers, planted versions, and what cannot be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest
import world

from recsys import _db, _load, _measure, _pair, _plan, evaluate, rollout, versions
from recsys import backfill as filling
from recsys._db import Connection
from recsys.compare import Comparison, Gate, compare, store
from recsys.config import from_mapping, model_from_dict
from recsys.errors import ConfigError, SourceError, UnknownVersion, VersionStateError
from recsys.evaluate import Holdout

CUT = datetime(2026, 2, 1, tzinfo=UTC)


# known answers -----------------------------------------------------------------------


@pytest.fixture
def line(dsn: str) -> Iterator[Connection]:
    """Version 1 shows everybody 6, 5, ... 1 less the seen; version 2 shows 1, 2, ... 6.

    Before the cut-off: user 1 had 6, user 2 had 5 and 4, and others 1 to 4. After it:
    user 1 took 5 and 1, user 2 took 3.
    """
    with _db.connect(dsn) as conn:
        conn.execute("create table product (id bigint primary key)")
        conn.execute("insert into product select generate_series(1, 6)")
        conn.execute(
            "create table event (customer_id bigint, product_id bigint, kind text,"
            " created_at timestamptz)"
        )
        conn.execute(
            "insert into event values"
            " (1, 6, 'view', '2026-01-20'), (2, 5, 'view', '2026-01-20'),"
            " (2, 4, 'view', '2026-01-21'), (8, 4, 'view', '2025-06-02'),"
            " (9, 1, 'view', '2025-06-01'), (9, 2, 'view', '2025-06-01'),"
            " (9, 3, 'view', '2025-06-01'),"
            " (1, 5, 'view', '2026-02-02'), (1, 1, 'view', '2026-02-03'),"
            " (2, 3, 'view', '2026-02-03')"
        )
        conn.commit()
        data = world.toml()
        data["model"]["shop"]["items"]["sql"] = "select id as item_id from product"
        data["model"]["shop"]["interactions"]["weights"] = {"view": 1}
        model = from_mapping(data).model("shop")
        for order in ("item_id", "7 - item_id"):
            number, _ = world.add_version(dsn, model, trained_until=CUT)
            plant(conn, number, order)
        conn.commit()
        yield conn


def plant(conn: Connection, number: int, popularity: str) -> None:
    """Let popularity alone, an expression of item_id, decide a version's order."""
    conn.execute(
        f"update recsys.item_vector_shop_{number} set embedding ="
        f" ('[1' || repeat(',0', 7) || ',' || ({popularity}) || ']')::halfvec".encode()
    )


def test_the_metrics_are_those_computed_by_hand(line: Connection) -> None:
    found = compare(line, "shop", 2, 1, k=2)

    # Version 1 shows user 1 5, 4: one hit of two, in front; user 2 6, 3: a hit behind.
    # Version 2 shows user 1 1, 2: one hit of two, in front; user 2 1, 2: none.
    metrics = found.metrics
    half = 1 / math.log2(3)
    assert metrics["recall@2"].base == pytest.approx((0.5 + 1) / 2)
    assert metrics["recall@2"].candidate == pytest.approx(0.5 / 2)
    assert metrics["ndcg@2"].base == pytest.approx((1 / (1 + half) + half) / 2)
    assert metrics["ndcg@2"].candidate == pytest.approx((1 / (1 + half)) / 2)
    assert metrics["ndcg@2"].difference == pytest.approx(-half / 2)
    assert metrics["hr@10"].base == metrics["hr@10"].candidate == 1
    # Shown: 3, 4, 5, 6 of six items; and 1, 2.
    assert metrics["coverage"].base == pytest.approx(4 / 6)
    assert metrics["coverage"].candidate == pytest.approx(2 / 6)
    # Before the cut-off 4 was taken by two users and every other item by one.
    assert metrics["popularity"].base == pytest.approx((1.5 + 1) / 2)
    assert metrics["popularity"].candidate == pytest.approx(1)
    # Seven takings and one for each of the six items: log2(13 / 3) and log2(13 / 2).
    one, two = math.log2(13 / 2), math.log2(13 / 3)
    assert metrics["novelty"].base == pytest.approx(((one + two) / 2 + one) / 2)
    assert metrics["novelty"].candidate == pytest.approx(one)
    assert metrics["overlap@2"].candidate == 0
    assert metrics["rbo"].candidate == 0
    assert metrics["ann_recall@2"].base == metrics["ann_recall@2"].candidate == 1
    # The floors are those of 'recsys evaluate'.
    assert metrics["recall@2"].popular == pytest.approx(0.25)
    assert (found.users, found.hits, found.k) == (2, 3, 2)
    assert (found.cutoff, found.base_number, found.number) == (CUT, 1, 2)
    assert "too little data: 30 users are needed" in found.verdict


def test_the_numbers_are_those_of_an_evaluation(line: Connection) -> None:
    found = compare(line, "shop", 2, 1, k=3)

    for number, side in ((1, "base"), (2, "candidate")):
        holdout = evaluate.after(line, "shop", number, CUT)
        alone = evaluate.evaluate(line, "shop", number, holdout, k=3)
        for name, value in alone.metrics["model"].items():
            assert getattr(found.metrics[name], side) == pytest.approx(value)


def test_the_past_ends_at_the_cut_off(line: Connection) -> None:
    """With the future in the histories every hit would be seen, and never shown."""
    found = compare(line, "shop", 2, 1, k=6)

    assert found.metrics["recall@6"].base == found.metrics["recall@6"].candidate == 1
    assert {e.user: (set(e.had), set(e.took)) for e in found.examples} == {
        1: ({6}, {1, 5}),
        2: ({5, 4}, {3}),
    }


def test_the_examples_are_the_lists(line: Connection) -> None:
    found = compare(line, "shop", 2, 1, k=2)

    shown = {e.user: (e.base, e.candidate) for e in found.examples}
    assert shown[1] == ((5, 4, 3, 2, 1), (1, 2, 3, 4, 5))
    assert shown[2] == ((6, 3, 2, 1), (1, 2, 3, 6))


# the gate on planted versions --------------------------------------------------------


@pytest.fixture(scope="module")
def town_dsn(server: str, template: str) -> Iterator[str]:
    """80 users; versions 1 and 2 alike, 3 shuffled; 1 serves.

    1 and 2 know what is taken after the cut-off; that is the plan of this town.
    """
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, users=80, items=120)
        model = world.shop_config(features=True)
        for _ in range(3):
            world.add_version(dsn, model, seed=1, trained_until=CUT)
        with _db.connect(dsn) as conn:
            conn.execute(
                "create table taken as select p.id,"
                " row_number() over (order by count(e.customer_id), p.id) as n,"
                " row_number() over (order by md5(p.id::text)) as other"
                " from product as p left join event as e on e.product_id = p.id"
                f" and e.created_at >= '{CUT.isoformat()}' group by p.id".encode()
            )
            for number in (1, 2):
                plant(conn, number, "select n / 10.0 from taken where id = item_id")
            plant(conn, 3, "select other / 10.0 from taken where id = item_id")
            # Planted vectors are no good graph: look at every item.
            conn.execute("update recsys.model_version set ef_search = 400")
            conn.commit()
            rollout.promote(conn, "shop", 1)
        yield dsn


@pytest.fixture
def town(server: str, town_dsn: str) -> Iterator[Connection]:
    with (
        world.database(server, world.name_of(town_dsn)) as dsn,
        _db.connect(dsn) as conn,
    ):
        yield conn


@pytest.fixture(autouse=True)
def few_timed_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "_TIMED", 60)


def test_equal_versions_differ_by_nothing_and_pass(town: Connection) -> None:
    found = compare(town, "shop", 2)

    assert found.base_number == 1
    for name, paired in found.metrics.items():
        if "latency" in name:
            continue
        if name in ("overlap@20", "rbo"):
            assert paired.candidate == paired.low == paired.high == pytest.approx(1)
        else:
            assert paired.difference == 0, name
    assert found.metrics["ndcg@20"].base == found.metrics["ndcg@20"].candidate
    assert (found.metrics["ndcg@20"].low, found.metrics["ndcg@20"].high) == (0, 0)
    assert found.metrics["latency_p50_ms"].candidate
    assert found.passed, found.verdict
    assert found.verdict.startswith("passed: ndcg@20")


def test_a_version_with_shuffled_rows_fails(town: Connection) -> None:
    found = compare(town, "shop", 3)

    assert not found.passed
    assert "ndcg@20 fell by" in found.verdict
    high = found.metrics["ndcg@20"].high
    assert high is not None
    assert high < 0
    assert (found.metrics["overlap@20"].candidate or 0) < 1
    back = compare(town, "shop", 1, 3)
    assert back.passed
    assert back.metrics["ndcg@20"].difference == pytest.approx(
        -(found.metrics["ndcg@20"].difference or 0)
    )


def test_a_slow_version_fails(town: Connection) -> None:
    town.execute("alter function recsys._state_shop_2 rename to _state_fast")
    town.execute(
        "create function recsys._state_shop_2(p_user bigint, p_before float8 = null)"
        " returns table (generation bigint, seen bigint[], weights real[],"
        " history bytea, features jsonb) language plpgsql stable as 'begin"
        " perform pg_sleep(0.03);"
        " return query select * from recsys._state_fast(p_user, p_before); end'"
    )
    town.commit()

    found = compare(town, "shop", 2)

    assert not found.passed
    assert "p99 latency is" in found.verdict
    p50 = found.metrics["latency_p50_ms"]
    assert 29 < (p50.difference or 0) < 60


def test_an_index_below_its_target_fails(town: Connection) -> None:
    town.execute("update recsys.model_version set ann_recall = 0.9 where number = 2")
    town.commit()

    found = compare(town, "shop", 2)

    assert not found.passed
    assert "ANN recall is 0.900" in found.verdict


def test_ann_recall_is_that_of_these_users_lists(town: Connection) -> None:
    """A search that skips the best item finds 19 of 20."""
    town.execute("alter function recsys._search_shop_3 rename to _search_all")
    town.execute(
        "create function recsys._search_shop_3(p_query halfvec, p_k integer,"
        " p_exclude bigint[] = '{}', p_ef integer = 100)"
        " returns table (item_ids bigint[], scores real[]) language sql stable as"
        " 'select item_ids[2:], scores[2:]"
        " from recsys._search_all(p_query, p_k + 1, p_exclude, p_ef)'"
    )
    town.commit()

    found = compare(town, "shop", 3)

    paired = found.metrics["ann_recall@20"]
    assert paired.base == pytest.approx(1)
    assert paired.candidate == pytest.approx(0.95, abs=0.002)


def test_without_a_serving_version_the_floor_is_the_base(town: Connection) -> None:
    rollout.promote(town, "shop", None)
    town.commit()

    good, bad = compare(town, "shop", 2), compare(town, "shop", 3)

    assert good.base_number is None
    assert good.passed
    assert "against the floor" in good.verdict
    ndcg = good.metrics["ndcg@20"]
    assert ndcg.base == ndcg.popular
    assert good.metrics["latency_p50_ms"].base is None
    assert good.metrics["ann_recall"].candidate
    assert (bad.metrics["ndcg@20"].base or 0) > 0


def test_the_thresholds_can_be_set(town: Connection) -> None:
    lenient = Gate(max_drop=1.0, min_coverage=0)
    strict = Gate(min_users=1000)

    assert "too little data" in compare(town, "shop", 2, gate=strict).verdict
    found = compare(town, "shop", 3, gate=lenient)
    assert "more than" not in found.verdict
    assert "fell for certain" in found.verdict


# which users -------------------------------------------------------------------------


def test_the_same_seed_asks_the_same_users(town: Connection) -> None:
    def users(seed: int, size: int) -> list[object]:
        found = compare(town, "shop", 2, max_users=size, seed=seed)
        assert found.users == size
        assert f"{size} users (a sample of " in found.verdict
        return [example.user for example in found.examples]

    assert users(0, 5) == users(0, 5)
    assert users(0, 5) != users(1, 5)
    assert users(0, 10)[:5] == users(0, 5)


def test_new_users_leave_most_of_a_sample_as_it_is() -> None:
    before = set(_pair.sample(list(range(10_000)), 1000, seed=3))
    after = set(_pair.sample(list(range(11_000)), 1000, seed=3))

    assert len(before & after) > 850


def test_hits_may_come_from_elsewhere(town: Connection) -> None:
    holdout = Holdout({user: {user + 1} for user in range(1, 41)} | {41: set()})

    found = compare(town, "shop", 2, holdout=holdout)

    assert (found.users, found.hits, found.cutoff) == (40, 40, None)
    assert "is not checked" in found.verdict
    assert "is not checked" not in compare(town, "shop", 2).verdict


def test_later_versions_move_the_cut_off(town: Connection) -> None:
    later = CUT + timedelta(days=7)
    town.execute(
        "update recsys.model_version set trained_until = %s where number = 2", (later,)
    )
    town.commit()

    assert compare(town, "shop", 2).cutoff == later
    assert compare(town, "shop", 1, 2).cutoff == later
    assert compare(town, "shop", 3).cutoff == CUT
    with pytest.raises(ConfigError, match="is no test for it") as caught:
        compare(town, "shop", 2, cutoff=CUT)
    assert later.isoformat() in caught.value.hint


def test_an_unknown_end_of_the_training_data_is_told(town: Connection) -> None:
    town.execute("update recsys.model_version set trained_until = null where number=1")
    town.commit()

    with pytest.raises(SourceError, match="unknown") as caught:
        compare(town, "shop", 2)
    assert "--after" in caught.value.hint
    found = compare(town, "shop", 2, cutoff=CUT)
    assert "what version 1 was trained on is unknown" in found.verdict


def test_a_cut_off_without_a_zone_is_utc(town: Connection) -> None:
    found = compare(town, "shop", 2, cutoff=CUT.replace(tzinfo=None))

    assert found.cutoff == CUT


# while a version loads ---------------------------------------------------------------


def half_loaded(conn: Connection, number: int, phase: str = "loading") -> None:
    """Put a version back to where its backfill had loaded every other item."""
    conn.execute(
        "update recsys.model_version set state = 'building', phase = %s,"
        " ef_search = null, ann_recall = null where number = %s",
        (phase, number),
    )
    if phase == "loading":
        for table in ("item_vector", "item_embedding"):
            conn.execute(
                f"delete from recsys.{table}_shop_{number}"
                " where item_id % 2 = 0".encode()
            )
    conn.commit()


def test_a_loading_version_is_compared_on_its_items(town: Connection) -> None:
    half_loaded(town, 2)

    found = compare(town, "shop", 2)

    assert found.limited
    assert not found.passed
    assert found.sample_percent == 50
    assert "limited data: on 50 % of the items" in found.verdict
    assert "while version 2 is loading" in found.verdict
    assert found.examples
    for example in found.examples:
        shown = {*example.base, *example.candidate, *example.took}
        assert all(isinstance(item, int) and item % 2 for item in shown)
    assert not [name for name in found.metrics if "latency" in name or "ann" in name]


def test_on_its_items_both_versions_know_the_same(town: Connection) -> None:
    """Equal versions stay equal: histories are restricted like candidates."""
    town.execute(
        "update recsys.item_vector_shop_2 as v set embedding = o.embedding from"
        " recsys.item_vector_shop_1 as o where o.item_id = v.item_id"
    )
    # Not popularity but taste decides, so that a longer history would show.
    for number in (1, 2):
        town.execute(
            f"update recsys.item_vector_shop_{number} as v set embedding ="
            " (l2_normalize(h.embedding)::vector || '[0]'::vector)::halfvec"
            f" from recsys.item_embedding_shop_{number} as h"
            " where h.item_id = v.item_id".encode()
        )
    half_loaded(town, 2)

    found = compare(town, "shop", 2)

    assert found.metrics["overlap@20"].candidate == pytest.approx(1)
    assert found.metrics["rbo"].candidate == pytest.approx(1)
    assert found.metrics["ndcg@20"].difference == 0


def test_a_loaded_version_that_is_not_ready_is_limited(town: Connection) -> None:
    half_loaded(town, 2, phase="indexing")

    found = compare(town, "shop", 2)

    assert found.limited
    assert found.sample_percent == 100
    assert not found.passed


class Interrupted:
    """Progress that ends a backfill in the middle of its loading."""

    def __init__(self) -> None:
        self.chunks = 0

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Any]:
        yield SimpleNamespace(advance=self.advance if "Encod" in name else print)

    def advance(self, n: int = 1, note: str = "") -> None:
        self.chunks += 1
        if self.chunks == 2:
            raise RuntimeError("the power went")


def test_an_interrupted_backfill_can_be_compared_and_then_finished(
    town: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_load, "_CHUNK", 2)
    with _db.connect(town.info.dsn) as conn:
        model = world.shop_config(features=True)
        number, _ = world.add_version(
            town.info.dsn, model, seed=1, ready=False, trained_until=CUT
        )
        with pytest.raises(RuntimeError, match="power"):
            filling.backfill(town.info.dsn, "shop", number, progress=Interrupted())

        half = compare(conn, "shop", number)
        filling.backfill(town.info.dsn, "shop", number)
        whole = compare(conn, "shop", number)

    assert half.limited
    assert 0 < half.sample_percent < 100
    assert (whole.limited, whole.sample_percent) == (False, 100)


def test_a_first_version_that_loads_is_compared_with_the_floor(
    town: Connection,
) -> None:
    rollout.promote(town, "shop", None)
    half_loaded(town, 2)

    found = compare(town, "shop", 2)

    assert found.limited
    assert found.base_number is None


# what cannot be compared -------------------------------------------------------------


def test_what_cannot_be_compared_is_named(town: Connection) -> None:
    for state, number, base in (("failed", 2, 1), ("retired", 2, 1), ("failed", 1, 2)):
        town.execute("update recsys.model_version set state = 'ready'")
        town.execute(
            "update recsys.model_version set state = %s where number = 2", (state,)
        )
        with pytest.raises(VersionStateError, match=f"is {state}") as caught:
            compare(town, "shop", number, base)
        assert caught.value.hint
        town.rollback()
    half_loaded(town, 2)
    with pytest.raises(VersionStateError, match="building") as caught:
        compare(town, "shop", 3, 2)
    assert "backfill" in caught.value.hint
    town.execute("delete from recsys.item_vector_shop_2")
    town.commit()
    with pytest.raises(VersionStateError, match="no items yet"):
        compare(town, "shop", 2)
    with pytest.raises(UnknownVersion, match="no version 9"):
        compare(town, "shop", 9)
    with pytest.raises(UnknownVersion, match="no version 9"):
        compare(town, "shop", 2, 9)
    with pytest.raises(ConfigError, match="itself") as itself:
        compare(town, "shop", 1)
    assert "BASE" in itself.value.hint
    for wrong in ({"k": 0}, {"k": 1001}, {"max_users": 0}):
        with pytest.raises(ConfigError):
            compare(town, "shop", 3, **wrong)
    with pytest.raises(ConfigError, match="either"):
        compare(town, "shop", 3, cutoff=CUT, holdout=Holdout({1: {1}}))


def test_nothing_later_says_what_to_do(town: Connection) -> None:
    town.execute("update recsys.model_version set trained_until = %s", (world.NOW,))
    town.commit()

    with pytest.raises(SourceError, match="nobody took anything new") as caught:
        compare(town, "shop", 2)
    assert "--until" in caught.value.hint
    assert "--holdout" in caught.value.hint
    with pytest.raises(SourceError, match="nothing to compare on"):
        compare(town, "shop", 2, holdout=Holdout({1: set()}))


def test_a_holdout_of_unknown_items_is_refused(town: Connection) -> None:
    with pytest.raises(SourceError, match="versions 1 and 2 have none of the items"):
        compare(town, "shop", 2, holdout=Holdout({1: {10**9}}))


def test_without_times_a_holdout_is_asked_for(town: Connection) -> None:
    town.execute("update recsys.model_version set spec = spec || '{\"columns\": []}'")
    town.commit()

    with pytest.raises(ConfigError, match="occurred_at") as caught:
        compare(town, "shop", 2)
    assert "--holdout" in caught.value.hint


# one snapshot ------------------------------------------------------------------------


def test_what_is_recorded_meanwhile_is_not_seen(
    town: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compare(town, "shop", 3)
    ask = _measure.ask

    def disturbed(*args: object, **options: object) -> object:
        with _db.connect(town.info.dsn) as other:
            other.execute("delete from event where customer_id < 40")
        return ask(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(_measure, "ask", disturbed)
    during = compare(town, "shop", 3)

    for name, paired in before.metrics.items():
        if "latency" not in name:
            assert during.metrics[name] == paired, name
    assert town.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_comparison_writes_nothing_and_works_inside_a_transaction(
    town: Connection,
) -> None:
    town.execute("select 1")

    compare(town, "shop", 2)

    assert town.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    row = town.execute("select count(*) from recsys.comparison").fetchone()
    assert row == (0,)


# stored ------------------------------------------------------------------------------


def stored(conn: Connection) -> tuple[Comparison, int]:
    found = compare(conn, "shop", 3)
    number = store(conn, found)
    conn.commit()
    return found, number


def test_the_view_shows_every_metric(town: Connection) -> None:
    found, number = stored(town)

    rows = town.execute(
        "select metric, base, candidate, difference, low, high, popular"
        " from recsys.version_comparison where comparison = %s",
        (number,),
    ).fetchall()
    assert {row[0]: row[1:] for row in rows} == {
        name: (p.base, p.candidate, p.difference, p.low, p.high, p.popular)
        for name, p in found.metrics.items()
    }
    head = town.execute(
        "select distinct model, number, base_number, cutoff, users, hits, k,"
        " sample_percent, limited, passed, verdict, created_by"
        " from recsys.version_comparison"
    ).fetchall()
    assert head == [
        ("shop", 3, 1, CUT, found.users, found.hits, 20, 100.0, False, False,
         found.verdict, "postgres")
    ]  # fmt: skip


def test_a_comparison_outlives_the_version(town: Connection) -> None:
    stored(town)

    rollout.drop(town, "shop", 3)

    row = town.execute("select number, passed from recsys.comparison").fetchone()
    assert row == (3, False)


def test_limited_data_cannot_be_stored_as_passed(town: Connection) -> None:
    _, number = stored(town)

    with pytest.raises(psycopg.errors.CheckViolation, match="limited_data"):
        town.execute(
            "update recsys.comparison set limited = true, passed = true where id = %s",
            (number,),
        )


def test_a_comparison_is_newer_than_what_it_looked_at(town: Connection) -> None:
    """Also in a transaction that began before the version became ready."""
    town.execute("select 1")
    found = compare(town, "shop", 2)
    store(town, found)

    row = town.execute("select created_at > now() from recsys.comparison").fetchone()
    assert row == (True,)


def test_analysts_see_comparisons_and_trainers_store_them(town: Connection) -> None:
    found = compare(town, "shop", 2)
    town.execute("set role recsys_analyst")
    town.execute("select * from recsys.version_comparison")
    town.commit()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        town.execute("select * from recsys.comparison")
    town.rollback()
    town.execute("set role recsys_trainer")
    store(town, found)
    town.commit()
    for statement in (
        "create trigger t before insert on recsys.comparison"
        " execute function suppress_redundant_updates_trigger()",
        "truncate recsys.comparison",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            town.execute(statement.encode())
        town.rollback()


def test_only_a_version_that_passed_is_promoted(town: Connection) -> None:
    for number in (2, 3):
        with pytest.raises(VersionStateError, match="was not compared"):
            rollout.promote(town, "shop", number)
        town.rollback()
        store(town, compare(town, "shop", number))
        town.commit()

    with pytest.raises(VersionStateError, match=r"did not pass.*ndcg@20 fell by"):
        rollout.promote(town, "shop", 3)
    town.rollback()
    assert rollout.promote(town, "shop", 2) == 1


def test_weaker_thresholds_and_another_sample_promote_nothing(town: Connection) -> None:
    """Or whoever compares would decide what passes."""
    easy = Gate(max_drop=1, min_users=1)
    for options in ({"gate": easy}, {"seed": 3, "max_users": 40}):
        found = compare(town, "shop", 2, **options)
        store(town, found)
        town.commit()
        assert found.passed
        assert not found.standard
        with pytest.raises(VersionStateError, match="weaker thresholds") as caught:
            rollout.promote(town, "shop", 2)
        assert "--force" in (caught.value.hint or "")
        town.rollback()

    store(town, compare(town, "shop", 2, gate=Gate(max_drop=0.04), max_users=100))
    assert rollout.promote(town, "shop", 2) == 1
    kept = town.execute(
        "select gate ->> 'max_drop', gate ->> 'seed', standard from recsys.comparison"
        " order by id"
    ).fetchall()
    assert kept == [("1", "0", False), ("0.05", "3", False), ("0.04", "0", True)]


def test_where_nothing_serves_the_floor_is_the_gate(town: Connection) -> None:
    check = "select recsys._check_gate('shop', 2, null)"
    rollout.promote(town, "shop", None)
    with (
        pytest.raises(psycopg.DatabaseError, match="with the popularity floor"),
        town.transaction(),
    ):
        town.execute(check)

    store(town, compare(town, "shop", 2))

    town.execute(check)


# until when a version was trained ----------------------------------------------------


def test_the_end_of_the_training_data_is_registered(town: Connection) -> None:
    rows = town.execute(
        "select distinct trained_until from recsys.model_version"
    ).fetchall()

    assert rows == [(CUT,)]


def test_the_end_of_the_training_data_is_no_part_of_the_configuration(
    town: Connection,
) -> None:
    spec = versions.get(town, "shop", 1).spec

    assert spec["trained_until"] == CUT.isoformat()
    assert model_from_dict(spec) == world.shop_config(features=True)
    assert json.dumps(model_from_dict(spec).to_dict())


LAST = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("last", "until", "expected"),
    [
        (None, None, None),
        (None, CUT, None),
        (LAST.timestamp(), None, LAST + timedelta(microseconds=1)),
        (CUT.timestamp() - 9, CUT, CUT),
        (CUT.timestamp() - 9, CUT.replace(tzinfo=None), CUT),
        # A time to come says nothing about what is missing until then.
        (LAST.timestamp(), LAST + timedelta(days=9), LAST + timedelta(microseconds=1)),
        (1e18, None, None),
        (float(np.float64(LAST.timestamp())), None, LAST + timedelta(microseconds=1)),
    ],
)
def test_data_end_at_the_given_time_or_after_the_last_interaction(
    last: float | None, until: datetime | None, expected: datetime | None
) -> None:
    now = LAST + timedelta(days=1)

    assert _plan.trained_until(last, until, now) == expected
