"""watch, unwatch, worker --drain, retry, retire and keep from the command line."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from conftest import SHOP, Run

from recsys import _db
from recsys.worker import tasks


@pytest.fixture
def watching(toml: Path) -> Path:
    toml.write_text(SHOP + 'watch = { product = "id" }')
    return toml


def one(dsn: str, query: str) -> tuple:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchone() or ()


def change(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(statement.encode())


def test_watch_then_drain_then_unwatch(run: Run, own_dsn: str, watching: Path) -> None:
    watched = run("--dsn", own_dsn, "--config", watching, "watch", "shop")

    assert (watched.code, watched.out) == (0, "")
    assert "public.product: brand, created_at, id, price, title" in watched.err
    assert "every item is queued once" in watched.err
    assert "Next: recsys worker" in watched.err
    first = run("--dsn", own_dsn, "worker", "--drain")
    assert "200 items applied, 0 failed" in first.err, "everything was queued once"
    change(own_dsn, "update product set title = 'blue lamp' where id < 4")
    assert "3 items applied" in run("--dsn", own_dsn, "worker", "shop", "--drain").err
    assert "0 items applied" in run("--dsn", own_dsn, "worker", "--drain").err
    gone = run("--dsn", own_dsn, "unwatch", "shop")
    assert "shop: product is no longer watched" in gone.err
    again = run("--dsn", own_dsn, "unwatch", "shop")
    assert (again.code, "nothing is no longer" in again.err) == (0, True)


def test_drain_without_tasks_only_applies(run: Run, own_dsn: str) -> None:
    change(own_dsn, "select recsys._queue_items('shop', array['1'])")

    assert "1 item" in run("--dsn", own_dsn, "worker", "--drain", "--no-tasks").err

    assert one(own_dsn, "select count(*) from recsys.schedule") == (0,)


def test_verbose_logs_batches_with_times(run: Run, own_dsn: str) -> None:
    queue = "select recsys._queue_items('shop', array['1', '2'])"
    change(own_dsn, queue)
    quiet = run("--dsn", own_dsn, "worker", "--drain", "--no-tasks")
    change(own_dsn, queue)

    verbose = run("--dsn", own_dsn, "worker", "--drain", "--no-tasks", "-v")

    line = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ INFO shop: 2 items, 0 failed$", re.M)
    assert line.search(verbose.err)
    assert not line.search(quiet.err)
    assert "Applying changes: " in quiet.err


def test_what_a_ramp_did_is_logged_also_without_verbose(
    run: Run, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tasks.Task(lambda *_: "1 % -> 5 %", timedelta(hours=1))
    monkeypatch.setattr(tasks, "TASKS", {"ramp": said, "other": said})

    done = run("--dsn", own_dsn, "worker", "--drain")

    assert "INFO ramp shop: 1 % -> 5 %" in done.err
    assert "other" not in done.err


@pytest.mark.parametrize("raised", [True, False])
def test_a_drain_drains_although_a_task_fails(
    run: Run,
    own_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    raised: bool,
) -> None:
    def broken(conn: _db.Connection, model: str) -> str:
        del model
        if raised:
            raise psycopg.DataError("no luck")
        conn.execute("select pg_terminate_backend(pg_backend_pid())")
        return ""

    monkeypatch.setattr(tasks, "TASKS", {"a": tasks.Task(broken, timedelta(hours=1))})
    change(own_dsn, "select recsys._queue_items('shop', array['1'])")

    drained = run("--dsn", own_dsn, "worker", "--drain")

    assert drained.code == 0
    assert "WARNING task 'a' of model 'shop' failed" in drained.err
    assert "1 item applied, 0 failed" in drained.err


def test_a_worker_says_what_is_missing_before_it_starts(
    run: Run, empty_dsn: str
) -> None:
    failed = run("--dsn", empty_dsn, "worker")

    assert failed.code == 1
    assert "Worker started" not in failed.err


def test_the_printed_statements_install_the_same(
    run: Run, own_dsn: str, watching: Path
) -> None:
    printed = run("--dsn", own_dsn, "--config", watching, "watch", "shop", "--sql")

    assert printed.code == 0
    assert one(own_dsn, "select triggers from recsys.change_status") == (0,)
    change(own_dsn, printed.out)
    assert one(own_dsn, "select triggers, capture from recsys.change_status") == (
        4,
        "triggers",
    )


def test_off_and_on(run: Run, own_dsn: str, watching: Path) -> None:
    run("--dsn", own_dsn, "--config", watching, "watch", "shop")

    off = run("--dsn", own_dsn, "watch", "shop", "--off", "--reason", "bulk import")

    assert "shop: capture is off" in off.err
    assert one(own_dsn, "select capture from recsys.change_status") == ("off",)
    assert "capture is on" in run("--dsn", own_dsn, "watch", "shop", "--on").err
    assert one(
        own_dsn, "select count(*) from recsys.audit_log where reason = 'bulk import'"
    ) == (1,)


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["watch", "nope"], "nope", "Hint: "),
        (["watch", "shop"], "watches nothing", '{ "public.product" = "id" }'),
        (["watch", "shop", "--off"], "no changes are captured", "recsys watch shop"),
        (["worker", "nope", "--drain"], "no model named 'nope'", "recsys train"),
        (["retry", "shop"], "no failed item", "item_failure"),
        (["retire", "shop", "1"], "serving", "Promote another"),
        (["retire", "shop", "9"], "no version 9", ""),
        (["keep", "nope"], "no model named 'nope'", ""),
        (["keep", "shop", "--versions", "-1"], "0 or more", ""),
    ],
)
def test_mistakes_are_told(
    run: Run, shop_dsn: str, toml: Path, arguments: list[str], said: str, hint: str
) -> None:
    result = run("--dsn", shop_dsn, "--config", toml, *arguments)

    assert (result.code, result.out) == (1, "")
    assert said in result.err
    assert hint in result.err


def test_bad_usage_ends_with_two(run: Run, shop_dsn: str) -> None:
    assert run("--dsn", shop_dsn, "keep", "shop", "--grace", "soon").code == 2
    assert run("--dsn", shop_dsn, "retire", "shop", "one").code == 2


def test_retry_queues_what_failed(run: Run, own_dsn: str) -> None:
    change(
        own_dsn,
        "insert into recsys.item_failure (model, number, item_id, error) values"
        " ('shop', 1, '5', 'x'), ('shop', 2, '5', 'x'), ('shop', 1, '6', 'x')",
    )

    assert "1 item is queued" in run("--dsn", own_dsn, "retry", "shop", "5").err
    assert "2 items are queued" in run("--dsn", own_dsn, "retry", "shop").err
    run("--dsn", own_dsn, "worker", "--drain")
    assert one(own_dsn, "select count(*) from recsys.item_failure") == (0,)


def test_retire_and_keep(run: Run, own_dsn: str) -> None:
    retired = run("--dsn", own_dsn, "retire", "shop", "2", "--reason", "old")

    assert "shop: version 2 is retired" in retired.err
    kept = run("--dsn", own_dsn, "keep", "shop", "--versions", "0", "--grace", "2h")
    assert kept.code == 0
    assert one(own_dsn, "select keep_versions, grace = '2h' from recsys.model") == (
        0,
        True,
    )
    assert "0" in run("--dsn", own_dsn, "keep", "shop").err


def test_status_shows_what_waits_and_what_failed(
    run: Run, own_dsn: str, watching: Path
) -> None:
    run("--dsn", own_dsn, "--config", watching, "watch", "shop")
    change(own_dsn, "update product set title = 'blue lamp' where id < 4")
    change(
        own_dsn,
        "insert into recsys.item_failure (model, number, item_id, error, retry_at)"
        " values ('shop', 1, '5', 'x', null)",
    )

    status = run("--dsn", own_dsn, "status")

    wide = [x for x in status.err.splitlines() if len(x) > 80]
    assert wide == []
    assert "shop: 3 changes wait" in status.err
    assert "captured by triggers" in status.err
    assert "no worker" in status.err
    assert "1 dead letter" in status.err
    with _db.connect(own_dsn) as conn:
        conn.execute(
            "insert into recsys.worker (id, host, pid)"
            " values (gen_random_uuid(), 'here', 1)"
        )
    assert "1 worker" in run("--dsn", own_dsn, "status").err
