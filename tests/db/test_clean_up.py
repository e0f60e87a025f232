"""Clean-up: superfluous versions go, and never one that somebody needs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
import world
from test_worker import assert_current
from world import Shop

from recsys import _db, clean_up, rollout
from recsys.backfill import backfill
from recsys.errors import ConfigError, UnknownModel, VersionStateError

LONG_AGO = timedelta(days=30)


@pytest.fixture
def five(shop: Shop) -> Iterator[_db.Connection]:
    """Versions 1 to 5 are ready; 3 served first, then 4, and now 5; all long ago."""
    for seed in (3, 4, 5):
        world.add_version(shop.dsn, world.shop_config(features=True), seed=seed)
    with _db.connect(shop.dsn, autocommit=True) as conn:
        rollout.promote(conn, "shop", None, reason="start over")
        conn.execute("delete from recsys.promotion")
        for number in (3, 4, 5):
            rollout.promote(conn, "shop", number, reason="test", force=True)
        age(conn)
        yield conn


def age(conn: _db.Connection) -> None:
    conn.execute(
        "update recsys.model_version set ready_at = ready_at - %(age)s,"
        " last_served_at = last_served_at - %(age)s, retired_at = retired_at - %(age)s",
        {"age": LONG_AGO},
    )


def states(conn: _db.Connection) -> dict[int, str]:
    return dict(
        conn.execute("select number, state from recsys.model_version order by 1")
    )


def test_superfluous_versions_are_retired_then_dropped(five: _db.Connection) -> None:
    clean_up.keep(five, "shop", versions_kept=0)

    assert clean_up.run(five, "shop") == (
        "version 3 retired; version 2 retired; version 1 retired"
    )
    assert clean_up.run(five, "shop") == "", "not before another grace period"
    age(five)
    assert clean_up.run(five, "shop") == (
        "version 1 dropped; version 2 dropped; version 3 dropped"
    )

    assert states(five) == {4: "ready", 5: "serving"}, "4 is what a rollback goes to"
    assert clean_up.run(five, "shop") == ""
    assert rollout.rollback(five, "shop") == 4
    reason = five.execute(
        "select reason from recsys.audit_log where kind = 'retire' limit 1"
    ).fetchone()
    assert reason == ("superseded (clean-up)",)


def test_the_newest_spares_are_kept(five: _db.Connection) -> None:
    assert clean_up.keep(five, "shop") == (2, timedelta(days=1))

    clean_up.run(five, "shop")

    assert states(five) == {
        1: "retired", 2: "ready", 3: "ready", 4: "ready", 5: "serving"
    }  # fmt: skip


def test_nothing_goes_before_the_grace_period(five: _db.Connection) -> None:
    clean_up.keep(five, "shop", versions_kept=0, grace=LONG_AGO + timedelta(days=1))

    assert clean_up.run(five, "shop") == ""

    clean_up.keep(five, "shop", grace=timedelta(days=29))
    five.execute("update recsys.model_version set last_served_at = now()")
    assert clean_up.run(five, "shop") == "", "all have just served"


def test_a_version_newer_than_what_serves_is_a_candidate(five: _db.Connection) -> None:
    rollout.rollback(five, "shop")
    rollout.rollback(five, "shop")
    age(five)
    clean_up.keep(five, "shop", versions_kept=0)

    clean_up.run(five, "shop")

    assert states(five) == {
        1: "retired", 2: "retired", 3: "serving", 4: "ready", 5: "ready"
    }  # fmt: skip


def test_both_versions_of_a_rollout_stay(five: _db.Connection) -> None:
    rollout.promote(five, "shop", 1, percent=10, reason="try", force=True)
    age(five)
    clean_up.keep(five, "shop", versions_kept=0)

    clean_up.run(five, "shop")

    found = states(five)
    assert (found[1], found[5]) == ("serving", "serving")


def test_what_an_experiment_uses_stays(five: _db.Connection) -> None:
    five.execute(
        "insert into recsys.experiment (name, model, salt, primary_metric)"
        " values ('old', 'shop', 's', 'ctr');"
        "insert into recsys.experiment_metric (experiment, metric, numerator)"
        " values ('old', 'ctr', 'any(click)');"
        "insert into recsys.experiment_arm (experiment, arm, number, share, is_control)"
        " values ('old', 'a', 5, 50, true), ('old', 'b', 2, 50, false);"
        "update recsys.experiment set state = 'running', started_at = now()"
    )
    clean_up.keep(five, "shop", versions_kept=0)

    clean_up.run(five, "shop")

    found = states(five)
    assert (found[1], found[2]) == ("retired", "ready")
    with pytest.raises(VersionStateError, match="experiment old assigns users"):
        rollout.retire(five, "shop", 2)


def test_a_long_reader_delays_the_drop_only(five: _db.Connection) -> None:
    rollout.retire(five, "shop", 1)
    rollout.retire(five, "shop", 2)
    age(five)
    with psycopg.connect(five.info.dsn) as reader:
        reader.execute("select count(*) from recsys.item_vector_shop_1")

        assert clean_up.run(five, "shop") == "version 2 dropped"

        reader.execute("select count(*) from recsys.item_vector_shop_1")
    assert clean_up.run(five, "shop") == "version 1 dropped"


def test_what_serves_cannot_be_retired(five: _db.Connection) -> None:
    with pytest.raises(VersionStateError, match="serving"):
        rollout.retire(five, "shop", 5)
    rollout.retire(five, "shop", 3, reason="done")
    rollout.retire(five, "shop", 3)
    with pytest.raises(VersionStateError, match="retired"):
        rollout.promote(five, "shop", 3, reason="test", force=True)
    assert rollout.rollback(five, "shop") == 4


def test_a_retired_version_comes_back_by_a_backfill(five: _db.Connection) -> None:
    rollout.retire(five, "shop", 3)
    five.execute("update product set title = 'blue lamp' where id < 50")
    five.execute("delete from product where id > 150")
    with pytest.raises(AssertionError):
        assert_current(five, 3)

    backfill(five.info.dsn, "shop", 3)

    assert states(five)[3] == "ready"
    assert_current(five, 3)
    clean_up.keep(five, "shop", versions_kept=0)
    clean_up.run(five, "shop")
    assert states(five)[3] == "ready", "its grace period begins anew"


@pytest.mark.parametrize("wrong", [{"versions_kept": -1}, {"grace": -LONG_AGO}])
def test_settings_that_make_no_sense(five: _db.Connection, wrong: dict) -> None:
    with pytest.raises(ConfigError):
        clean_up.keep(five, "shop", **wrong)
    with pytest.raises(UnknownModel):
        clean_up.keep(five, "nope")


def test_dead_workers_are_forgotten(five: _db.Connection) -> None:
    five.execute(
        "insert into recsys.worker (id, host, pid, seen_at) values"
        " (gen_random_uuid(), 'gone', 1, now() - interval '2 days'),"
        " (gen_random_uuid(), 'here', 2, now())"
    )

    clean_up.run(five, "shop")

    assert five.execute("select host from recsys.worker").fetchall() == [("here",)]


ANSWERING = """
    import sys
    from recsys import Recommender
    with Recommender("shop", dsn=sys.argv[1]) as model:
        n = 0
        while True:
            page = model.recommend(n % 30 + 1, k=5)
            assert len(page.items) == 5, page
            n += 1
            print(page.version, flush=True)
