"""Incremental updates against Postgres: what moves, is written, is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import world
from threadpoolctl import threadpool_info, threadpool_limits
from twofold import NEW, QUIET, Twofold, add_items, assert_consistent, even, moment

from recsys import versions
from recsys.errors import SourceError, TrainingError
from recsys.updates import guarded, reading, run
from recsys.updates.products import one_thread
from recsys.updates.settings import UpdateConfig


@pytest.mark.parametrize("kind", ["shop", "featured"])
def test_new_items_join_those_who_met_them(
    kind: str, request: pytest.FixtureRequest
) -> None:
    shop: Twofold = request.getfixturevalue(kind)
    add_items(shop, *NEW)
    before = shop.rows()
    shop.happen(even(), at_s=10)

    (done,) = run.update(shop.dsn, "shop", QUIET)

    assert (done.state, done.read, done.trained) == ("published", 40, 40)
    after = shop.rows()
    assert set(after) == set(before) | set(NEW)
    assert done.changed == len(NEW)
    assert_consistent(shop)


def test_only_items_of_the_news_move(shop: Twofold) -> None:
    before = shop.rows()
    shop.happen([(2, 4), (4, 4), (6, 8), (8, 8)], at_s=10)

    (done,) = run.update(shop.dsn, "shop", QUIET)

    after = shop.rows()
    moved = {i for i in after if not np.array_equal(after[i], before[i])}
    assert done.state == "published"
    assert moved == {4, 8}
    assert_consistent(shop)


def test_a_new_item_is_ranked_for_those_of_its_taste(shop: Twofold) -> None:
    add_items(shop, *NEW)
    shop.happen(even(range(2, 30, 2)), at_s=10)
    run.update(shop.dsn, "shop", QUIET)
    shop.happen(even(range(30, 41, 2)), at_s=10_000)

    (later,) = run.update(shop.dsn, "shop", QUIET)

    assert later.metrics is not None
    assert later.metrics["users"] == 6
    assert later.metrics["recall"] == 1.0


def test_progressive_metrics_are_those_before_learning(shop: Twofold) -> None:
    add_items(shop, *NEW)
    shop.happen(even(), at_s=10)

    (done,) = run.update(shop.dsn, "shop", QUIET)

    # The items had no vector: no list could hold them.
    assert done.metrics is not None
    assert done.metrics["recall"] == 0.0
    with shop.connect() as conn:
        row = conn.execute(
            "select state, read, trained, users, recall, can_undo"
            " from recsys.update_log"
        ).fetchone()
    assert row == ("published", 40, 40, 20, 0.0, True)


def test_nothing_new_writes_nothing(shop: Twofold) -> None:
    (done,) = run.update(shop.dsn, "shop", QUIET)

    assert done.state == "nothing new"
    with shop.connect() as conn:
        assert conn.execute("select count(*) from recsys.id_update").fetchone() == (0,)


def test_no_interaction_is_learned_twice_and_late_ones_are_not_lost(
    shop: Twofold,
) -> None:
    shop.happen([(2, 4), (4, 4)], at_s=100)
    (first,) = run.update(shop.dsn, "shop", QUIET)
    shop.happen([(6, 4)], at_s=70)  # committed late, within the overlap
    shop.happen([(8, 4)], at_s=10)  # too late
    shop.happen([(10, 4)], at_s=120)
    (second,) = run.update(shop.dsn, "shop", QUIET)
    (third,) = run.update(shop.dsn, "shop", QUIET)

    assert (first.read, second.read, third.state) == (2, 2, "nothing new")
    # What was too late is before this.
    assert third.since == moment(120) - timedelta(seconds=QUIET.overlap_s)


def test_what_cannot_be_used_is_counted(shop: Twofold) -> None:
    shop.happen([(2, 4), (4, 999), (None, 4), (6, None)], at_s=10)
    shop.happen([(8, 6)], at_s=20, kind="ignored")
    with shop.connect() as conn:
        conn.execute("insert into event values (2, 6, 'view', now() + interval '1 h')")
        conn.execute("insert into event values (2, 8, 'view', null)")
        conn.execute("insert into event values (2, 8, 'view', 'infinity')")

    (done,) = run.update(shop.dsn, "shop", QUIET)

    assert done.trained == 1
    assert done.left_out == {
        "unknown_item": 1, "null_id": 2, "no_weight": 1, "future": 1
    }  # fmt: skip


def test_the_oldest_come_first_when_there_are_too_many(shop: Twofold) -> None:
    shop.happen([(user, 4) for user in range(2, 22, 2)], at_s=10)
    few = UpdateConfig(overlap_s=60, max_interactions=4)

    read = [run.update(shop.dsn, "shop", few)[0].read for _ in range(4)]

    assert read == [4, 4, 2, 0]


def test_rows_without_ids_never_hold_the_others_up(shop: Twofold) -> None:
    shop.happen([(None, 4), (6, None), (None, None)], at_s=10)
    shop.happen([(2, 4)], at_s=20)
    few = UpdateConfig(overlap_s=60, max_interactions=2)

    (done,) = run.update(shop.dsn, "shop", few)

    assert (done.trained, done.left_out) == (1, {"null_id": 3})


def test_an_interaction_weighs_by_its_value_and_age(shop: Twofold) -> None:
    shop.happen([(2, 4), (4, 4), (6, 4), (8, 4), (10, 4)], at_s=0)
    with shop.connect() as conn:
        found = versions.get(conn, "shop", 1)
        inter = replace(
            found.config.interactions,
            sql="select customer_id as user_id, product_id as item_id, kind,"
            " created_at as occurred_at,"
            " case customer_id when 10 then null else customer_id - 4 end as value"
            " from event",
            value="linear",
            value_cap=3,
        )
        day_s = timedelta(days=1).total_seconds()
        train = replace(found.config.train, half_life_days=4 / day_s)
        config = replace(found.config, interactions=inter, train=train)
        version = replace(found, spec={**found.spec, **config.to_dict()})
        since = moment(0)
        news = reading.read_news(conn, version, since, 100)

    # Values -2, 0, 2, 4 (capped to 3) and none; a second apart, halved in four.
    value = np.array([0, 0, 2 / 2.5, 3 / 2.5, 1])
    np.testing.assert_allclose(
        news.weight, value * 0.5 ** (np.arange(4, -1, -1) / 4), rtol=1e-5
    )


def test_rows_that_got_worse_are_not_published(shop: Twofold) -> None:
    before = shop.rows()
    # First odd users meet even items, then even users go on as ever.
    shop.happen([(u, i) for i in (2, 4, 6, 8) for u in range(1, 40, 2)], at_s=10)
    shop.happen([(u, i) for i in (2, 4) for u in range(2, 26, 2)], at_s=1000)
    wild = UpdateConfig(overlap_s=60, lr=10, passes=3)

    (done,) = run.update(shop.dsn, "shop", wild)

    assert done.state == "refused"
    assert "NDCG@20" in (done.reason or "")
    assert shop.rows().keys() == before.keys()
    assert all(np.array_equal(row, before[i]) for i, row in shop.rows().items())
    (again,) = run.update(shop.dsn, "shop", wild)
    assert again.state == "nothing new"
    (mild,) = run.update(shop.dsn, "shop", UpdateConfig(guard=100))
    assert mild.state == "nothing new"  # until there is more to go by
    shop.happen([(2, 10)], at_s=2000)
    (then,) = run.update(shop.dsn, "shop", UpdateConfig(guard=100))
    assert then.read == done.read + 1


def test_a_refused_full_batch_does_not_stop_the_next_ones(shop: Twofold) -> None:
    shop.happen([(u, i) for i in (2, 4, 6, 8) for u in range(1, 40, 2)], at_s=10)
    shop.happen([(u, i) for i in (2, 4) for u in range(2, 26, 2)], at_s=1000)
    wild = UpdateConfig(overlap_s=60, lr=10, passes=3, max_interactions=104)
    (done,) = run.update(shop.dsn, "shop", wild)
    assert (done.state, done.read) == ("refused", 104)
    shop.happen([(2, 10), (4, 10)], at_s=2000)

    (then,) = run.update(shop.dsn, "shop", replace(wild, guard=100))
    (idle,) = run.update(shop.dsn, "shop", replace(wild, guard=100))

    assert then.state == "published"
    assert 2 <= then.read < 104
    assert idle.state == "nothing new"


@pytest.mark.parametrize("steps", [(1e4, 1.0), (1.0, 1e4)])
def test_the_step_that_ranks_the_newest_best_is_taken(
    shop: Twofold, monkeypatch: pytest.MonkeyPatch, steps: tuple[float, float]
) -> None:
    """Ten times the length of a row is too far, whichever is tried first."""
    monkeypatch.setattr(guarded, "_STEPS", steps)
    shop.happen([(u, i) for i in (2, 4, 6, 8) for u in range(1, 40, 2)], at_s=10)
    shop.happen([(u, i) for i in (2, 4) for u in range(2, 26, 2)], at_s=1000)

    (done,) = run.update(shop.dsn, "shop", UpdateConfig(overlap_s=60, lr=1e-3))

    assert done.state == "published"
    assert done.metrics is not None
    assert done.metrics["lr"] == pytest.approx(1e-3)


def test_where_nobody_can_judge_the_careful_step_is_taken(shop: Twofold) -> None:
    shop.happen([(2, 4), (4, 4)], at_s=10)

    (done,) = run.update(shop.dsn, "shop", replace(QUIET, lr=0.1))

    assert done.state == "published"
    assert done.metrics is not None
    assert done.metrics["lr"] == pytest.approx(0.1 * guarded._STEPS[-1])


def test_candidate_and_base_are_updated_each_on_its_own_rows(shop: Twofold) -> None:
    from recsys.rollout import promote

    world.add_version(shop.dsn, shop.config, seed=9, trained_until=moment(0))
    with shop.connect() as conn:
        promote(conn, "shop", 2, percent=10, reason="test", force=True)
    before = [shop.rows(n) for n in (1, 2)]
    shop.happen([(2, 4), (4, 4)], at_s=10)

    done = run.update(shop.dsn, "shop", QUIET)

    assert [d.number for d in done] == [1, 2]
    for number, old in zip((1, 2), before, strict=True):
        new = shop.rows(number)
        assert {i for i in new if not np.array_equal(new[i], old[i])} == {4}


def test_without_times_there_is_a_clear_error(shop: Twofold) -> None:
    with shop.connect() as conn:
        conn.execute(
            "update recsys.model_version set spec = jsonb_set(spec,"
            " '{interactions,sql}', to_jsonb('select customer_id as user_id,"
            " product_id as item_id, kind, 1 as device from event'::text))"
        )

    with pytest.raises(SourceError, match="no occurred_at") as error:
        run.update(shop.dsn, "shop", QUIET)
    assert "train a new version" in error.value.hint


def test_a_version_of_unknown_end_is_refused(shop: Twofold) -> None:
    with shop.connect() as conn:
        conn.execute("update recsys.model_version set spec = spec - 'trained_until'")

    with pytest.raises(TrainingError, match="without times"):
        run.update(shop.dsn, "shop", QUIET)


def test_nothing_serves(shop: Twofold) -> None:
    with shop.connect() as conn:
        conn.execute("delete from recsys.rollout")

    with pytest.raises(TrainingError, match="no version of model 'shop' serves"):
        run.update(shop.dsn, "shop", QUIET)


class Threads:
    """Looks at the threads of numpy's products whenever a step is done."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Threads]:
        del name, total
        yield self

    def advance(self, n: int = 1, note: str = "") -> None:
        del n, note
        self.seen += of_products()


