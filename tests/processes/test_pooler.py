"""Everything goes through PgBouncer in transaction mode, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import world
from pooler import Pooler, pooler
from web import USERS, expected, impressions

from recsys import Recommender, _breaker, _db, capture, config, doctor, rollout, schema
from recsys.settings import Settings

SIZE = 2
_LEFT = """
select 'setting ' || name || ' = ' || setting from pg_settings
    where source = 'session' and name <> all (%(usual)s)
union all select 'setting hnsw.ef_search'  -- where pgvector is not loaded yet
    where coalesce(current_setting('hnsw.ef_search', true), '') not in ('', '40')
union all select 'prepared ' || name from pg_prepared_statements
union all select 'cursor ' || name from pg_cursors where name <> ''
union all select 'listens ' || pg_listening_channels
    from pg_listening_channels()
union all select 'table ' || relname from pg_class
    where relnamespace = pg_my_temp_schema()
union all select 'lock ' || objid from pg_locks
    where locktype = 'advisory' and pid = pg_backend_pid()
union all select 'role ' || current_user where current_user <> session_user
"""
# What PgBouncer itself sets on a session for its client, and what BEGIN sets anew.
_USUAL = [
    "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings",
    "application_name", "transaction_isolation", "transaction_read_only",
    "transaction_deferrable",
]  # fmt: skip


@pytest.fixture(scope="module")
def pool(server: str) -> Iterator[Pooler]:
    with pooler(server, size=SIZE) as running:
        yield running


def left_behind(dsn: str, size: int = SIZE) -> list[str]:
    """What clients before left on any session of the pool."""
    found: set[str] = set()
    pids = set()
    with ThreadPoolExecutor(size) as threads:
        barrier = threading.Barrier(size)

        def look(_: int) -> None:
            with psycopg.connect(dsn, prepare_threshold=None) as conn:
                pids.add(conn.execute("select pg_backend_pid()").fetchone())
                barrier.wait(10)  # each holds its session: together they hold all
                found.update(
                    row[0] for row in conn.execute(_LEFT, {"usual": _USUAL}).fetchall()
                )

        list(threads.map(look, range(size)))
    assert len(pids) == size
    return sorted(found)


def test_what_is_left_behind_is_seen(server: str, shop: str) -> None:
    """Without this the other tests of this file would prove nothing."""
    with pooler(server, size=1) as pool:
        dsn = pool.dsn(shop)
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as conn:
            conn.execute("set hnsw.ef_search = 77")
            conn.execute("set enable_indexscan = off")
            conn.execute("prepare planned as select 1")
            conn.execute("select pg_advisory_lock(4711)")

        found = left_behind(dsn, size=1)
        told = doctor.examine(Settings(dsn=dsn))

    assert [each.split(" ")[0] for each in found] == [
        "lock",
        "prepared",
        "setting",
        "setting",
    ]
    [finding] = [each for each in told if each.check == "pooler"]
    assert finding.result == "warn"
    assert "enable_indexscan" in finding.detail


def test_the_doctor_tells_of_a_pooler_and_what_it_does(
    server: str, pool: Pooler, shop: str
) -> None:
    def told(dsn: str) -> list[tuple[str, str]]:
        found = doctor.examine(Settings(dsn=dsn))
        return [(x.result, x.detail) for x in found if x.check == "pooler"]

    assert told(shop) == []
    assert told(world.as_role(shop, "recsys_trainer")) == []
    assert [result for result, _ in told(pool.dsn(shop))] == ["ok"]
    with pooler(server, ignore_startup_parameters="options") as deaf:
        [(result, detail)] = told(world.as_role(deaf.dsn(shop), "recsys_trainer"))
        assert (result, detail.split(": ")[1]) == ("warn", "role")
    with pooler(server, mode="statement") as cut:
        [(result, detail)] = told(cut.dsn(shop))
        assert result == "fail"
        assert "transaction" in detail


@pytest.mark.parametrize("mode", ["off", "transaction", "background"])
def test_an_application_behind_it_gets_what_it_gets_without(
    pool: Pooler, shop: str, mode: str
) -> None:
    wanted = expected(shop)
    dsn = pool.dsn(shop)
    clients = 8  # on two server sessions
    filtered = ("select id from product where price < %s", [25])

    def client(n: int) -> list[object]:
        wrong: list[object] = []
        with Recommender("shop", dsn=dsn, impressions=mode, fallback=False) as model:
            for user in [*USERS][n % 3 :: 3]:
                page = model.recommend(user, k=5)
                if [each.item_id for each in page] != wanted[user]:
                    wrong.append((user, page))
                if len(model.recommend(user, k=5, among=filtered)) != 5:
                    wrong.append(user)
                model.similar_items(user, k=30)
                model.record(user, 7, "view", request_id=page.request_id)
        return wrong

    with ThreadPoolExecutor(clients) as threads:
        assert [x for wrong in threads.map(client, range(clients)) for x in wrong] == []

    answers = 3 * (4 * clients)
    if mode != "off":
        assert impressions(shop) == answers
    with _db.connect(shop) as conn:
        row = conn.execute("select count(*) from recsys.outcome").fetchone()
        assert row == (4 * clients,)
    assert left_behind(dsn) == []


def test_clients_never_see_each_others_settings(pool: Pooler, shop: str) -> None:
    """Searches with different ef_search share two sessions with plain clients."""
    dsn = pool.dsn(shop)
    ends = time.monotonic() + 1.5
    seen: set[tuple[object, ...]] = set()

    def searches(k: int) -> int:
        count = 0
        with Recommender("shop", dsn=dsn, fallback=False) as model:
            while time.monotonic() < ends:
                options = {"recall_target": 1.0} if k == 3 else {}
                assert len(model.recommend(1, k=k, **options)) == k
                count += 1
        return count

    def watches() -> int:
        count = 0
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as conn:
            while time.monotonic() < ends:
                seen.add(
                    conn.execute(
                        "select current_setting('hnsw.ef_search', true),"
                        " current_setting('hnsw.iterative_scan', true),"
                        " current_setting('enable_seqscan'),"
                        " current_setting('enable_indexscan'),"
                        " current_setting('plan_cache_mode'),"
                        " current_setting('lock_timeout'),"
                        " current_setting('statement_timeout')"
                    ).fetchone()
                    or ()
                )
                count += 1
        return count

    with ThreadPoolExecutor(7) as threads:
        found = [threads.submit(searches, k) for k in (3, 20, 45, 80)]
        found += [threads.submit(watches) for _ in range(3)]
        assert min(each.result() for each in found) > 20

    # Before a session has loaded pgvector the first two are unknown.
    assert {each[2:] for each in seen} == {("on", "on", "auto", "0", "0")}
    assert {each[0] for each in seen} <= {None, "", "40"}
    assert {each[1] for each in seen} <= {None, "", "off"}
    assert left_behind(dsn) == []


def test_a_request_that_runs_out_of_time_cancels_no_other(
    server: str, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel goes to the pooler, which must not pass it to the session's next."""
    monkeypatch.setattr(_breaker, "FAILURES", 1000)  # else it stops the flood of them
    slow = "select id from product, pg_sleep(0.4)"
    wanted = expected(shop)

    def hurried(dsn: str, user: int) -> str | None:
        with Recommender("shop", dsn=dsn, timeout_ms=60) as model:
            return model.recommend(user, k=5, among=slow).degraded

    def patient(dsn: str, user: int) -> bool:
        with Recommender("shop", dsn=dsn, fallback=False) as model:
            return all(
                [x.item_id for x in model.recommend(user, k=5)] == wanted[user]
                for _ in range(20)
            )

    with pooler(server, size=SIZE) as pool, ThreadPoolExecutor(8) as threads:
        dsn = pool.dsn(shop)
        late = [threads.submit(hurried, dsn, user) for user in [*USERS] * 2]
        calm = [threads.submit(patient, dsn, user) for user in [*USERS][:6]]
        assert all(each.result() for each in calm)
        assert all(each.result() for each in late)
        assert left_behind(dsn) == []


