"""Rollouts: percent by percent, ramps, the gate, rollback, retirement, the audit."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import world
from world import Shop

from recsys import Recommender, _db, artifacts, ramps, rollout, versions
from recsys.errors import (
    ArtifactError,
    ConfigError,
    UnknownModel,
    UnknownVersion,
    VersionStateError,
)


@pytest.fixture
def conn(shop: Shop) -> Iterator[_db.Connection]:
    with _db.connect(shop.dsn) as connection:
        yield connection


def force(conn: _db.Connection, number: int, percent: Any = 100) -> int | None:
    return rollout.promote(
        conn, "shop", number, percent=percent, reason="test", force=True
    )


def shares(conn: _db.Connection) -> dict[int, float]:
    return {
        number: float(percent)
        for number, percent in conn.execute(
            "select number, percent from recsys.rollout order by number"
        )
    }


def states(conn: _db.Connection) -> dict[int, str]:
    return {v.number: v.state for v in versions.list_versions(conn, "shop")}


def audited(conn: _db.Connection, *kinds: str) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select kind, number, before, after, reason from recsys.audit"
        " where kind = any(%s) order by id",
        (list(kinds),),
    ).fetchall()


def compared(conn: _db.Connection, *, passed: bool = True, **other: Any) -> None:
    row = {
        "model": "shop", "number": 2, "base_number": 1, "users": 100, "hits": 100,
        "k": 20, "sample_percent": 100, "limited": False, "passed": passed,
        "verdict": "as good" if passed else "worse", "metrics": json.dumps({}),
        "standard": True,
        **other,
    }  # fmt: skip
    names = ", ".join(row)
    marks = ", ".join(f"%({name})s" for name in row)
    conn.execute(
        f"insert into recsys.comparison ({names}) values ({marks})".encode(), row
    )


# percentages ------------------------------------------------------------------------


def test_a_candidate_shares_the_users_and_takes_over(conn: _db.Connection) -> None:
    assert force(conn, 2, 10) == 1
    assert shares(conn) == {1: 90, 2: 10}
    assert states(conn) == {1: "serving", 2: "serving"}

    force(conn, 2, "33.3")
    assert shares(conn) == {1: 66.7, 2: 33.3}
    assert force(conn, 2) == 1
    assert shares(conn) == {2: 100}
    assert states(conn) == {1: "ready", 2: "serving"}
    assert rollout.rollback(conn, "shop") == 1


def test_a_percentage_may_also_shrink(conn: _db.Connection) -> None:
    force(conn, 2, 50)
    force(conn, 2, 5)

    assert shares(conn) == {1: 95, 2: 5}


def test_the_salt_changes_with_the_candidate_only(conn: _db.Connection) -> None:
    def salt() -> Any:
        return conn.execute("select salt from recsys.model").fetchone()

    force(conn, 2, 10)
    first = salt()
    force(conn, 2, 60)
    assert salt() == first
    rollout.rollback(conn, "shop")
    force(conn, 2, 10)
    assert salt() != first


@pytest.mark.parametrize("percent", [0, -1, 100.01, 101, 33.333, "x", "nan", "inf"])
def test_a_percentage_out_of_range_is_refused(
    conn: _db.Connection, percent: Any
) -> None:
    with pytest.raises(ConfigError, match="percent must be above 0"):
        force(conn, 2, percent)

    assert shares(conn) == {1: 100}


@pytest.mark.parametrize("percent", [0, -1, 100.01, 33.333, None])
def test_sql_refuses_a_percentage_out_of_range(
    conn: _db.Connection, percent: Any
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="percent must be"):
        conn.execute("select recsys._promote('shop', 2, %s::numeric)", (percent,))


def test_a_third_version_waits_for_the_rollout_to_end(
    shop: Shop, conn: _db.Connection
) -> None:
    world.add_version(shop.dsn, shop.learned[1].config, seed=3)
    force(conn, 2, 10)
    with pytest.raises(VersionStateError, match="is being rolled out") as caught:
        force(conn, 3, 10)

    assert "recsys promote shop 2" in caught.value.hint
    assert "recsys rollback shop" in caught.value.hint
    assert shares(conn) == {1: 90, 2: 10}


def test_the_base_takes_no_percentage(conn: _db.Connection) -> None:
    with pytest.raises(VersionStateError, match="is the base"):
        force(conn, 1, 10)


def test_a_first_version_has_nobody_to_share_with(conn: _db.Connection) -> None:
    rollout.promote(conn, "shop", None)
    with pytest.raises(VersionStateError, match="nobody to share") as caught:
        force(conn, 2, 10)

    assert "recsys promote shop 2" in caught.value.hint


def test_promoting_the_base_ends_a_rollout_and_is_no_promotion(
    conn: _db.Connection,
) -> None:
    force(conn, 2, 10)
    force(conn, 1)

    assert shares(conn) == {1: 100}
    assert states(conn) == {1: "serving", 2: "ready"}
    with pytest.raises(VersionStateError, match="served before"):
        rollout.rollback(conn, "shop")


# what may not be promoted ------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ("building", "recsys backfill shop 2"),
        ("failed", "recsys train shop"),
        ("retired", "recsys backfill shop 2"),
    ],
)
def test_a_version_that_is_not_ready_serves_nobody(
    conn: _db.Connection, state: str, hint: str
) -> None:
    conn.execute(
        "update recsys.model_version set state = %s where number = 2", (state,)
    )
    for percent in (10, 100):
        with pytest.raises(VersionStateError, match=f"is {state}") as caught:
            force(conn, 2, percent)
        assert hint in caught.value.hint
    assert shares(conn) == {1: 100}


def test_unknown_models_and_versions(conn: _db.Connection) -> None:
    with pytest.raises(UnknownVersion):
        force(conn, 9)
    with pytest.raises(UnknownModel):
        rollout.promote(conn, "nope", 1)
    with pytest.raises(UnknownModel):
        rollout.rollback(conn, "nope")
    with pytest.raises(UnknownVersion):
        rollout.retire(conn, "shop", 9)


@pytest.mark.parametrize("tower", ["query_tower", "item_tower"])
def test_a_version_whose_towers_do_not_load_serves_nobody(
    conn: _db.Connection, tower: str
) -> None:
    conn.execute(
        "delete from recsys.artifact where sha256 = (select artifacts ->> %s from"
        " recsys.model_version where number = 2)",
        (tower,),
    )
    with pytest.raises(ArtifactError, match="do not load") as caught:
        force(conn, 2, 10)

    assert "recsys artifacts import" in caught.value.hint
    assert shares(conn) == {1: 100}


@pytest.mark.parametrize("tower", ["query_tower", "item_tower"])
def test_a_tower_that_cannot_be_asked_serves_nobody(
    conn: _db.Connection, tower: str
) -> None:
    sha256 = artifacts.put(conn, "onnx", b"not onnx at all")
    conn.execute(
        "update recsys.model_version set artifacts = artifacts || %s::jsonb"
        " where number = 2",
        (json.dumps({tower: sha256}),),
    )
    with pytest.raises(ArtifactError, match="do not load"):
        force(conn, 2, 10)

    assert shares(conn) == {1: 100}


# the gate ---------------------------------------------------------------------------


def test_without_a_comparison_nobody_is_served(conn: _db.Connection) -> None:
    for percent in (1, 100):
        with pytest.raises(VersionStateError, match="was not compared") as caught:
            rollout.promote(conn, "shop", 2, percent=percent)
        assert "recsys compare shop 2" in caught.value.hint
    assert shares(conn) == {1: 100}


def test_a_passed_comparison_opens_the_gate(conn: _db.Connection) -> None:
    compared(conn)
    rollout.promote(conn, "shop", 2, percent=10)
    rollout.promote(conn, "shop", 2)

    (_, _, _, after, reason) = audited(conn, "promote")[-1]
    assert (after, reason) == ({"2": 100}, "")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"passed": False}, "did not pass"),
        ({"limited": True, "passed": False}, "was not compared"),
        ({"base_number": 7}, "was not compared"),
        ({"created_at": "2001-01-01"}, "was not compared"),
    ],
)
def test_a_comparison_that_says_less_does_not(
    conn: _db.Connection, other: dict[str, Any], message: str
) -> None:
    compared(conn, **other)
    with pytest.raises(VersionStateError, match=message):
        rollout.promote(conn, "shop", 2, percent=10)


def test_the_newest_comparison_counts(conn: _db.Connection) -> None:
    compared(conn)
    compared(conn, passed=False)
    with pytest.raises(VersionStateError, match="did not pass"):
        rollout.promote(conn, "shop", 2)


def test_force_needs_a_reason_and_is_audited(conn: _db.Connection) -> None:
    with pytest.raises(ConfigError, match="needs a reason"):
        rollout.promote(conn, "shop", 2, force=True, reason=" ")
    rollout.promote(conn, "shop", 2, force=True, reason="index repair")

    kind, number, before, after, reason = audited(conn, "promote")[-1]
    assert (kind, number, before, after) == ("promote", 2, {"1": 100}, {"2": 100})
    assert reason == "forced: index repair"


def test_a_break_is_no_way_around_the_comparison(conn: _db.Connection) -> None:
    rollout.promote(conn, "shop", None)
    with pytest.raises(VersionStateError, match="was not compared with version 1"):
        rollout.promote(conn, "shop", 2)
    conn.rollback()
    rollout.promote(conn, "shop", None)
    rollout.promote(conn, "shop", 1)  # what served last

    assert shares(conn) == {1: 100}


def test_a_rollback_steps_over_a_break_and_needs_no_comparison(
    conn: _db.Connection,
) -> None:
    rollout.promote(conn, "shop", None)
    force(conn, 2)

    assert rollout.rollback(conn, "shop") == 1


def test_a_base_is_not_dropped_beside_its_candidate(conn: _db.Connection) -> None:
    force(conn, 2, 99)
    with pytest.raises(VersionStateError, match="is being rolled out beside") as caught:
        rollout.drop(conn, "shop", 1)
    assert "recsys promote shop 2" in caught.value.hint

    rollout.drop(conn, "shop", 1, stop_serving=True)
    assert shares(conn) == {2: 100}


def test_stopping_is_for_everybody(conn: _db.Connection) -> None:
    with pytest.raises(ConfigError, match="for everybody"):
        rollout.promote(conn, "shop", None, percent=10)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="for everybody"):
        conn.execute("select recsys._promote('shop', null, 10)")


# ramps ------------------------------------------------------------------------------


def ramp(conn: _db.Connection, *steps: Any, **options: Any) -> None:
    options = {
        "every": timedelta(hours=1), "reason": "test", "force": True, "guarded": False,
    } | options  # fmt: skip
    rollout.ramp(conn, "shop", 2, steps, **options)


def make_due(conn: _db.Connection) -> None:
    conn.execute("update recsys.ramp set next_at = now() - interval '1 second'")


def test_a_ramp_takes_its_steps_when_they_are_due(conn: _db.Connection) -> None:
    ramp(conn, 1, 25, 100)
    assert shares(conn) == {1: 99, 2: 1}
    assert ramps.advance(conn, "shop") == ""

    make_due(conn)
    assert ramps.advance(conn, "shop") == "version 2: 1.00 % -> 25.00 %"
    assert ramps.advance(conn, "shop") == ""
    make_due(conn)
    assert ramps.advance(conn, "shop") == "version 2: 25.00 % -> 100.00 %"
    assert shares(conn) == {2: 100}
    assert conn.execute("select from recsys.ramp").fetchall() == []
    assert [row[4] for row in audited(conn, "ramp")] == [
        "test",
        "the last step was taken",
    ]
    assert rollout.rollback(conn, "shop") == 1


def test_two_workers_take_a_step_once(shop: Shop, conn: _db.Connection) -> None:
    ramp(conn, 1, 5, 25, 50, 100)
    make_due(conn)
    conn.commit()
    said: list[str] = []

    def step() -> None:
        with _db.connect(shop.dsn, autocommit=True) as other:
            said.append(ramps.advance(other, "shop"))

    threads = [threading.Thread(target=step) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(said) == ["", "", "", "version 2: 1.00 % -> 5.00 %"]
    assert shares(conn) == {1: 95, 2: 5}


@pytest.mark.parametrize("action", ["promote", "percent", "rollback", "none"])
def test_a_switch_by_hand_ends_the_ramp(conn: _db.Connection, action: str) -> None:
    ramp(conn, 1, 5, 100)
    if action == "rollback":
        rollout.rollback(conn, "shop")
    elif action == "none":
        rollout.promote(conn, "shop", None)
    else:
        force(conn, 2, 100 if action == "promote" else 50)

    assert conn.execute("select from recsys.ramp").fetchall() == []
    assert "ended by a" in audited(conn, "ramp")[-1][4]


@pytest.mark.parametrize("steps", [(), (5, 5), (50, 10), (0, 50), (1, 101), ("a",)])
def test_steps_that_do_not_ascend_are_refused(
    conn: _db.Connection, steps: tuple[Any, ...]
) -> None:
    with pytest.raises(ConfigError):
        ramp(conn, *steps)

    assert shares(conn) == {1: 100}


def test_a_ramp_needs_time_and_another_version(conn: _db.Connection) -> None:
    with pytest.raises(ConfigError, match="time between"):
        ramp(conn, 1, 100, every=timedelta(0))
    with pytest.raises(VersionStateError, match="no other version"):
        rollout.ramp(conn, "shop", 1, [1, 100], timedelta(hours=1))
    rollout.promote(conn, "shop", None)
    with pytest.raises(VersionStateError, match="no other version"):
        ramp(conn, 1, 100)


def answers(
    conn: _db.Connection, number: int, n: int, *, error: str | None = None
) -> None:
    conn.execute(
        "insert into recsys.impression (request_id, model, version, user_id, unit,"
        " occurred_at, item_ids, scores, channels, k, took_ms, error)"
        " select gen_random_uuid(), 'shop', %s, g::text, g::text,"
        " clock_timestamp(), '{1}', '{1}', '{two-tower}', 1, 3, %s"
        " from generate_series(1, %s) as g",
        (number, error, n),
    )


def test_a_ramp_waits_until_the_guardrails_have_seen_enough(
    conn: _db.Connection,
) -> None:
    ramp(conn, 1, 100, guarded=True)
    make_due(conn)
    assert "too few answers for error_rate" in ramps.advance(conn, "shop")
    assert shares(conn) == {1: 99, 2: 1}

    for number in (1, 2):
        answers(conn, number, 300)
    assert "1.00 % -> 100.00 %" in ramps.advance(conn, "shop")


def test_what_failed_at_an_earlier_step_is_not_forgotten(conn: _db.Connection) -> None:
    """Each step alone has too few answers to conclude anything."""
    ramp(conn, 1, 2, 3, 4, 100)
    answers(conn, 1, 2000)
    said = []
    for _ in range(4):
        answers(conn, 2, 95, error="boom")
        make_due(conn)
        said.append(ramps.advance(conn, "shop"))

    assert any("rolled back to version 1" in text for text in said)
    assert shares(conn) == {1: 100}


def test_a_guardrail_that_only_stops_is_audited_once_without_a_ramp(
    conn: _db.Connection,
) -> None:
    conn.execute(
        "insert into recsys.guardrail (model, metric, kind, bound, min_sample, action)"
        " values ('shop', 'error_rate', 'max', 0.01, 100, 'stop')"
    )
    force(conn, 2, 10)
    answers(conn, 1, 2000)
    answers(conn, 2, 2000, error="boom")

    assert "was stopped" in ramps.advance(conn, "shop")
    assert ramps.advance(conn, "shop") == ""
    assert len(audited(conn, "guardrail")) == 1
    assert shares(conn) == {1: 90, 2: 10}


def test_a_breached_guardrail_rolls_back_and_the_audit_says_why(
    conn: _db.Connection,
) -> None:
    ramp(conn, 10, 100)
    conn.commit()
    for number, error in ((1, None), (2, "boom")):
        answers(conn, number, 2000, error=error)
    conn.commit()
    said = ramps.advance(conn, "shop")

    assert "rolled back to version 1" in said
    assert shares(conn) == {1: 100}
    (kind, number, _, after, reason) = audited(conn, "guardrail")[-1]
    assert (kind, number) == ("guardrail", 2)
    assert "error" in reason
    assert after == "rollback"
    numbers = conn.execute(
        "select numbers from recsys.audit where kind = 'guardrail'"
    ).fetchone()
    assert numbers
    assert numbers[0]["error_rate"]["candidate"] == 1


# rollback ---------------------------------------------------------------------------


def test_a_rollback_takes_the_users_back_from_a_candidate(
    conn: _db.Connection,
) -> None:
    force(conn, 2, 25)

    assert rollout.rollback(conn, "shop", reason="bad") == 1
    assert shares(conn) == {1: 100}
    assert audited(conn, "rollback")[-1] == (
        "rollback", 1, {"1": 75, "2": 25}, {"1": 100}, "bad",
    )  # fmt: skip


@pytest.mark.alone
def test_a_rollback_takes_less_than_a_second(conn: _db.Connection) -> None:
    force(conn, 2)
    conn.commit()
    start = time.perf_counter()
    rollout.rollback(conn, "shop")
    conn.commit()

    assert time.perf_counter() - start < 1


def test_a_rollback_is_one_commit(shop: Shop, conn: _db.Connection) -> None:
    force(conn, 2)
    conn.commit()
    rollout.rollback(conn, "shop")
    with _db.connect(shop.dsn) as other:
        assert shares(other) == {2: 100}
        other.commit()
        conn.commit()
        assert shares(other) == {1: 100}


# retirement -------------------------------------------------------------------------


def test_retiring(conn: _db.Connection) -> None:
    with pytest.raises(VersionStateError, match="is serving"):
        rollout.retire(conn, "shop", 1)
    rollout.retire(conn, "shop", 2, reason="old")
    rollout.retire(conn, "shop", 2)

    assert states(conn) == {1: "serving", 2: "retired"}
    assert [row[4] for row in audited(conn, "retire")] == ["old"]
    with pytest.raises(VersionStateError, match="is retired"):
        force(conn, 2)


def test_a_retired_version_is_not_rolled_back_to(conn: _db.Connection) -> None:
    force(conn, 2)
    rollout.retire(conn, "shop", 1)
    with pytest.raises(VersionStateError, match="could serve again"):
        rollout.rollback(conn, "shop")


_ANSWERING = """
import sys
from recsys import Recommender
shop = Recommender("shop", dsn=sys.argv[1])
print(shop.recommend(1, k=5).version, flush=True)
for line in sys.stdin:
    print(*(shop.recommend(user, k=5).version for user in range(1, 31)), flush=True)
