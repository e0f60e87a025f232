"""The impression log alone: its two ways of writing, and what can go wrong in each."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest

from recsys import _answer, _db, _writer, embedded, impressions
from recsys._writer import LogStats, Row, Writer
from recsys.errors import ConfigError
from recsys.impressions import Answer, ImpressionLog, NotLogged
from recsys.types import Recommendation


def answer(**given: object) -> Answer:
    items = [Recommendation(n, 1.0 / n) for n in range(1, 4)]
    return Answer(**{"request_id": uuid4(), "model": "shop", "k": 3, "version": 1,
                     "items": items, "unit": "7", "user_id": 7, **given})  # type: ignore[arg-type]  # fmt: skip


def stored(dsn: str, table: str = "impression", columns: str = "*") -> list[tuple]:
    with _db.connect(dsn) as conn:
        return conn.execute(f"select {columns} from recsys.{table}".encode()).fetchall()


@pytest.fixture
def background(dsn: str) -> Iterator[ImpressionLog]:
    yield ImpressionLog("background", dsn)
    _writer.writer(dsn).close()
    _writer._WRITERS.pop((os.getpid(), dsn), None)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Path]:
    """The folder of a server of this test's own, for stopping and starting."""
    yield tmp_path / "pgdata"
    embedded.stop(tmp_path / "pgdata")


# what is stored --------------------------------------------------------------------


def test_an_answer_is_stored_whole(dsn: str, background: ImpressionLog) -> None:
    given = answer(
        page_offset=20, experiment="blue", arm="b", took_ms=2.5, degraded="cached",
        context={"device": "phone", "n": 3}, occurred_at=datetime.now(UTC),
    )  # fmt: skip

    background.record(None, given)
    assert background.flush()

    with _db.connect(dsn) as conn:
        row = conn.execute("select * from recsys.impression").fetchone()
        items = conn.execute(
            "select position, item_id, score, channel from recsys.impression_item"
        ).fetchall()
    assert row == (
        given.request_id, "shop", 1, "7", "7", given.occurred_at, ["1", "2", "3"],
        [1.0, 0.5, pytest.approx(1 / 3)], ["two-tower"], 20, 3, "blue", "b",
        {"device": "phone", "n": 3}, 2.5, "cached", None,
    )  # fmt: skip
    assert [i[:2] for i in items] == [(21, "1"), (22, "2"), (23, "3")]
    assert {i[3] for i in items} == {"two-tower"}
    assert background.stats() == LogStats(1, 0, 0, 0)


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        ("a\0b", "a�b"),
        ("\ud800", "?"),
        ("🛸" * 2000, "🛸" * 1000),
        ("قميص 🍏", "قميص 🍏"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (2**70, str(2**70)),
        (Decimal("1.5"), "1.5"),
        (datetime(2026, 3, 1, tzinfo=UTC), "2026-03-01 00:00:00+00:00"),
        (object, "<class 'object'>"),
        (True, True),
        (None, None),
    ],
)
def test_any_context_can_be_stored(
    dsn: str, background: ImpressionLog, value: object, logged: object
) -> None:
    background.record(None, answer(context={"device": value}))

    assert background.flush()
    assert stored(dsn, columns="context") == [({"device": logged},)]


def test_a_value_that_cannot_be_shown_is_logged_by_its_type() -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no")

    text = json.loads(impressions.encode(answer(context={"x": Bad()})))

    assert text["context"] == {"x": "<Bad>"}


@pytest.mark.parametrize(
    "user", ["\u202eevil", "a\0b", "\udfff", "'; drop--", "", "🍏"]
)
def test_odd_user_ids_are_stored_as_postgres_can_hold_them(
    dsn: str, background: ImpressionLog, user: str
) -> None:
    background.record(None, answer(user_id=user, unit=user))

    assert background.flush()
    clean = user.replace("\0", "�").replace("\udfff", "?")
    assert stored(dsn, columns="user_id, unit") == [(clean, clean)]


def test_ids_of_every_type_are_text(dsn: str, background: ImpressionLog) -> None:
    ids = [2**62, "007A", UUID(int=7), 'q"\\,{}']
    background.record(None, answer(items=[Recommendation(i, 0.5) for i in ids]))

    assert background.flush()
    assert stored(dsn, columns="item_ids") == [([str(i) for i in ids],)]


def test_a_failed_answer_is_a_row_with_its_error(
    dsn: str, background: ImpressionLog
) -> None:
    background.record(None, answer(items=(), version=None, error="SourceError: x"))

    assert background.flush()
    assert stored(dsn, columns="version, error, channels") == [
        (None, "SourceError: x", [])
    ]