def test_the_applications_own_transaction_through_it_stays_usable(
    pool: Pooler, shop: str
) -> None:
    dsn = pool.dsn(shop)
    with psycopg.connect(dsn, prepare_threshold=None) as conn:
        model = Recommender("shop", connection=conn, impressions="transaction")
        conn.execute("update product set title = 'changed' where id = 1")

        assert len(model.recommend(1, k=5)) == 5
        with pytest.raises(Exception, match="among"):
            model.recommend(1, k=5, among="select no_such_column from product")

        row = conn.execute("select title from product where id = 1").fetchone()
        assert row == ("changed",)
        conn.rollback()
    assert impressions(shop) == 0
    assert left_behind(dsn) == []


def test_a_version_is_made_served_and_followed_through_it(
    pool: Pooler, empty_dsn: str
) -> None:
    """From 'upgrade' to a switch back, with a worker: no direct connection at all."""
    dsn = pool.dsn(empty_dsn)
    schema.upgrade(dsn)
    world.fill_shop(dsn)
    declared = world.toml(features=True)
    declared["model"]["shop"]["items"]["watch"] = {"product": "id"}
    model = config.from_mapping(declared).model("shop")
    world.add_version(dsn, model, seed=1, promote=True)
    world.add_version(dsn, model, seed=2)
    with _db.connect(dsn) as conn:
        capture.watch(conn, model)
        rollout.promote(conn, "shop", 2, reason="test", force=True)
    with Recommender("shop", dsn=dsn, fallback=False) as shop:
        assert shop.recommend(1).version == 2
        with _db.connect(dsn) as conn:
            rollout.rollback(conn, "shop", reason="test")
        assert shop.recommend(1).version == 1

        with _db.connect(dsn) as conn:
            world.add_products(conn, "bigint", [9001])
        said = commands(
            dsn,
            "worker --drain",
            "backfill shop 2",
            "doctor",
            "status",
            "versions shop",
            "compare shop 2 --after 2026-02-01",
            "promote shop 2 --percent 10 --force --reason test",
        )

        assert shop.similar_items(9001, k=3)
    assert "9001" not in said
    assert left_behind(dsn) == []


_COMMANDS = """
import sys
from recsys.cli import app
for line in sys.argv[1:]:
    sys.argv = ["recsys", *line.split()]
    try:
        app.run()
    except SystemExit as exc:
        if exc.code:
            sys.exit(f"recsys {line}: {exc.code}")
"""


def commands(dsn: str, *lines: str) -> str:
    """Run commands of the command line, all in one process; the first failure ends."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS, *lines],
        env={**os.environ, "RECSYS_DSN": dsn, "MALLOC_MMAP_MAX_": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