def of_products() -> list[int]:
    return [
        pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
    ]


def test_products_take_one_thread_while_rows_are_updated(shop: Twofold) -> None:
    add_items(shop, *NEW)
    shop.happen(even(), at_s=10)
    threads = Threads()

    with threadpool_limits(limits=2, user_api="blas"):
        run.update(shop.dsn, "shop", QUIET, progress=threads)

        assert set(of_products()) == {2}
    assert len(threads.seen) >= 3
    assert set(threads.seen) == {1}


TWO_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from threading import Event
import numpy
from threadpoolctl import threadpool_info
from recsys.updates.products import one_thread

def of_products():
    return {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}

entered, leave = [Event(), Event()], [Event(), Event()]

def inside(place):
    with one_thread():
        entered[place].set()
        assert leave[place].wait(30)

assert of_products() == {2}
with ThreadPoolExecutor(2) as pool:
    both = []
    for place in (0, 1):
        both.append(pool.submit(inside, place))
        assert entered[place].wait(30)
    for place in (0, 1):
        assert of_products() == {1}
        leave[place].set()
        both[place].result(30)
print("done")
"""


def test_who_leaves_first_takes_no_limit_from_the_other() -> None:
    # In a process that begins with two: OpenBLAS makes no more than it began with.
    done = subprocess.run(
        [sys.executable, "-c", TWO_THREADS],
        env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("done\n", "")


def test_an_update_that_fails_leaves_the_threads_that_it_found() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        with pytest.raises(RuntimeError), one_thread(), one_thread():
            raise RuntimeError

        assert set(of_products()) == {2}