def test_clocks_that_are_wrong_end_in_the_default_partition(
    dsn: str, background: ImpressionLog
) -> None:
    now = datetime.now(UTC)
    for when in (now, now - timedelta(days=4000), now + timedelta(days=4000)):
        background.record(None, answer(occurred_at=when))

    assert background.flush()
    assert len(stored(dsn)) == 3
    assert len(stored(dsn, "impression_default")) == 2


# exposures -------------------------------------------------------------------------


def test_an_exposure_is_written_once_per_unit(
    dsn: str, background: ImpressionLog
) -> None:
    for _ in range(5):
        background.expose("blue", "7", "b")
        background.expose("blue", "8", "a")

    assert background.flush()
    assert sorted(stored(dsn, "exposure", "experiment, unit, arm")) == [
        ("blue", "7", "b"), ("blue", "8", "a"),
    ]  # fmt: skip
    assert background.stats().written == 0


def test_users_too_long_for_an_index_are_exposed_one_by_one(
    dsn: str, background: ImpressionLog
) -> None:
    users = [chr(0x20000 + 99 * n) * 400 + str(n % 2) for n in range(4)]
    for user in users:
        background.expose("blue", user, "b")
        background.record(None, answer(user_id=user, unit=user))

    assert background.flush()
    units = sorted(stored(dsn, "exposure", "unit"))
    assert len(units) == 4
    assert sorted(stored(dsn, columns="unit")) == units


def test_what_was_seen_is_bounded() -> None:
    seen = _writer.Seen(3)
    for n in range(5):
        seen.add(("x", str(n)))
    assert ("x", "2") in seen
    seen.add(("x", "9"))

    assert len(seen) == 3
    assert ("x", "2") in seen
    assert ("x", "3") not in seen


def test_a_dropped_exposure_is_tried_again(dsn: str) -> None:
    writer = Writer(dsn, limit=10)
    row = Row(None, '{"experiment":"blue","unit":"7","arm":"b"}', ("blue", "7"))

    assert not writer.put(row)

    assert writer.stats() == LogStats(0, 0, 0, 0, exposures_lost=1)
    assert ("blue", "7") not in writer.seen
    writer.close()


def test_an_experiment_without_logging_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = ImpressionLog()
    for _ in range(3):
        log.expose("blue", "7", "b")

    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "no impressions" in caplog.text


# in the application's transaction --------------------------------------------------


def test_a_row_lives_and_dies_with_the_transaction(dsn: str) -> None:
    log = ImpressionLog("transaction")
    with _db.connect(dsn) as conn:
        log.record(conn, answer(experiment="blue", arm="b"))
        conn.rollback()
        assert stored(dsn) == []
        log.record(conn, answer(experiment="blue", arm="b"))
        conn.commit()

    assert len(stored(dsn)) == 1
    # The first try was rolled back, so it must not have been remembered.
    assert len(stored(dsn, "exposure")) == 1
    assert log.stats() == LogStats(2, 0, 0, 0)