"""


def test_another_process_is_not_hurt_by_what_happens_to_its_version(
    shop: Shop, conn: _db.Connection
) -> None:
    force(conn, 2)
    conn.commit()
    with subprocess.Popen(
        [sys.executable, "-c", _ANSWERING, shop.dsn],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout

        def asked() -> set[str]:
            assert process.stdin
            assert process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            return set(process.stdout.readline().split())

        assert process.stdout.readline().strip() == "2"
        rollout.rollback(conn, "shop")
        rollout.retire(conn, "shop", 2)
        conn.commit()
        assert asked() == {"1"}
        rollout.drop(conn, "shop", 2)
        conn.commit()
        assert asked() == {"1"}
        process.stdin.close()


# the audit --------------------------------------------------------------------------


def test_every_transition_is_in_the_audit(shop: Shop, conn: _db.Connection) -> None:
    number, _ = world.add_version(shop.dsn, shop.learned[1].config, seed=3)
    force(conn, number, 10)
    force(conn, number)
    rollout.rollback(conn, "shop")
    rollout.retire(conn, "shop", number)
    rollout.drop(conn, "shop", number)
    rows = conn.execute(
        "select kind, before, after from recsys.audit_log where number = %s"
        " order by id",
        (number,),
    ).fetchall()

    assert rows == [
        ("state", None, "building"),
        ("state", "building", "ready"),
        ("state", "ready", "serving"),
        ("percent", {"1": 100}, {"1": 90, "3": 10}),
        ("promote", {"1": 90, "3": 10}, {"3": 100}),
        ("state", "serving", "ready"),
        ("state", "ready", "retired"),
        ("retire", "ready", "retired"),
        ("state", "retired", None),
    ]
    who = conn.execute(
        "select who, application, at, numbers from recsys.audit where kind = 'promote'"
        " order by id desc limit 1"
    ).fetchone()
    assert who
    assert who[0] == conn.info.user
    assert who[1] == "recsys"
    assert who[3]["item_count"] == 200
    assert who[3]["ann_recall"] > 0.9


def test_a_state_changed_by_hand_is_in_the_audit_too(conn: _db.Connection) -> None:
    conn.execute("update recsys.model_version set state = 'failed' where number = 2")

    assert audited(conn, "state")[-1][:4] == ("state", 2, "ready", "failed")


def test_trainers_cannot_rewrite_the_audit(conn: _db.Connection) -> None:
    conn.execute("set role recsys_trainer")
    with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
        conn.execute("delete from recsys.audit")
    for statement in (
        "update recsys.audit set who = 'somebody else'",
        "update recsys.promotion set promoted_by = 'somebody else'",
        "insert into recsys.audit (model, kind, who) values ('shop', 'x', 'them')",
        "insert into recsys.audit (model, kind, at) values ('shop', 'x', '2020-01-01')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
            conn.execute(statement)
    rollout.promote(conn, "shop", 2, reason="as a trainer", force=True)


def test_answers_never_mix_versions_while_percentages_move(
    shop: Shop, conn: _db.Connection
) -> None:
    with Recommender("shop", dsn=shop.dsn) as recommender:
        expected: dict[int, dict[int, list[Any]]] = {1: {}, 2: {}}
        for number in (1, 2):
            force(conn, number)
            conn.commit()
            for user in range(1, 31):
                expected[number][user] = recommender.recommend(user, k=10).ids
    force(conn, 1)
    conn.commit()
    done = threading.Event()

    def moving() -> None:
        with _db.connect(shop.dsn) as other:
            while not done.is_set():
                for percent in (10, 60, 100):
                    force(other, 2, percent)
                    other.commit()
                force(other, 1)
                other.commit()

    thread = threading.Thread(target=moving)
    thread.start()
    seen: set[int] = set()
    try:
        with Recommender("shop", dsn=shop.dsn) as recommender:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                for user in range(1, 31):
                    page = recommender.recommend(user, k=10)
                    assert page.ids == expected[page.version][user]
                    seen.add(page.version)
    finally:
        done.set()
        thread.join()
    assert seen == {1, 2}
