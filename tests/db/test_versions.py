"""The registry: numbers, states, promotion and rollback."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest
import world
from click.testing import CliRunner
from world import Shop

from recsys import _db, rollout, versions
from recsys.cli.app import cli
from recsys.errors import (
    ArtifactError,
    ConfigError,
    UnknownModel,
    UnknownVersion,
    VersionStateError,
)


def objects(conn: _db.Connection, number: int) -> set[str]:
    """Names of the relations and functions of one version of "shop"."""
    rows = conn.execute(
        "select relname from pg_class where relnamespace = 'recsys'::regnamespace"
        " and relname like %(end)s and relkind = 'r' union all"
        " select proname from pg_proc where pronamespace = 'recsys'::regnamespace"
        " and proname like %(end)s",
        {"end": f"%\\_shop\\_{number}"},
    ).fetchall()
    return {row[0] for row in rows}


def generation(conn: _db.Connection) -> int:
    row = conn.execute("select generation from recsys.model").fetchone()
    assert row
    return row[0]


def states(conn: _db.Connection) -> dict[int, str]:
    return {v.number: v.state for v in versions.list_versions(conn, "shop")}


def test_a_number_is_given_out_once(db: _db.Connection) -> None:
    model = world.shop_config()

    numbers = [versions.next_number(db, model) for _ in range(3)]

    assert numbers == [1, 2, 3]


def test_numbers_of_concurrent_trainings_differ(dsn: str) -> None:
    model, found = world.shop_config(), []

    def take() -> None:
        with _db.connect(dsn) as conn:
            for _ in range(10):
                found.append(versions.next_number(conn, model))
                conn.commit()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == list(range(1, 41))


def test_other_id_types_of_a_model_with_versions_are_refused(shop: Shop) -> None:
    with (
        _db.connect(shop.dsn) as conn,
        pytest.raises(ConfigError, match="bigint") as caught,
    ):
        versions.next_number(conn, world.shop_config("uuid"))

    assert "another model name" in caught.value.hint


def test_mistaken_id_types_can_be_mended_before_the_first_version(
    db: _db.Connection,
) -> None:
    versions.next_number(db, world.shop_config("bigint"))

    assert versions.next_number(db, world.shop_config("uuid")) == 2

    types = db.execute("select item_type, user_type from recsys.model").fetchone()
    assert types == ("uuid", "uuid")


@pytest.mark.parametrize(
    ("column", "value"),
    [("name", "a b"), ("name", "Shop"), ("item_type", "int"), ("user_type", "x")],
)
def test_the_registry_refuses_names_and_types_it_cannot_use(
    db: _db.Connection, column: str, value: str
) -> None:
    row = {"name": "shop", "item_type": "bigint", "user_type": "bigint", column: value}

    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(
            "insert into recsys.model (name, item_type, user_type)"
            " values (%(name)s, %(item_type)s, %(user_type)s)",
            row,
        )


def test_a_version_begins_as_building_and_has_its_objects(dsn: str) -> None:
    world.fill_shop(dsn)
    world.add_version(dsn, world.shop_config(), ready=False)

    with _db.connect(dsn) as conn:
        version = versions.get(conn, "shop", 1)

        assert (version.state, version.phase) == ("building", "created")
        assert version.dim == world.DIM + 1
        assert len(objects(conn, 1)) == 10


def test_creating_a_version_twice_changes_nothing(dsn: str) -> None:
    world.fill_shop(dsn)
    with _db.connect(dsn) as conn:
        plan = world.plan(conn, world.learn(conn, world.shop_config()), 1)
        versions.create(conn, plan)
        conn.commit()
        before = objects(conn, 1), states(conn)

        versions.create(conn, plan)

        assert (objects(conn, 1), states(conn)) == before


def test_a_number_is_never_used_for_other_artifacts(dsn: str) -> None:
    world.fill_shop(dsn)
    with _db.connect(dsn) as conn:
        model = world.shop_config()
        versions.create(conn, world.plan(conn, world.learn(conn, model, seed=1), 1))
        conn.commit()

        with pytest.raises(ConfigError, match="other artifacts"):
            versions.create(conn, world.plan(conn, world.learn(conn, model, seed=2), 1))


def test_a_missing_artifact_is_refused_by_name(dsn: str) -> None:
    world.fill_shop(dsn)
    with _db.connect(dsn) as conn:
        plan = world.plan(conn, world.learn(conn, world.shop_config()), 1)
        conn.rollback()

        with pytest.raises(ArtifactError, match="item_tower") as caught:
            versions.create(conn, plan)

    assert "artifacts import" in caught.value.hint


@pytest.mark.parametrize("name", ["", "Shop", "a-b", "x" * 25, 'a"b', "a;b"])
def test_names_that_do_not_fit_identifiers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        versions.suffix(name, 1)
    with pytest.raises(ConfigError):
        versions.suffix("shop", 0)


def test_source_sql_cannot_end_the_function_body(dsn: str) -> None:
    data = world.toml()
    sql = "select '$function$' as user_id, 1 as item_id"
    data["model"]["shop"]["interactions"]["sql"] = sql
    from recsys.config import from_mapping

    model = from_mapping(data).model("shop")
    plan = versions.VersionPlan("shop", 1, model.to_dict(), {})

    with pytest.raises(ConfigError, match=r"\$function\$"):
        versions.create_statements(plan)


def test_promotion_is_one_commit_with_its_log(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        before = generation(conn)

        previous = rollout.promote(conn, "shop", 2, reason="better", force=True)

        with _db.connect(shop.dsn) as other:
            assert versions.serving_number(other, "shop") == 1
            conn.commit()
            assert versions.serving_number(other, "shop") == 2
            assert generation(other) == before + 1
        assert previous == 1
        assert states(conn) == {1: "ready", 2: "serving"}
        row = conn.execute(
            "select from_number, number, reason from recsys.switch_log limit 1"
        ).fetchone()
        assert row == (1, 2, "better")


def test_promoting_the_serving_version_changes_nothing(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        before = generation(conn)

        assert rollout.promote(conn, "shop", 1, reason="test", force=True) == 1

        assert generation(conn) == before


def test_serving_can_stop_and_start_again(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        assert rollout.promote(conn, "shop", None) == 1
        assert versions.serving_number(conn, "shop") is None
        assert states(conn) == {1: "ready", 2: "ready"}
        assert rollout.promote(conn, "shop", 1, reason="test", force=True) is None
        assert states(conn)[1] == "serving"


def test_what_is_not_there_cannot_be_promoted(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        with pytest.raises(UnknownModel):
            rollout.promote(conn, "nope", 1, reason="test", force=True)
        with pytest.raises(UnknownModel):
            rollout.promote(conn, "nope", None)
        with pytest.raises(UnknownVersion, match="no version 99"):
            rollout.promote(conn, "shop", 99, reason="test", force=True)


def test_a_building_version_cannot_be_promoted(shop: Shop) -> None:
    model = world.shop_config(features=True)
    number, _ = world.add_version(shop.dsn, model, seed=3, ready=False)

    with (
        _db.connect(shop.dsn) as conn,
        pytest.raises(VersionStateError, match="building") as caught,
    ):
        rollout.promote(conn, "shop", number, reason="test", force=True)

    assert f"recsys backfill shop {number}" in caught.value.hint


def test_rollback_goes_to_the_version_that_served_before(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, reason="test", force=True)

        assert rollout.rollback(conn, "shop") == 1

        assert states(conn) == {1: "serving", 2: "ready"}


def test_rolling_back_twice_goes_back_two_steps(shop: Shop) -> None:
    model = world.shop_config(features=True)
    number, _ = world.add_version(shop.dsn, model, seed=3)
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, reason="test", force=True)
        rollout.promote(conn, "shop", number, reason="test", force=True)

        assert rollout.rollback(conn, "shop") == 2
        assert rollout.rollback(conn, "shop") == 1
        with pytest.raises(VersionStateError, match="served before version 1"):
            rollout.rollback(conn, "shop")


def test_a_version_rolled_back_from_takes_over_no_more(shop: Shop) -> None:
    model = world.shop_config(features=True)
    number, _ = world.add_version(shop.dsn, model, seed=3)
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, reason="test", force=True)
        rollout.promote(conn, "shop", number, reason="test", force=True)
        rollout.rollback(conn, "shop")

        rollout.drop(conn, "shop", 2)

        assert versions.serving_number(conn, "shop") == 1


def test_rollback_never_chooses_a_version_nobody_has_seen(shop: Shop) -> None:
    with (
        _db.connect(shop.dsn) as conn,
        pytest.raises(VersionStateError, match="served before version 1"),
    ):
        rollout.rollback(conn, "shop")


def test_rollback_needs_a_serving_version(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", None)

        with pytest.raises(VersionStateError, match="is serving") as caught:
            rollout.rollback(conn, "shop")

    assert "recsys promote shop" in caught.value.hint


def test_concurrent_promotions_leave_exactly_one_serving(shop: Shop) -> None:
    def toggle(first: int) -> None:
        with _db.connect(shop.dsn) as conn:
            for i in range(15):
                rollout.promote(
                    conn, "shop", 1 + (first + i) % 2, reason="test", force=True
                )
                conn.commit()

    threads = [threading.Thread(target=toggle, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with _db.connect(shop.dsn) as conn:
        serving = [n for n, state in states(conn).items() if state == "serving"]
        rows = conn.execute("select number, percent from recsys.rollout").fetchall()
        assert [(serving[0], 100)] == [(n, int(percent)) for n, percent in rows]
        assert len(serving) == 1
        links = conn.execute(
            "select from_number = lag(number) over (order by id) from recsys.promotion"
        ).fetchall()
        assert all(row[0] in (True, None) for row in links)


def test_dropping_removes_every_object(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        rollout.drop(conn, "shop", 2)
        conn.commit()

        assert objects(conn, 2) == set()
        assert len(objects(conn, 1)) == 10
        with pytest.raises(UnknownVersion):
            versions.get(conn, "shop", 2)
        assert versions.next_number(conn, world.shop_config()) == 3


def test_dropping_the_serving_version_hands_over(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, reason="test", force=True)

        rollout.drop(conn, "shop", 2)

        assert versions.serving_number(conn, "shop") == 1


def test_dropping_the_last_that_served_is_refused_and_changes_nothing(
    shop: Shop,
) -> None:
    with _db.connect(shop.dsn) as conn:
        with pytest.raises(VersionStateError, match="no earlier version") as caught:
            rollout.drop(conn, "shop", 1)
        conn.rollback()

        assert "promote shop none" in caught.value.hint
        assert versions.serving_number(conn, "shop") == 1
        assert len(objects(conn, 1)) == 10

        rollout.drop(conn, "shop", 1, stop_serving=True)
        assert versions.serving_number(conn, "shop") is None


def test_handing_over_before_the_drop_commits_the_switch(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, reason="test", force=True)
        assert rollout.hand_over(conn, "shop", 2) == 1
        assert rollout.hand_over(conn, "shop", 2) == 1  # nothing left to do
        last = "select kind, reason from recsys.promotion order by id desc limit 1"
        assert conn.execute(last).fetchone() == ("drop", "version 2 dropped")
        with pytest.raises(VersionStateError, match="no earlier version"):
            rollout.hand_over(conn, "shop", 1)
        assert rollout.hand_over(conn, "shop", 1, stop_serving=True) is None
        rollout.drop(conn, "shop", 2)


@pytest.mark.parametrize("action", ["promote", "rollback", "hand_over", "drop"])
def test_nothing_waits_for_ever_for_another_transaction(
    shop: Shop, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "_LOCK_TIMEOUT", "200ms")
    monkeypatch.setattr(versions, "LOCK_TIMEOUT", "200ms")
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, reason="test", force=True)
        # The functions have the limit too, for callers in SQL; shortened for the test.
        for (name,) in conn.execute(
            "select oid::regprocedure::text from pg_proc"
            " where proconfig @> '{lock_timeout=5s}'"
        ).fetchall():
            conn.execute(f"alter function {name} set lock_timeout = '200ms'".encode())
    calls: dict[str, Callable[[_db.Connection], object]] = {
        "promote": lambda conn: rollout.promote(
            conn, "shop", 1, reason="test", force=True
        ),
        "rollback": lambda conn: rollout.rollback(conn, "shop"),
        "hand_over": lambda conn: rollout.hand_over(conn, "shop", 2),
        "drop": lambda conn: rollout.drop(conn, "shop", 2),
    }
    with _db.connect(shop.dsn) as other, _db.connect(shop.dsn) as conn:
        conn.execute("set statement_timeout = '20s'")
        other.execute("select from recsys.model for update")
        with pytest.raises(VersionStateError, match="another transaction") as caught:
            calls[action](conn)
        other.rollback()

        assert "Try again" in caught.value.hint
        assert conn.execute("show lock_timeout").fetchone() == ("0",)
        assert versions.serving_number(conn, "shop") == 2
        calls[action](conn)
        assert conn.execute("show lock_timeout").fetchone() == ("0",)


def test_the_functions_themselves_wait_five_seconds_at_most(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        rows = conn.execute(
            "select proname from pg_proc where proconfig @> '{lock_timeout=5s}'"
            " order by 1"
        ).fetchall()

    assert {"_promote", "_rollback", "_retire", "_hand_over", "_retire_for_drop"} <= {
        name for (name,) in rows
    }


def test_a_request_in_flight_does_not_undo_the_hand_over_of_a_drop(shop: Shop) -> None:
    """The CLI commits the switch; the tables go when nobody reads them any more."""
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, reason="test", force=True)
    environment = {"RECSYS_DSN": shop.dsn}
    command = ["drop", "shop", "2"]
    with _db.connect(shop.dsn) as request:
        request.execute("select from recsys.item_vector_shop_2 limit 1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(versions, "LOCK_TIMEOUT", "200ms")
            found = CliRunner().invoke(cli, command, env=environment)
        assert found.exit_code != 0

        assert versions.serving_number(request, "shop") == 1
        assert len(objects(request, 2)) == 10
    found = CliRunner().invoke(cli, command, env=environment)
    assert found.exit_code == 0
    with _db.connect(shop.dsn) as conn:
        assert objects(conn, 2) == set()


def test_the_newest_version_can_be_asked_by_state(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        assert versions.newest(conn, "shop") == 2
        assert versions.newest(conn, "shop", states=("serving",)) == 1
        with pytest.raises(UnknownVersion, match="failed or retired"):
            versions.newest(conn, "shop", states=("failed", "retired"))
