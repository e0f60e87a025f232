"""The Table objects say what the database has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
import world
from sa_shop import url_of
from sqlalchemy import Connection, Table, create_engine, select
from sqlalchemy.dialects import postgresql

from recsys.sqlalchemy import functions, tables, views

ALL = [*views.metadata.tables.values(), *tables.metadata.tables.values()]
COLUMNS = """
select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       coalesce(a.attnum = any (i.indkey), false)
from pg_attribute as a
left join pg_index as i on i.indrelid = a.attrelid and i.indisprimary
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
FUNCTIONS = {
    "recommend": functions.recommend("shop", 1, k=3),
    "similar_items": functions.similar_items("shop", 1, k=3),
    "coverage": functions.coverage("shop", 1),
    "experiment_result_at": functions.experiment_result_at(
        "trial", datetime(2030, 1, 1, tzinfo=UTC)
    ),
    "experiment_health_at": functions.experiment_health_at(
        "trial", datetime(2030, 1, 1, tzinfo=UTC)
    ),
}


EXPERIMENT = """
insert into recsys.experiment (name, model, primary_metric)
values ('trial', 'shop', 'ctr');
insert into recsys.experiment_arm (experiment, arm, number, share, is_control)
values ('trial', 'a', 1, 50, true), ('trial', 'b', 1, 50, false);
insert into recsys.experiment_metric (experiment, metric, numerator, denominator)
values ('trial', 'ctr', 'clicks', 'impressions');
update recsys.experiment set state = 'running', started_at = now() - interval '1 day';
"""


@pytest.fixture(scope="module")
def analyst(server: str, sa_template: str) -> Iterator[Connection]:
    """A connection with the rights of an analyst, to a shop with an experiment."""
    with world.database(server, world.name_of(sa_template)) as dsn:
        with psycopg.connect(dsn) as conn:
            conn.execute(EXPERIMENT)
        made = create_engine(
            url_of(dsn), connect_args={"options": "-c role=recsys_analyst"}
        )
        with made.connect() as analyst:
            yield analyst
        made.dispose()


@pytest.mark.parametrize("table", ALL, ids=str)
def test_every_column_is_the_databases(sa_template: str, table: Table) -> None:
    dialect = postgresql.dialect()
    described = [
        (
            column.name,
            str(column.type.compile(dialect=dialect)).lower().replace(", ", ","),
            not column.nullable,
            column.primary_key,
        )
        for column in table.columns
    ]

    with psycopg.connect(sa_template) as conn:
        found = conn.execute(COLUMNS, (table.fullname,)).fetchall()

    assert described == found


def test_every_view_is_there(sa_template: str) -> None:
    with psycopg.connect(sa_template) as conn:
        found = conn.execute(
            "select relname from pg_class where relkind = 'v'"
            " and relnamespace = 'recsys'::regnamespace order by 1"
        ).fetchall()

    assert [name for (name,) in found] == sorted(
        table.name for table in views.metadata.tables.values()
    )
    assert set(views.__all__) == {name for (name,) in found} | {"metadata"}


@pytest.mark.parametrize("view", views.metadata.tables.values(), ids=str)
def test_an_analyst_reads_every_view(analyst: Connection, view: Table) -> None:
    rows = analyst.execute(select(view)).all()

    assert rows or view.name not in ("version_status", "switch_log", "rollout_status")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_analyst_calls_every_function(analyst: Connection, name: str) -> None:
    call = FUNCTIONS[name]

    with analyst.begin_nested():
        found = analyst.execute(select(*call.c))
        plain = analyst.exec_driver_sql(
            f"select * from recsys.{name}({ARGUMENTS[name]})"
        )

        assert list(found.keys()) == list(plain.keys())
        rows = found.all()
        assert rows
        assert rows == plain.all()


ARGUMENTS = {
    "recommend": "'shop', 1::bigint, 3",
    "similar_items": "'shop', 1::bigint, 3",
    "coverage": "'shop', 1",
    "experiment_result_at": "'trial', '2030-01-01 00:00+00'",
    "experiment_health_at": "'trial', '2030-01-01 00:00+00'",
}