def test_a_refused_row_is_counted_and_said(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = ImpressionLog("transaction")
    with _db.connect(dsn, autocommit=True) as conn:
        conn.execute("set default_transaction_read_only = on")
        for _ in range(3):
            with pytest.raises(NotLogged, match="read-only"):
                log.record(conn, answer())
    with pytest.raises(NotLogged):
        log.record(conn, answer())
    with pytest.raises(NotLogged):
        log.record(None, answer())

    assert log.stats() == LogStats(0, 0, 5, 0)
    assert len(caplog.records) == 1
    assert "1 impressions were not logged" in caplog.text


@pytest.mark.alone
def test_a_request_does_not_wait_for_a_strangers_exposure(dsn: str) -> None:
    """And its answer is stored all the same; the stranger writes the exposure."""
    log = ImpressionLog("transaction")
    with _db.connect(dsn) as other, _db.connect(dsn) as conn:
        log.record(other, answer(experiment="blue", arm="b"))
        conn.execute("set statement_timeout = '5s'")
        start = time.perf_counter()
        log.record(conn, answer(experiment="blue", arm="b"))
        assert time.perf_counter() - start < 2

    assert len(stored(dsn)) == 2
    assert len(stored(dsn, "exposure")) == 1
    assert log.stats() == LogStats(2, 0, 0, 0, exposures_lost=1)


@pytest.mark.parametrize("mode", ["transaction", "background"])
def test_time_is_the_servers(
    dsn: str, mode: impressions.Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application server whose clock is two hours behind."""

    class Behind(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) - timedelta(hours=2)

    for module in (impressions, _writer, _answer):
        monkeypatch.setattr(module, "datetime", Behind)
    with _db.connect(dsn, autocommit=True) as conn:
        log = ImpressionLog(mode, dsn)
        before = conn.execute("select clock_timestamp()").fetchone()[0]
        log.expose("blue", "7", "b")
        log.record(conn, answer(experiment="blue", arm="b"))
        time.sleep(0.3)
        middle = conn.execute("select clock_timestamp()").fetchone()[0]
        time.sleep(0.8)
        log.record(conn, answer(experiment="blue", arm="b"))
        assert log.flush()
        after = conn.execute("select clock_timestamp()").fetchone()[0]

    (first,), (second,) = sorted(stored(dsn, columns="occurred_at"))
    ((exposed,),) = stored(dsn, "exposure", "first_at")
    # The writer knows the age of a row by its own clock: that of a queued one is off by
    # what the statement took to arrive.
    slack = timedelta(milliseconds=100)
    assert before - slack <= first <= middle < second <= after + slack
    assert before <= exposed <= middle


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="off, transaction, background"):
        ImpressionLog("yes")  # type: ignore[arg-type]


# in background ---------------------------------------------------------------------


def test_many_rows_are_written_in_few_batches(
    dsn: str, background: ImpressionLog
) -> None:
    for _ in range(1200):
        background.record(None, answer())

    assert background.flush(10)
    assert len(stored(dsn, columns="1")) == 1200
    with _db.connect(dsn) as conn:
        batches = conn.execute(
            "select count(distinct xmin::text) from recsys.impression"
        ).fetchone()
    assert batches[0] <= 10
    assert background.stats() == LogStats(1200, 0, 0, 0)


def test_a_row_is_written_soon_without_a_flush(
    dsn: str, background: ImpressionLog
) -> None:
    background.record(None, answer())

    until = time.monotonic() + 5
    while not stored(dsn) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(stored(dsn)) == 1


def test_one_bad_row_does_not_take_the_batch_with_it(dsn: str) -> None:
    writer = Writer(dsn)
    for n in range(5):
        good = impressions.encode(answer())
        writer.put(Row(good if n != 2 else good.replace('"k":3', '"k":"x"')))

    assert writer.flush()
    assert len(stored(dsn)) == 4
    assert writer.stats() == LogStats(4, 0, 1, 0)
    writer.close()


def test_a_row_too_big_for_an_index_stops_nothing(dsn: str) -> None:
    """What an index cannot hold is an OperationalError, but does not pass."""
    writer = Writer(dsn)
    noise = "".join(chr(0x20000 + 7919 * n % 40_000) for n in range(1000))
    for n in range(4):
        unit = noise if n == 1 else str(n)
        exposure = json.dumps({"experiment": "blue", "unit": unit, "arm": "b"})
        writer.put(Row(None, exposure, ("blue", unit)))
        writer.put(Row(impressions.encode(answer())))

    assert writer.flush(5)
    assert sorted(stored(dsn, "exposure", "unit")) == [("0",), ("2",), ("3",)]
    assert writer.stats() == LogStats(4, 0, 0, 0, exposures_lost=1)
    assert ("blue", noise) not in writer.seen
    writer.close()


@pytest.mark.parametrize(
    ("code", "tries"), [("disk_full", 4), ("check_violation", 3), ("XX000", 0)]
)
def test_a_batch_that_is_refused_again_and_again_is_given_up(
    dsn: str, monkeypatch: pytest.MonkeyPatch, code: str, tries: int
) -> None:
    """One row is refused for good; the rows after it are written."""
    monkeypatch.setattr(_writer, "_BACKOFF_S", (0.01,))
    monkeypatch.setattr(_writer, "_TRIES", 4)
    with _db.connect(dsn, autocommit=True) as conn:
        conn.execute("create sequence recsys.refused")
        conn.execute(
            "create function recsys.refuse() returns trigger language plpgsql as $$"
            "begin if new.unit = 'bad' then perform nextval('recsys.refused');"
            f" raise exception 'no' using errcode = '{code}'; end if;"
            " return new; end $$".encode()
        )
        conn.execute(
            "create trigger refuse before insert on recsys.impression"
            " for each row execute function recsys.refuse()"
        )
        writer = Writer(dsn)
        writer.put(Row(impressions.encode(answer(unit="bad"))))
        assert writer.flush(5)
        refused = conn.execute("select last_value from recsys.refused").fetchone()
    writer.put(Row(impressions.encode(answer())))
    assert writer.flush(5)

    assert refused == (tries + 1,)
    assert writer.stats() == LogStats(1, 0, 1, 0)
    writer.close()


def test_a_locked_exposure_waits_without_holding_up_others(dsn: str) -> None:
    writer = Writer(dsn)

    def put(unit: str) -> None:
        exposure = json.dumps({"experiment": "blue", "unit": unit, "arm": "b"})
        writer.put(Row(None, exposure, ("blue", unit)))
        writer.put(Row(impressions.encode(answer(unit=unit))))

    with _db.connect(dsn) as other:
        other.execute("insert into recsys.exposure values ('blue', '7', 'b')")
        for unit in ("6", "7", "8"):
            put(unit)
        time.sleep(2)
        assert len(stored(dsn)) == 3
        assert sorted(stored(dsn, "exposure", "unit")) == [("6",), ("8",)]
        other.rollback()

    assert writer.flush(5)
    assert len(stored(dsn, "exposure")) == 3
    assert writer.stats() == LogStats(3, 0, 0, 0)
    writer.close()


def test_a_batch_that_is_sent_twice_counts_once(db: _db.Connection) -> None:
    """A batch whose commit was in doubt keeps the times it was first sent with."""
    rows = [Row(impressions.encode(answer()), at=time.monotonic()) for _ in range(3)]
    writer = Writer(impressions.dsn_of(db))
    rows = writer._stamped(rows, iter(()))
    writer._disconnect()

    _writer.write(db, rows)
    _writer.write(db, rows)

    assert db.execute("select count(*) from recsys.impression").fetchone() == (3,)


@pytest.mark.alone
def test_a_full_queue_drops_the_newest_and_never_blocks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """100,000 answers while no server answers: bounded memory, no waiting."""
    writer = Writer("host=/nonexistent dbname=x", limit=2 << 20)
    tracemalloc.start()
    took = []
    begin = time.perf_counter()
    first = None
    for n in range(100_000):
        start = time.perf_counter()
        row = Row(f'{{"request_id":"{n}"}}' + "x" * 900)
        kept = writer.put(row)
        took.append(time.perf_counter() - start)
        if not kept and first is None:
            first = n
        assert start - begin < 30, "a request waits for the writer"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stats = writer.stats()

    assert first is not None
    assert stats.queued == first
    assert stats.dropped == 100_000 - first
    assert stats.queued * 900 < 2 << 20
    # "took" itself is the larger part of what was traced.
    assert peak < 16 << 20
    assert sorted(took)[len(took) // 2] < 0.001
    assert max(took) < 0.5
    start = time.perf_counter()
    writer.close(0.5)
    assert time.perf_counter() - start < 2
    assert writer.stats().dropped + writer.stats().failed == 100_000
    full = [r for r in caplog.records if "queue is full" in r.message]
    assert len(full) == 1


@pytest.mark.alone
def test_a_writer_that_hangs_does_not_hold_a_request(dsn: str) -> None:
    """Another session holds the table: rows queue up, then they are written."""
    writer = Writer(dsn)
    with _db.connect(dsn) as other:
        other.execute("lock table recsys.impression in access exclusive mode")
        start = time.perf_counter()
        for _ in range(1000):
            assert writer.put(Row(impressions.encode(answer())))
        assert time.perf_counter() - start < 1
        assert writer.stats().written == 0
        time.sleep(1)
        assert writer.stats().failed == 0

    assert writer.flush(20)
    assert writer.stats() == LogStats(1000, 0, 0, 0)
    writer.close()


def test_threads_share_one_writer(dsn: str, background: ImpressionLog) -> None:
    def work() -> None:
        for _ in range(200):
            background.record(None, answer())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert background.flush(10)
    # A thread that cannot have the queue in time drops its row, and says so.
    dropped = _writer.writer(dsn).stats().dropped
    assert len(stored(dsn, columns="1")) == 1600 - dropped
    assert dropped < 20
    assert [t.name for t in threading.enumerate()].count("recsys-log") >= 1
    assert _writer.writer(dsn) is _writer.writer(dsn)


@pytest.mark.alone
def test_a_process_that_cannot_start_threads_still_answers(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    writer = Writer(dsn, limit=5000)
    for _ in range(100):
        writer.put(Row(impressions.encode(answer())))

    assert 0 < writer.stats().queued < 10
    assert writer.stats().dropped == 100 - writer.stats().queued
    start = time.perf_counter()
    writer.close()
    assert time.perf_counter() - start < 2.5


_CHILDREN = """
    import os, sys
    sys.path.insert(0, {tests!r})
    from uuid import uuid4
    from recsys.impressions import Answer, ImpressionLog
    log = ImpressionLog("background", sys.argv[1])
    def say(n):
        for _ in range(n):
            log.record(None, Answer(uuid4(), "shop", 3, unit=str(os.getpid())))
    say(10)
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            say(20)
            {end}
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
"""


@pytest.mark.parametrize(
    "end", ["sys.exit(0)", "log.flush(); os._exit(0)"], ids=["exit", "flush"]
)
def test_every_child_of_a_fork_writes_its_own_rows_once(dsn: str, end: str) -> None:
    """As under gunicorn with preload_app: the parent has logged before it forks."""
    code = textwrap.dedent(_CHILDREN).format(tests=str(Path(__file__).parent), end=end)

    subprocess.run([sys.executable, "-c", code, dsn], check=True, timeout=60)

    units = [row[0] for row in stored(dsn, columns="unit")]
    assert len(units) == 70
    assert sorted(map(units.count, set(units))) == [10, 20, 20, 20]


def test_a_restart_of_the_server_loses_nothing_that_was_queued(
    stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from recsys import schema

    dsn = embedded.start(stopped)
    schema.upgrade(dsn)
    writer = Writer(dsn)
    writer.put(Row(impressions.encode(answer())))
    assert writer.flush()
    embedded.stop(stopped)
    for _ in range(700):
        assert writer.put(Row(impressions.encode(answer())))
    time.sleep(1.5)
    assert writer.stats() == LogStats(1, 0, 0, 700)
    embedded.start(stopped)

    assert writer.flush(30)
    assert len(stored(dsn, columns="1")) == 701
    assert writer.stats() == LogStats(701, 0, 0, 0)
    writer.close()
    assert caplog.records == [] or all(
        r.levelno <= logging.WARNING for r in caplog.records
    )


@pytest.fixture
def full_disk(dsn: str) -> Iterator[_db.Connection]:
    """Every insert fails as on a full disk, until the trigger is dropped."""
    with _db.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "create function recsys.full() returns trigger language plpgsql as $$"
            "begin raise exception 'could not extend file: No space left on device'"
            " using errcode = 'disk_full'; end $$"
        )
        conn.execute(
            "create trigger full_disk before insert on recsys.impression"
            " for each row execute function recsys.full()"
        )
        yield conn


def test_a_full_disk_costs_no_answer_and_the_queue_waits(
    dsn: str, full_disk: _db.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    log = ImpressionLog("transaction")
    with pytest.raises(NotLogged, match="No space left"):
        log.record(full_disk, answer())
    writer = Writer(dsn)
    for _ in range(10):
        assert writer.put(Row(impressions.encode(answer())))
    time.sleep(1)
    assert writer.stats() == LogStats(0, 0, 0, 10)

    full_disk.execute("drop trigger full_disk on recsys.impression")

    assert writer.flush(10)
    assert writer.stats() == LogStats(10, 0, 0, 0)
    writer.close()


def test_a_role_that_may_not_insert_is_said_and_counted(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    import world

    writer = Writer(world.as_role(dsn, "recsys_analyst"))
    for _ in range(10):
        writer.put(Row(impressions.encode(answer())))

    assert writer.flush()
    assert writer.stats() == LogStats(0, 0, 10, 0)
    assert "permission denied" in caplog.text
    writer.close()


# the value of an outcome -----------------------------------------------------------


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), True, "12", 10**15, Decimal("NaN"), object()]
)
def test_a_value_that_is_no_price_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="finite number"):
        impressions.check_value(value)


@pytest.mark.parametrize("value", [Decimal("1e-20000"), Decimal("1e-1001")])
def test_a_value_with_endless_places_is_refused(value: Decimal) -> None:
    with pytest.raises(ConfigError, match="1000 decimal places"):
        impressions.check_value(value)


def test_values_at_the_edge_can_be_stored(db: _db.Connection) -> None:
    for value in (5e-324, Decimal("1e-1000"), Decimal("0e99999"), 10**15 - 1):
        db.execute("select %s::numeric", (impressions.check_value(value),))
    with pytest.raises(ConfigError):
        impressions.check_value(10**5000)


@pytest.mark.parametrize(
    ("value", "kept"),
    [(None, None), (0.1, "0.1"), (-3, "-3"), (Decimal("9.99"), "9.99")],
)
def test_a_value_keeps_its_digits(value: float | Decimal | None, kept: str) -> None:
    found = impressions.check_value(value)

    assert found == (None if kept is None else Decimal(kept))
