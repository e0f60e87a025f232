"""Publishing and undoing beside workers, beside each other, and when killed."""

from __future__ import annotations

import itertools
import time
from datetime import timedelta

import numpy as np
import psycopg
import pytest
from between import Died, before, death_at
from twofold import NEW, QUIET, Twofold, add_items, assert_consistent, even

from recsys import sync_items, versions
from recsys.errors import TrainingError, VersionStateError
from recsys.updates import log, publish, run, scheduled
from recsys.updates.settings import UpdateConfig
from recsys.worker import tasks
from recsys.worker.loop import Worker

PUBLISHING = "insert into recsys.id_update "


def drain(shop: Twofold) -> None:
    Worker(shop.dsn, run_tasks=False).drain()


def change(shop: Twofold, *ids: int) -> None:
    """Change items, and queue them as triggers would."""
    with psycopg.connect(shop.dsn) as conn:
        conn.execute(
            "update product set title = title || ' more', price = price + 1"
            " where id = any(%s)", (list(ids),),
        )  # fmt: skip
        conn.execute("select recsys._queue_items('shop', %s)", ([str(i) for i in ids],))


def same(left: dict[int, np.ndarray], right: dict[int, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(
        np.array_equal(row, right[item]) for item, row in left.items()
    )


def version(shop: Twofold) -> versions.ModelVersion:
    with shop.connect() as conn:
        return versions.get(conn, "shop", 1)


def test_undo_brings_every_row_back(featured: Twofold) -> None:
    add_items(featured, *NEW)
    drain(featured)
    trained = featured.rows()
    featured.happen(even(items=(NEW[0], 4)), at_s=10)
    run.update(featured.dsn, "shop", QUIET)
    first = featured.rows()
    featured.happen(even(items=(NEW[1], 4, 8)), at_s=1000)
    run.update(featured.dsn, "shop", QUIET)

    with featured.connect() as conn:
        undone = publish.undo(conn, version(featured), reason="a test")
        again = featured.rows()
        publish.undo(conn, version(featured))

    assert len(undone) == 1
    assert same(again, first)
    assert same(featured.rows(), trained)
    change(featured, *NEW, 4, 8)
    drain(featured)
    assert_consistent(featured)
    (after,) = run.update(featured.dsn, "shop", QUIET)
    assert after.state == "nothing new"


def test_undo_ends_where_nothing_is_kept(shop: Twofold) -> None:
    trained = shop.rows()
    few = UpdateConfig(overlap_s=60, undo=1)
    for n in (1, 2):
        shop.happen([(2, 4), (4, 4)], at_s=1000 * n)
        run.update(shop.dsn, "shop", few)

    with shop.connect() as conn:
        publish.undo(conn, version(shop))
        with pytest.raises(VersionStateError, match="no update that can be undone"):
            publish.undo(conn, version(shop))
        undone = publish.undo_all(conn, version(shop))

    assert len(undone) == 1
    assert same(shop.rows(), trained)
    assert_consistent(shop)


def test_many_refusals_take_no_update_that_can_be_undone(shop: Twofold) -> None:
    first = shop.rows()
    shop.happen([(2, 4), (4, 4)], at_s=1000)
    run.update(shop.dsn, "shop", QUIET)
    with shop.connect() as conn:
        conn.execute(
            "insert into recsys.id_update (model, number, state, began_at)"
            " select 'shop', %s, 'refused', now() from generate_series(1, 1500)",
            (version(shop).number,),
        )
        until = log.position(conn, version(shop)).until

        log.forget(conn, version(shop), keep=20)

        kept = conn.execute("select state, count(*) from recsys.id_update group by 1")
        assert dict(kept.fetchall()) == {"published": 1, "refused": 1000}
        assert log.position(conn, version(shop)).until == until
        publish.undo(conn, version(shop))
        conn.execute("update recsys.id_update set id = default where state = 'refused'")

        log.forget(conn, version(shop), keep=20)

        assert log.position(conn, version(shop)).until == until
    assert same(shop.rows(), first)


def test_all_takes_away_rows_that_updates_made(shop: Twofold) -> None:
    add_items(shop, *NEW)
    drain(shop)
    trained = shop.rows()
    shop.happen(even(), at_s=10)
    run.update(shop.dsn, "shop", QUIET)
    assert set(shop.rows()) > set(trained)

    with shop.connect() as conn:
        publish.undo_all(conn, version(shop))

    assert same(shop.rows(), trained)


def test_an_update_that_dies_before_any_statement_writes_nothing(
    featured: Twofold,
) -> None:
    add_items(featured, *NEW)
    drain(featured)
    featured.happen(even(), at_s=10)
    trained, deaths = featured.rows(), 0
    for n in itertools.count(3, 5):
        try:
            with death_at(n):
                run.update(featured.dsn, "shop", QUIET)
        except Died:
            deaths += 1
            assert same(featured.rows(), trained)
            continue
        break

    assert deaths > 5
    assert set(featured.rows()) == set(trained) | set(NEW)
    change(featured, *NEW)
    drain(featured)
    assert_consistent(featured)


def test_changes_during_an_update_are_not_lost(featured: Twofold) -> None:
    add_items(featured, *NEW)
    drain(featured)
    featured.happen(even(items=(*NEW, 4, 8)), at_s=10)

    # One before the locks, which a worker applies, and one that it cannot apply yet.
    def early() -> None:
        change(featured, 4, NEW[0])
        drain(featured)

    def late() -> None:
        change(featured, 8, NEW[1])
        drain(featured)

    with before("_lock_buckets", early), before(PUBLISHING, late):
        run.update(featured.dsn, "shop", QUIET)
    with featured.connect() as conn:
        waiting = conn.execute("select count(*) from recsys.item_change").fetchone()
    assert waiting == (2,)
    drain(featured)

    assert_consistent(featured)


def test_an_item_that_the_application_holds_goes_to_the_queue(
    featured: Twofold,
) -> None:
    featured.happen([(2, 4), (4, 4), (6, 8)], at_s=10)
    with psycopg.connect(featured.dsn) as application:
        application.execute("update product set price = price + 9 where id = 4")
        assert sync_items(application, [4], model="shop")

        (done,) = run.update(featured.dsn, "shop", QUIET)

    assert done.changed == 2
    drain(featured)
    assert_consistent(featured)


def test_of_two_updates_at_once_one_writes(shop: Twofold) -> None:
    shop.happen([(2, 4), (4, 4)], at_s=10)
    rows: list[dict[int, np.ndarray]] = []

    def other() -> None:
        with shop.connect() as conn:
            run.update_version(conn, version(shop), QUIET)
        rows.append(shop.rows())

    with (
        pytest.raises(VersionStateError, match="published or undone meanwhile"),
        before("_lock_buckets", other),
    ):
        run.update(shop.dsn, "shop", QUIET)

    assert same(shop.rows(), rows[0])
    assert_consistent(shop)


def test_an_undo_meanwhile_is_noticed(shop: Twofold) -> None:
    trained = shop.rows()
    shop.happen([(2, 4), (4, 4)], at_s=10)
    run.update(shop.dsn, "shop", QUIET)
    shop.happen([(2, 8), (4, 8)], at_s=1000)

    def undo() -> None:
        with shop.connect() as conn:
            publish.undo(conn, version(shop))

    with (
        pytest.raises(VersionStateError, match="published or undone meanwhile"),
        before("_lock_buckets", undo),
    ):
        run.update(shop.dsn, "shop", QUIET)

    assert same(shop.rows(), trained)


def test_a_second_update_of_the_model_is_refused(shop: Twofold) -> None:
    shop.happen([(2, 4)], at_s=10)

    def second() -> None:
        with pytest.raises(TrainingError, match="another update of model 'shop' runs"):
            run.update(shop.dsn, "shop", QUIET)

    with before("_lock_buckets", second):
        run.update(shop.dsn, "shop", QUIET)


def test_the_worker_updates_when_it_is_time(shop: Twofold) -> None:
    shop.happen([(2, 4), (4, 4)], at_s=10)

    def work() -> str | None:
        with shop.connect() as conn:
            tasks.plan(conn)
            conn.execute("update recsys.schedule set next_at = now()")
            tasks.run_due(conn, slow=True)
            return conn.execute(
                "select result from recsys.schedule where task = 'update'"
            ).fetchone()[0]

    assert work() is None  # update.every_s is 0
    with shop.connect() as conn:
        conn.execute(
            "update recsys.model_version set"
            " spec = jsonb_set(spec, '{update,every_s}', '60')"
        )
    assert work() == "version 1 published, 2 interactions, 1 row"
    shop.happen([(6, 8)], at_s=100)
    work()
    with shop.connect() as conn:
        assert conn.execute("select count(*) from recsys.id_update").fetchone() == (1,)
        conn.execute("update recsys.id_update set began_at = now() - interval '1 h'")
    work()
    with shop.connect() as conn:
        assert conn.execute("select count(*) from recsys.id_update").fetchone() == (2,)


def test_a_worker_leaves_alone_what_another_one_updates(shop: Twofold) -> None:
    shop.happen([(2, 4)], at_s=10)
    said: list[str] = []
    with shop.connect() as conn:
        conn.execute(
            "update recsys.model_version set"
            " spec = jsonb_set(spec, '{update,every_s}', '60')"
        )

        def second() -> None:
            with shop.connect() as other:
                said.append(scheduled.run(other, "shop"))

        with before("_lock_buckets", second):
            said.append(scheduled.run(conn, "shop"))

    assert said == ["", "version 1 published, 1 interaction, 1 row"]


def test_a_slow_task_keeps_its_own_interval(
    shop: Twofold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def idle(conn: object, model: str) -> str:
        del conn, model
        time.sleep(0.3)
        return ""

    every = timedelta(seconds=1)
    for slow in (True, False):
        task = tasks.Task(idle, every, slow=slow)
        monkeypatch.setattr(tasks, "TASKS", {f"slow {slow}": task})
        with shop.connect() as conn:
            tasks.plan(conn)
            tasks.run_due(conn)

    with shop.connect() as conn:
        rests = conn.execute(
            "select task, next_at - ran_at >= 9 * took from recsys.schedule"
            " where task like 'slow %' order by 1"
        ).fetchall()
    assert rests == [("slow False", True), ("slow True", False)]


def test_a_dropped_version_takes_its_updates_along(shop: Twofold) -> None:
    shop.happen([(2, 4)], at_s=10)
    run.update(shop.dsn, "shop", QUIET)

    with shop.connect() as conn:
        conn.execute("delete from recsys.rollout")
        conn.execute("update recsys.model_version set state = 'ready'")
        for statement in versions.drop_statements(
            "shop", 1, item_id="bigint", user_id="bigint", stop_serving=True
        ):
            conn.execute(statement)
        for table in ("id_update", "id_update_row", "id_update_seen"):
            left = conn.execute(f"select count(*) from recsys.{table}").fetchone()
            assert left == (0,)
