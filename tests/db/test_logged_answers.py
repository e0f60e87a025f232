"""A Recommender that logs: every answer, every failure, every outcome, in each mode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
import world
from world import Shop

from recsys import Recommender, _db, _request, guardrails, rollout
from recsys.errors import (
    ArtifactError,
    ConfigError,
    DatabaseUnavailable,
    RecsysError,
    SourceError,
    UnknownItem,
)
from recsys.impressions import Mode

WRITING: tuple[Mode, ...] = ("transaction", "background")


@pytest.fixture(params=WRITING)
def model(shop: Shop, request: pytest.FixtureRequest) -> Iterator[Recommender]:
    with Recommender("shop", dsn=shop.dsn, impressions=request.param) as model:
        yield model


def query(dsn: str, text: str) -> list[tuple]:
    with _db.connect(dsn) as conn:
        return conn.execute(text.encode()).fetchall()


def test_off_is_the_default_and_writes_nothing(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        model.recommend(7)
        model.record(7, 42, "view")
        assert model.impressions.mode == "off"

    assert query(shop.dsn, "select 1 from recsys.impression") == []
    assert query(shop.dsn, "select 1 from recsys.outcome") == []


def test_an_answer_is_the_row(shop: Shop, model: Recommender) -> None:
    earlier = range(201, 221)
    page = model.recommend(7, k=5, context={"device": "phone"}, after=earlier)
    model.close()

    rows = query(
        shop.dsn,
        "select request_id, model, version, user_id, unit, item_ids, scores, channels,"
        " page_offset, k, context, took_ms between 0.01 and 60000, error, experiment"
        " from recsys.impression",
    )
    assert rows == [
        (page.request_id, "shop", 1, "7", "7", [str(i) for i in page.ids],
         pytest.approx([r.score for r in page]), ["two-tower"], 20, 5,
         {"device": "phone"}, True, None, None)
    ]  # fmt: skip
    assert model.impressions.stats().written == 1


def test_similar_items_and_sessions_say_what_they_are(
    shop: Shop, model: Recommender
) -> None:
    model.similar_items(42, k=3, unit="s1")
    model.recommend(history=[1, 2], unit="s2", k=3)
    model.recommend(k=3)
    model.close()

    rows = query(
        shop.dsn,
        "select channels, user_id, unit from recsys.impression order by occurred_at",
    )
    assert rows == [
        (["similar"], None, "s1"),
        (["two-tower"], None, "s2"),
        (["two-tower"], None, None),
    ]


def test_a_failed_answer_is_logged_with_its_version(
    shop: Shop, model: Recommender
) -> None:
    with pytest.raises(SourceError):
        model.recommend(7, among="select nothing from nowhere")
    with pytest.raises(UnknownItem):
        model.similar_items(999_999)
    with pytest.raises(ConfigError):
        model.recommend(7, context={"planet": "mars"})
    model.close()

    rows = query(
        shop.dsn,
        "select version, unit, item_ids, split_part(error, ':', 1)"
        " from recsys.impression order by occurred_at",
    )
    assert rows == [
        (1, "7", [], "SourceError"),
        (1, None, [], "UnknownItem"),
        (1, "7", [], "ConfigError"),
    ]


def test_an_exposure_is_stored_also_when_the_answer_fails(
    shop: Shop, model: Recommender
) -> None:
    run_experiment(shop.dsn)
    for user in (1, 2, 3):
        with suppress(SourceError):
            model.recommend(user, among="select nothing from nowhere")
    model.recommend(1)
    model.recommend(4)
    model.close()

    exposed = query(shop.dsn, "select unit from recsys.exposure order by 1")
    logged = query(shop.dsn, "select distinct unit, arm from recsys.impression")
    kept = query(shop.dsn, "select unit, arm from recsys.exposure")
    assert exposed == [("1",), ("2",), ("3",), ("4",)]
    assert sorted(logged) == sorted(kept)


def test_a_version_that_cannot_be_loaded_answers_for_its_users(
    shop: Shop, model: Recommender
) -> None:
    """Its rows carry version and error, its arm keeps its users, a guardrail fires."""
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, percent=50, reason="test", force=True)
        lose_query_tower(conn, 2)
    begin = datetime.now(UTC) - timedelta(hours=1)
    failed = ask_everybody(model, 260)
    with _db.connect(shop.dsn) as conn:
        breaches = guardrails.check(conn, "shop", since=begin)

    assert failed > 100
    assert query(
        shop.dsn,
        "select version, count(*), count(unit), min(split_part(error, ':', 1))"
        " from recsys.impression where error is not null group by 1",
    ) == [(2, failed, failed, "ArtifactError")]
    assert [(b.metric, b.action) for b in breaches] == [("error_rate", "rollback")]

    run_experiment(shop.dsn)
    ask_everybody(model, 20)
    arms = query(shop.dsn, "select arm, count(*) from recsys.exposure group by 1")
    assert sum(many for _, many in arms) == 20
    assert {arm for arm, _ in arms} == {"a", "b"}


def test_a_rollback_reaches_a_process_that_could_not_load(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as model, _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, reason="test", force=True)
        lose_query_tower(conn, 2)
        conn.commit()
        with pytest.raises(ArtifactError):
            model.recommend(7)
        rollout.rollback(conn, "shop", reason="test")
        conn.commit()

        assert model.recommend(7).version == 1


def lose_query_tower(conn: _db.Connection, number: int) -> None:
    conn.execute(
        "delete from recsys.artifact where sha256 ="
        " (select artifacts ->> 'query_tower' from recsys.model_version"
        " where number = %s)",
        (number,),
    )


def ask_everybody(model: Recommender, users: int) -> int:
    """Return how many users got an error."""
    failed = 0
    for user in range(users):
        try:
            model.recommend(user, k=2)
        except RecsysError:
            failed += 1
    model.close()
    return failed


def run_experiment(dsn: str) -> None:
    """A running experiment of both versions with everybody in it."""
    with _db.connect(dsn) as conn:
        conn.execute(
            "insert into recsys.experiment (name, model, salt, primary_metric)"
            " values ('blue', 'shop', 'x', 'ctr')"
        )
        conn.execute(
            "insert into recsys.experiment_arm (experiment, arm, number, share,"
            " is_control) values ('blue', 'a', 1, 50, true),"
            " ('blue', 'b', 2, 50, false)"
        )
        conn.execute(
            "update recsys.experiment set state = 'running', started_at = now()"
        )
        conn.execute("update recsys.model set generation = generation + 1")


def test_a_row_of_the_applications_transaction_goes_with_it(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        model = Recommender("shop", connection=conn, impressions="transaction")
        model.recommend(7)
        with suppress(SourceError):
            model.recommend(7, among="select nothing from nowhere")
        inside = conn.execute("select count(*) from recsys.impression").fetchone()
        conn.rollback()

    assert inside == (2,)
    assert query(shop.dsn, "select 1 from recsys.impression") == []


def test_a_borrowed_connection_tells_the_writer_where_to_go(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        model = Recommender("shop", connection=conn, impressions="background")
        model.recommend(7)
        conn.rollback()
        model.close()

    assert len(query(shop.dsn, "select 1 from recsys.impression")) == 1


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_log_that_cannot_be_written_costs_no_answer(
    shop: Shop, autocommit: bool
) -> None:
    with _db.connect(shop.dsn) as conn:
        conn.execute("drop function recsys._log_answers(json, json)")
    with _db.connect(shop.dsn, autocommit=autocommit) as conn:
        model = Recommender("shop", connection=conn, impressions="transaction")
        assert len(model.recommend(7, k=5)) == 5
        with pytest.raises(SourceError):
            model.recommend(7, among="select nothing from nowhere")
        # The caller's transaction goes on.
        assert conn.execute("select 1").fetchone() == (1,)

    assert model.impressions.stats().failed == 2


def test_a_replica_that_takes_no_writes_costs_no_answer(shop: Shop) -> None:
    dsn = psycopg.conninfo.make_conninfo(
        shop.dsn, options="-c default_transaction_read_only=on"
    )
    for mode in WRITING:
        with Recommender("shop", dsn=dsn, impressions=mode) as model:
            assert len(model.recommend(7, k=5)) == 5
        assert model.impressions.stats().failed == 1


def test_no_server_is_counted_and_said_to_the_caller() -> None:
    for mode in WRITING:
        model = Recommender(
            "shop", dsn="host=/nonexistent", impressions=mode, fallback=False
        )
        with pytest.raises(DatabaseUnavailable):
            model.recommend(7)
        stats = model.impressions.stats()
        assert stats.failed + stats.queued == 1


def test_the_request_role_can_log(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        conn.execute("grant select on customer, event, product to recsys_app")
    dsn = world.as_role(shop.dsn, "recsys_app")
    run_experiment(shop.dsn)
    for mode in WRITING:
        with Recommender("shop", dsn=dsn, impressions=mode) as model:
            page = model.recommend(7)
            model.record(7, 42, "purchase", request_id=page.request_id, value=9.5)
        assert model.impressions.stats().failed == 0

    assert len(query(shop.dsn, "select 1 from recsys.impression")) == 2
    assert len(query(shop.dsn, "select 1 from recsys.outcome")) == 2
    assert len(query(shop.dsn, "select 1 from recsys.exposure")) == 1


def test_what_is_no_earlier_page_is_refused(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        for after in (1, 1.5, "page", b"page", {3, 4}):
            with pytest.raises(ConfigError, match="after must be a page"):
                model.recommend(7, after=after)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="too many"):
            model.recommend(7, after=range(20_000))
        with pytest.raises(ConfigError, match="item_id"):
            model.recommend(7, after=["a"])


def test_what_has_no_bucket_is_refused_by_name(shop: Shop, model: Recommender) -> None:
    run_experiment(shop.dsn)
    for ask in (
        lambda: model.recommend("\ud800"),
        lambda: model.record("\ud800", 42, "view"),
        lambda: model.query_vector("\ud800"),
    ):
        with pytest.raises(ConfigError, match="user_id must be text"):
            ask()
    for unit in ("\ud800", "a\0b", "🛸" * 64):
        with pytest.raises(ConfigError, match="unit must be"):
            model.recommend(unit=unit)


def test_a_unit_of_255_bytes_is_exposed(shop: Shop, model: Recommender) -> None:
    run_experiment(shop.dsn)
    unit = "🛸" * 63 + "abc"
    model.recommend(unit=unit)
    model.close()

    assert query(shop.dsn, "select unit from recsys.exposure") == [(unit,)]


def test_an_unknown_mode_is_refused(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="off, transaction, background"):
        Recommender("shop", dsn=shop.dsn, impressions="on")  # type: ignore[arg-type]


# outcomes --------------------------------------------------------------------------


def test_an_outcome_comes_with_its_interaction(shop: Shop) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        page = model.recommend(7)
        model.record(7, page.ids[0], "view", request_id=page.request_id)
        model.record(7, page.ids[0], "purchase", value=Decimal("19.99"))
        model.record(7, page.ids[0], "cart")

    item = str(page.ids[0])
    assert query(
        shop.dsn, "select request_id, user_id, item_id, kind, value from recsys.outcome"
    ) == [
        (page.request_id, "7", item, "view", None),
        (None, "7", item, "purchase", Decimal("19.99")),
    ]
    assert len(query(shop.dsn, "select 1 from recsys.interaction")) == 3


def test_where_impressions_are_logged_every_outcome_is(
    shop: Shop, model: Recommender
) -> None:
    model.record(7, 42, "view")

    assert query(shop.dsn, "select kind from recsys.outcome") == [("view",)]


@pytest.mark.parametrize("table", ["outcome", "interaction"])
def test_interaction_and_outcome_are_one_transaction(shop: Shop, table: str) -> None:
    with _db.connect(shop.dsn) as conn:
        conn.execute(f"alter table recsys.{table} add check (kind <> 'cart')".encode())
    with Recommender("shop", dsn=shop.dsn) as model:
        with pytest.raises((psycopg.IntegrityError, RecsysError)):
            model.record(7, 42, "cart", value=3)
        model.record(7, 42, "view", value=3)

    assert query(shop.dsn, "select kind from recsys.outcome") == [("view",)]
    assert query(shop.dsn, "select kind from recsys.interaction") == [("view",)]


@pytest.mark.alone
@pytest.mark.parametrize("borrowed", [False, True])
def test_a_locked_outcome_table_costs_no_interaction(
    shop: Shop, borrowed: bool
) -> None:
    with _db.connect(shop.dsn) as other, _db.connect(shop.dsn) as conn:
        other.execute("lock table recsys.outcome in access exclusive mode")
        conn.execute("set lock_timeout = '7s'")
        given = {"connection": conn} if borrowed else {"dsn": shop.dsn}
        model = Recommender("shop", **given)  # type: ignore[arg-type]
        start = time.perf_counter()
        model.record(7, 42, "view", value=3)
        assert time.perf_counter() - start < 3
        assert conn.execute("show lock_timeout").fetchone() == ("7s",)
        conn.commit()
        other.rollback()
        model.record(7, 42, "purchase", value=3)
        conn.commit()
        assert model.impressions.stats().outcomes_lost == 1
        model.close()

    assert query(shop.dsn, "select kind from recsys.outcome") == [("purchase",)]
    assert len(query(shop.dsn, "select 1 from recsys.interaction")) == 2


def test_an_outcome_of_now_is_timed_by_the_server(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) - timedelta(hours=2)

    monkeypatch.setattr(_request, "datetime", Behind)
    with Recommender("shop", dsn=shop.dsn) as model:
        model.record(7, 42, "view", value=3)
        model.record(
            7, 42, "cart", value=3, occurred_at=datetime(2026, 3, 1, tzinfo=UTC)
        )

    assert query(
        shop.dsn,
        "select kind, occurred_at > now() - interval '1 minute' from recsys.outcome"
        " order by 1",
    ) == [("cart", False), ("view", True)]


@pytest.mark.parametrize("value", [float("nan"), True, "9.99", 10**16])
def test_a_bad_value_is_refused_before_anything_is_stored(
    shop: Shop, value: object
) -> None:
    with (
        Recommender("shop", dsn=shop.dsn) as model,
        pytest.raises(ConfigError, match="finite number"),
    ):
        model.record(7, 42, "view", value=value)  # type: ignore[arg-type]

    assert query(shop.dsn, "select 1 from recsys.interaction") == []


# attribution -----------------------------------------------------------------------


def test_an_outcome_counts_for_the_answer_that_showed_its_item(shop: Shop) -> None:
    """Of ten answers: four led to a view, two of those to a purchase."""
    with Recommender("shop", dsn=shop.dsn, impressions="transaction") as model:
        pages = [model.recommend(user, k=5) for user in range(1, 11)]
        for page in pages[:4]:
            model.record(1, page.ids[1], "view", request_id=page.request_id)
        for page in pages[:2]:
            for item in page.ids[:2]:
                model.record(1, item, "purchase", request_id=page.request_id, value=2.5)
        # Not of the answer, of no answer, and of one nobody knows.
        other = next(i for i in range(1, 200) if i not in pages[8].ids)
        model.record(1, other, "view", request_id=pages[8].request_id)
        model.record(1, pages[9].ids[0], "purchase", value=100)
        model.record(1, 1, "purchase", request_id=UUID(int=1), value=100)
        with suppress(SourceError):
            model.recommend(7, among="select nothing from nowhere")
        model.recommend(7, k=5, among="select 1::bigint")

    rows = query(
        shop.dsn,
        "select model, version, impressions, users, clicks, ctr, conversions,"
        " conversion, value, outcomes, error_share, degraded_share, short_page_share,"
        " p50_ms > 0, p99_ms >= p50_ms from recsys.version_outcome",
    )
    assert rows == [
        ("shop", 1, 12, 10, 4, 4 / 12, 2, 2 / 12, Decimal("10.0"),
         {"view": 4, "purchase": 2}, 1 / 12, 0.0, 1 / 12, True, True)
    ]  # fmt: skip
