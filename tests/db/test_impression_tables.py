"""Partitions, retention and privileges of the impressions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
import world
from psycopg import errors as pg
from psycopg import sql

from recsys import _db, doctor, impressions
from recsys._db import Connection
from recsys.errors import ConfigError
from recsys.settings import Settings


def today() -> date:
    """Return the day; midnight may pass while the tests run."""
    return datetime.now(UTC).date()


def partitions(conn: Connection, table: str = "impression") -> list[date]:
    rows = conn.execute(
        "select right(c.relname, 8) from pg_inherits as i join pg_class as c"
        " on c.oid = i.inhrelid where i.inhparent = %s::regclass"
        " and c.relname !~ 'default' order by 1",
        (f"recsys.{table}",),
    ).fetchall()
    return [datetime.strptime(row[0], "%Y%m%d").replace(tzinfo=UTC).date()
            for row in rows]  # fmt: skip


def put(conn: Connection, when: object, model: str = "shop", many: int = 1) -> None:
    conn.execute(
        "insert into recsys.impression (request_id, model, k, occurred_at)"
        " select gen_random_uuid(), %s, 5, %s from generate_series(1, %s)",
        (model, when, many),
    )
    conn.execute(
        "insert into recsys.outcome (model, item_id, kind, occurred_at)"
        " values (%s, '1', 'view', %s)",
        (model, when),
    )


def count(conn: Connection, table: str = "impression") -> int:
    return conn.execute(f"select count(*) from recsys.{table}".encode()).fetchone()[0]


def drop_days(conn: Connection) -> None:
    """As if no worker had run for long."""
    for table in ("impression", "outcome"):
        for day in partitions(conn, table):
            conn.execute(f"drop table recsys.{table}_{day:%Y%m%d}".encode())


def add_model(conn: Connection, name: str, keep: str | None = None) -> None:
    conn.execute(
        "insert into recsys.model (name, item_type, user_type)"
        " values (%s, 'bigint', 'bigint')",
        (name,),
    )
    if keep:
        conn.execute("insert into recsys.retention values (%s, %s)", (name, keep))


# partitions ------------------------------------------------------------------------


def test_upgrade_makes_the_first_days(db: Connection) -> None:
    days = [today() + timedelta(n) for n in range(4)]

    # The template may be of yesterday when the clock passes midnight.
    assert set(days[:3]) <= set(partitions(db))
    assert partitions(db, "outcome") == partitions(db)


def test_partitions_are_made_once(db: Connection) -> None:
    drop_days(db)

    assert impressions.maintain(db).startswith("8 partitions made")
    assert impressions.maintain(db).startswith("0 partitions made")
    put(db, datetime.now(UTC))
    assert count(db, "impression_default") == 0
    assert count(db, f"impression_{today():%Y%m%d}") == 1


@pytest.mark.parametrize("ahead", [-1, 61])
def test_days_ahead_are_bounded(db: Connection, ahead: int) -> None:
    with pytest.raises(pg.InvalidParameterValue):
        db.execute("select recsys._make_partitions(%s)", (ahead,))


def test_rows_of_the_default_partition_move_with_their_day(db: Connection) -> None:
    drop_days(db)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    put(db, datetime.now(UTC), many=30)
    put(db, tomorrow, many=7)
    assert count(db, "impression_default") == 37

    impressions.maintain(db)

    assert count(db, "impression_default") == 0
    assert count(db, f"impression_{today():%Y%m%d}") == 30
    assert count(db) == 37


def test_a_day_with_too_many_rows_stays_and_holds_up_no_other(db: Connection) -> None:
    drop_days(db)
    put(db, datetime.now(UTC), many=100_001)

    report = impressions.maintain(db)

    assert report.startswith("7 partitions made")
    assert partitions(db)[0] == today() + timedelta(1)
    assert count(db, "impression_default") == 100_001


def test_two_at_once_make_each_partition_once(dsn: str) -> None:
    with _db.connect(dsn) as conn:
        drop_days(conn)
    reports: list[str] = []

    def work() -> None:
        with _db.connect(dsn) as conn:
            reports.append(impressions.maintain(conn))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(int(report.split()[0]) for report in reports) == 8
    with _db.connect(dsn) as conn:
        assert len(partitions(conn)) == 4


def test_a_reader_of_the_default_partition_only_delays_the_making(dsn: str) -> None:
    with _db.connect(dsn) as conn:
        drop_days(conn)
    with _db.connect(dsn) as reader, _db.connect(dsn) as conn:
        reader.execute("select count(*) from recsys.impression")
        assert impressions.maintain(conn).startswith("4 partitions made")
        conn.commit()
        reader.rollback()
        assert impressions.maintain(conn).startswith("4 partitions made")


def test_requests_go_on_writing_while_days_come_and_go(dsn: str) -> None:
    """No insert fails, and none is lost."""
    stop = threading.Event()
    written, slow = [0, 0], [0.0, 0.0]

    def write(place: int) -> None:
        with _db.connect(dsn, autocommit=True) as conn:
            while not stop.is_set():
                start = time.perf_counter()
                put(conn, datetime.now(UTC))
                written[place] += 1
                slow[place] = max(slow[place], time.perf_counter() - start)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    with _db.connect(dsn, autocommit=True) as conn:
        for n in range(12):
            old_day(conn, 200 + n)
            impressions.maintain(conn)
            conn.execute("select recsys._make_partitions(%s)", (4 + n,))
        stop.set()
        for thread in threads:
            thread.join()
        old = [day for day in partitions(conn) if day < today() - timedelta(91)]
        rows = count(conn)

    assert rows == sum(written) > 0
    assert old == []
    assert max(slow) < 5


# retention -------------------------------------------------------------------------


def old_day(conn: Connection, days: int) -> date:
    """Make the partition of a day gone by, with a row in it."""
    day = today() - timedelta(days)
    for table in ("impression", "outcome"):
        conn.execute(
            f"create table recsys.{table}_{day:%Y%m%d} partition of recsys.{table}"
            f" for values from ('{day} 00:00+00') to ('{day + timedelta(1)} 00:00+00')"
            .encode()
        )  # fmt: skip
        conn.execute(
            f"alter table recsys.{table}_{day:%Y%m%d} owner to recsys_trainer".encode()
        )
    return day


def test_days_are_kept_for_ninety_days(db: Connection) -> None:
    add_model(db, "shop")
    kept, gone = old_day(db, 89), old_day(db, 92)
    for day in (kept, gone):
        put(db, datetime(day.year, day.month, day.day, 12, tzinfo=UTC))

    report = impressions.maintain(db)

    assert "2 dropped" in report
    assert kept in partitions(db)
    assert gone not in partitions(db)
    assert (count(db), count(db, "outcome")) == (1, 1)


def test_a_day_stays_for_the_model_that_keeps_longest(db: Connection) -> None:
    add_model(db, "short", "10 days")
    add_model(db, "long", "1 year")
    day = old_day(db, 100)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    for model in ("short", "long"):
        put(db, noon, model)
        put(db, datetime.now(UTC), model)

    report = impressions.maintain(db)

    assert report.endswith("0 dropped, 2 rows deleted")
    assert day in partitions(db)
    models = db.execute(
        "select model, count(*) from recsys.impression group by 1 order by 1"
    ).fetchall()
    assert models == [("long", 2), ("short", 1)]


def test_rows_of_wrong_clocks_are_forgotten_too(db: Connection) -> None:
    now = datetime.now(UTC)
    for days in (-4000, 4000, 30):
        put(db, now + timedelta(days=days))

    impressions.maintain(db)

    assert count(db, "impression_default") == 1


def test_a_reader_puts_off_the_drop_but_nobody_waits_for_it(dsn: str) -> None:
    with _db.connect(dsn) as conn:
        old_day(conn, 100)
    with _db.connect(dsn) as reader, _db.connect(dsn, autocommit=True) as conn:
        reader.execute("select count(*) from recsys.impression")
        start = time.perf_counter()
        assert "0 dropped" in impressions.maintain(conn)
        assert time.perf_counter() - start < 2
        reader.rollback()
        assert "2 dropped" in impressions.maintain(conn)


def test_writers_go_on_between_two_drops(dsn: str) -> None:
    """A year nobody dropped: no transaction holds the parent for more than one day."""
    with _db.connect(dsn, autocommit=True) as conn:
        for days in range(100, 104):
            old_day(conn, days)
        conn.execute("create table seen (at xid8)")
        conn.execute(
            "create function seen() returns event_trigger language plpgsql as"
            " 'begin insert into public.seen values (pg_current_xact_id()); end'"
        )
        conn.execute("create event trigger seen on sql_drop execute function seen()")
        conn.execute("grant insert on seen to public")
        assert "8 dropped" in impressions.maintain(conn)
        drops = conn.execute("select count(*), count(distinct at) from seen").fetchone()
        conn.execute("drop event trigger seen")

    assert drops == (8, 8)


def test_a_partition_of_another_owner_holds_up_no_other(db: Connection) -> None:
    strange, ours = old_day(db, 120), old_day(db, 110)
    db.execute(f"alter table recsys.impression_{strange:%Y%m%d} owner to current_user"
               .encode())  # fmt: skip

    assert "3 dropped" in impressions.maintain(db)
    assert strange in partitions(db)
    assert ours not in partitions(db)


@pytest.mark.parametrize("keep", ["1 hour", "-3 days", None])
def test_less_than_a_day_is_refused(db: Connection, keep: str | None) -> None:
    with pytest.raises(pg.InvalidParameterValue):
        db.execute("select recsys._drop_old_partitions(%s)", (keep,))


def test_a_retention_of_hours_is_refused(db: Connection) -> None:
    add_model(db, "shop")
    with pytest.raises(pg.CheckViolation):
        db.execute("insert into recsys.retention values ('shop', '3 hours')")


def test_a_partition_of_the_name_that_is_none_is_left_alone(db: Connection) -> None:
    drop_days(db)
    db.execute(f"create table recsys.impression_{today():%Y%m%d} (x integer)".encode())

    assert impressions.maintain(db).startswith("7 partitions made")


# privileges ------------------------------------------------------------------------


def test_who_may_do_what(dsn: str) -> None:
    denied = pg.InsufficientPrivilege
    values = (uuid4(), "shop", 5)
    insert = "insert into recsys.impression (request_id, model, k) values (%s, %s, %s)"
    with _db.connect(world.as_role(dsn, "recsys_app"), autocommit=True) as app:
        app.execute(insert, values)
        for statement in (
            "select * from recsys.impression",
            "delete from recsys.impression",
            "select * from recsys.outcome",
            "select * from recsys.version_outcome",
            "select recsys._make_partitions()",
            "select recsys._drop_old_partitions('1 day')",
            "insert into recsys.guardrail values ('shop', 'ctr')",
            f"insert into recsys.impression_default values ('{uuid4()}')",
        ):
            with pytest.raises(denied):
                app.execute(statement.encode())
    with _db.connect(world.as_role(dsn, "recsys_analyst"), autocommit=True) as analyst:
        analyst.execute("select * from recsys.version_outcome")
        analyst.execute("select * from recsys.impression_item")
        for statement in (
            "select * from recsys.impression",
            "select recsys._drop_old_partitions('1 day')",
        ):
            with pytest.raises(denied):
                analyst.execute(statement.encode())


def test_a_trainer_maintains_and_the_partitions_have_one_owner(
    dsn: str, role: str
) -> None:
    with _db.connect(dsn) as conn:
        drop_days(conn)
        old_day(conn, 100)
        conn.execute("select recsys._grant_core()")
        conn.execute(sql.SQL("grant recsys_trainer to {}").format(sql.Identifier(role)))
    with _db.connect(world.as_role(dsn, role), autocommit=True) as conn:
        assert impressions.maintain(conn) == (
            "8 partitions made, 2 dropped, 0 rows deleted"
        )
    with _db.connect(dsn) as conn:
        impressions.maintain(conn)
        conn.execute("select recsys._make_partitions(5)")
        owners = conn.execute(
            "select distinct relowner::regrole::text from pg_class"
            " where relnamespace = 'recsys'::regnamespace"
            " and relkind in ('r', 'p') and relname ~ '^(impression|outcome)'"
        ).fetchall()

    assert owners == [("recsys_trainer",)]


@pytest.fixture
def role(server: str) -> Iterator[str]:
    """A login role of this test's own."""
    name = f"recsys_test_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
        yield name
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_a_trainer_puts_no_trigger_on_guardrails(dsn: str) -> None:
    with _db.connect(world.as_role(dsn, "recsys_trainer"), autocommit=True) as conn:
        conn.execute(
            "create function recsys.own() returns trigger language plpgsql"
            " as 'begin return new; end'"
        )
        for table in ("guardrail", "retention"):
            with pytest.raises(pg.InsufficientPrivilege):
                conn.execute(
                    f"create trigger own before insert on recsys.{table}"
                    " for each row execute function recsys.own()".encode()
                )


def test_a_reader_without_rights_gets_our_error_class(dsn: str) -> None:
    with (
        _db.connect(world.as_role(dsn, "recsys_app")) as conn,
        pytest.raises((psycopg.Error, ConfigError)),
    ):
        impressions.maintain(conn)


# doctor ----------------------------------------------------------------------------


def warned(dsn: str) -> list[str]:
    findings = doctor.examine(Settings(dsn=dsn))
    return [f.detail for f in findings if f.check == "impressions"]


def test_doctor_says_when_nobody_makes_the_days(dsn: str) -> None:
    with _db.connect(dsn, autocommit=True) as conn:
        assert warned(dsn) == []
        put(conn, datetime.now(UTC))
        assert warned(dsn) == []
        put(conn, datetime.now(UTC) + timedelta(days=50))
        assert warned(dsn) == ["1 row in no day's partition"]
        drop_days(conn)
        put(conn, datetime.now(UTC))
        assert warned(dsn) == ["logged, but no partition for tomorrow"]
        impressions.maintain(conn)
        assert warned(dsn) == ["1 row in no day's partition"]