"""


def test_taking_a_version_away_is_not_felt_by_a_process_that_serves_it(
    five: _db.Connection,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ANSWERING), five.info.dsn],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    seen: list[int] = []

    def answers(until: int) -> None:
        deadline = time.monotonic() + 20
        while not seen or seen[-1] != until:
            assert time.monotonic() < deadline, process.poll()
            line = process.stdout.readline() if process.stdout else ""
            assert line, process.communicate()
            seen.append(int(line))

    try:
        answers(5)
        rollout.promote(five, "shop", 4, reason="test", force=True)
        rollout.retire(five, "shop", 5)
        age(five)
        clean_up.run(five, "shop")
        assert 5 not in states(five)
        answers(4)
        for _ in range(50):
            seen.append(int(process.stdout.readline()))
        assert set(seen[-50:]) == {4}
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_a_version_that_serves_again_meanwhile_is_not_dropped(
    five: _db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is read once, and each drop may wait seconds for its locks."""
    for number in (1, 2):
        rollout.retire(five, "shop", number)
    five.execute("update recsys.model_version set retired_at = '2020-01-01'"
                 " where state = 'retired'")  # fmt: skip
    drop = clean_up._drop_retired

    def slowly(conn: _db.Connection, model: str, number: int) -> bool:
        if number == 2:
            five.execute("update recsys.model_version set state = 'ready',"
                         " ready_at = now() where number = 2")  # fmt: skip
            rollout.promote(five, "shop", 2, reason="needed again", force=True)

        return drop(conn, model, number)

    monkeypatch.setattr(clean_up, "_drop_retired", slowly)
    with _db.connect(five.info.dsn, autocommit=True) as conn:
        said = clean_up.run(conn, "shop")

    assert said == "version 1 dropped"
    assert five.execute("select number from recsys.rollout").fetchall() == [(2,)]
