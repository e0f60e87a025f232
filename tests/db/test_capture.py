"""Change capture: which columns count, what is queued, and that nobody feels it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from recsys import _db, capture, capture_check
from recsys.capture import WatchReport, inspect, watch
from recsys.config import ModelConfig, from_mapping
from recsys.errors import ConfigError, SourceError, UnknownModel, VersionStateError


def config(
    source: str, watched: Mapping[str, str] | None = None, name: str = "shop"
) -> ModelConfig:
    items = {"sql": source, "watch": dict(watched or {})}
    raw = {"items": items, "interactions": {"sql": "select 1"}}
    return from_mapping({"model": {name: raw}}).model(name)


PRODUCT = config("select id as item_id, title from product", {"product": "id"})


@pytest.fixture
def app(dsn: str) -> Iterator[_db.Connection]:
    """The application: three products, and a model without versions."""
    with _db.connect(dsn, autocommit=True) as conn:
        conn.execute(
            """
            create table product (
                id bigint primary key, title text, price numeric, stock integer);
            insert into product values
                (1, 'red shirt', 10, 5), (2, 'lamp', 20, 5), (3, 'mug', 5, 5);
            insert into recsys.model (name, item_type, user_type)
            values ('shop', 'bigint', 'bigint'), ('shop__b', 'bigint', 'bigint');
            """
        )
        yield conn


@pytest.fixture
def role(app: _db.Connection) -> Iterator[sql.Identifier]:
    """A login role of this test's own, in no group."""
    name = sql.Identifier(f"recsys_test_{uuid4().hex[:12]}")
    app.execute(sql.SQL("create role {} login").format(name))
    yield name
    app.execute(sql.SQL("drop owned by {0} cascade; drop role {0}").format(name))


def acting_as(conn: _db.Connection, role: sql.Identifier) -> _db.Connection:
    other = _db.connect(conn.info.dsn, autocommit=True)
    other.execute(sql.SQL("set role {}").format(role))
    return other


def installed(conn: _db.Connection, model: ModelConfig = PRODUCT) -> WatchReport:
    with conn.transaction():
        return watch(conn, model)


def queued(conn: _db.Connection, model: str = "shop") -> list[str | None]:
    """Take the queue of a model: the item ids, sorted; None is "everything"."""
    rows = conn.execute(
        "delete from recsys.item_change where model = %s returning item_id, bucket,"
        " recsys._item_bucket(item_id)",
        (model,),
    ).fetchall()
    assert all(bucket == (own or 0) for _, bucket, own in rows)
    return sorted((i for i, _, _ in rows), key=lambda i: (i is not None, i))


def captured(report: WatchReport) -> dict[str, list[str]]:
    return {t.table: sorted(t.columns) for t in report.tables}


@contextmanager
def warnings(conn: _db.Connection) -> Iterator[list[str]]:
    """What the server says, severity and text."""
    said: list[str] = []

    def hear(diag: psycopg.errors.Diagnostic) -> None:
        said.append(f"{diag.severity}: {diag.message_primary}")

    conn.add_notice_handler(hear)
    yield said
    conn.remove_notice_handler(hear)


# which columns are used -------------------------------------------------------------


def test_only_the_columns_of_the_source_are_used(app: _db.Connection) -> None:
    report = inspect(app, PRODUCT)

    assert captured(report) == {"public.product": ["id", "title"]}
    assert [*report.unwatched, *report.notes] == []


@pytest.mark.parametrize(
    ("source", "columns"),
    [
        ("select id as item_id, title from product where stock > 0",
         ["id", "stock", "title"]),
        ("select id as item_id, upper(title) as title from product order by price",
         ["id", "price", "title"]),
        ("select p.id as item_id, to_jsonb(p) as j from product p",
         ["id", "price", "stock", "title"]),
        ("select p.id as item_id, (p).title from product p", ["id", "title"]),
        ("select id as item_id, title from listed", ["id", "price", "title"]),
        ("with a as (select * from product) select id as item_id, title from a",
         ["id", "price", "stock", "title"]),
        ("select id as item_id, (select max(stock) from product) as m from product",
         ["id", "stock"]),
        ("select id as item_id, 'a.*' as t from product -- ends in a comment",
         ["id"]),
        ("select 1 as item_id, count(*) as n from product", []),
    ],
    ids=["where", "order", "row", "field", "view", "with", "subquery", "text", "count"],
)  # fmt: skip
def test_the_used_columns_of_a_query(
    app: _db.Connection, source: str, columns: list[str]
) -> None:
    app.execute(
        "create view cheap as select id, title, price from product where price < 50;"
        "create view listed as select id, title from cheap"
    )

    found = captured(inspect(app, config(source, {"product": "id"})))

    extra = {"price", "stock", "title"} if "a.*" in source else set[str]()
    assert set(found["public.product"]) - extra == set(columns)


def test_joined_tables_are_found_and_the_unwatched_ones_named(
    app: _db.Connection,
) -> None:
    app.execute(
        "alter table product add column brand_id int;"
        "create table brand (id int primary key, name text, country text)"
    )
    source = (
        "select p.id as item_id, p.title, b.name from product p"
        " left join brand b on b.id = p.brand_id"
    )
    mapping = {
        "product": "id",
        "brand": "select p.id from product p join changed c on p.brand_id = c.id",
    }

    alone = inspect(app, config(source, {"product": "id"}))
    both = inspect(app, config(source, mapping))

    assert list(alone.unwatched) == ["public.brand"]
    assert "changes there are not captured" in alone.notes[0]
    assert captured(both) == {
        "public.brand": ["id", "name"],
        "public.product": ["brand_id", "id", "title"],
    }
    assert [*both.unwatched, *both.notes] == []


@pytest.mark.parametrize("through_a_view", [False, True])
def test_functions_that_read_are_noted(
    app: _db.Connection, through_a_view: bool
) -> None:
    app.execute(
        "create function stock_of(bigint) returns int stable language sql"
        " return (select stock from product where id = $1);"
        "create function twice(int) returns int immutable language sql return 2 * $1;"
        "create view stocked as select id, stock_of(id) as stock from product"
    )
    own = "select id as item_id, twice(stock_of(id)) as s from product"
    view = "select id as item_id, stock from stocked"

    notes = inspect(app, config(view if through_a_view else own, {"product": "id"}))

    assert list(notes.notes) == [
        "the item source calls stock_of(): what it reads is not captured"
    ]


def test_names_are_quoted_as_the_database_has_them(app: _db.Connection) -> None:
    app.execute(
        'create schema "Mein Laden";'
        'create table "Mein Laden"."Artikel ""neu""" ('
        '"Artikel Nr" int, "Id" bigint primary key, "Ünïted" text, "select" text)'
    )
    source = (
        'select "Id" as item_id, "Ünïted" as title, "select" from'
        ' "Mein Laden"."Artikel ""neu"""'
    )
    table = '"Mein Laden"."Artikel ""neu"""'

    report = installed(app, config(source, {table: "Id"}))

    assert captured(report) == {table: ["Id", "select", "Ünïted"]}
    app.execute(f"insert into {table} values (1, 7, 'a', 'b')".encode())
    assert queued(app) == ["7"]
    app.execute(f'update {table} set "Artikel Nr" = 2'.encode())
    assert queued(app) == []
    app.execute(f"update {table} set \"select\" = 'c'".encode())
    assert queued(app) == ["7"]


def test_a_name_is_found_on_the_search_path(app: _db.Connection) -> None:
    app.execute(
        "create schema shop; create table shop.ware (id bigint, title text);"
        "set search_path = shop, public"
    )
    source = "select id as item_id, title from ware"

    report = installed(app, config(source, {"ware": "id"}))

    assert captured(report) == {"shop.ware": ["id", "title"]}
    with psycopg.connect(app.info.dsn, autocommit=True) as other:
        other.execute("insert into shop.ware values (1, 'a')")
    assert queued(app) == ["1"]


# what is queued ---------------------------------------------------------------------


def test_only_keys_and_only_when_a_used_column_changed(app: _db.Connection) -> None:
    installed(app)

    app.execute("insert into product values (4, 'chair', 1, 1), (5, 'desk', 1, 1)")
    assert queued(app) == ["4", "5"]
    app.execute("update product set stock = stock - 1, price = price * 2")
    app.execute("update product set title = title")
    app.execute("update product set title = 'x' where id = 99")
    assert queued(app) == []
    app.execute("update product set title = 'sofa' where id = 4")
    assert queued(app) == ["4"]
    app.execute("update product set title = null where id = 4")
    app.execute("update product set title = null where id = 4")
    assert queued(app) == ["4"]
    app.execute("delete from product where id in (4, 5)")
    assert queued(app) == ["4", "5"]
    columns = app.execute(
        "select attname from pg_attribute where attnum > 0 and not attisdropped"
        " and attrelid = 'recsys.item_change'::regclass"
    ).fetchall()
    assert {c for (c,) in columns} == {
        "id", "model", "bucket", "item_id", "changed_at"
    }  # fmt: skip


def test_a_changed_key_queues_the_old_and_the_new_item(app: _db.Connection) -> None:
    installed(app)

    app.execute("update product set id = 40 where id = 1")
    assert queued(app) == ["1", "40"]
    app.execute("update product set id = id + 100")
    assert queued(app) == ["102", "103", "140", "2", "3", "40"]


def test_swapped_rows_are_changes(app: _db.Connection) -> None:
    """Two items exchange their values: the multiset of rows is another one."""
    installed(app)

    app.execute(
        "update product set title = case id when 1 then 'lamp' else 'red shirt' end"
        " where id in (1, 2)"
    )

    assert queued(app) == ["1", "2"]


def test_upsert_and_merge_queue_what_they_did(app: _db.Connection) -> None:
    installed(app)
    upsert = (
        "insert into product values (1, 'new', 1, 1), (9, 'other', 1, 1)"
        " on conflict (id) do "
    )

    app.execute(f"{upsert} nothing".encode())
    assert queued(app) == ["9"]
    app.execute(f"{upsert} update set title = excluded.title".encode())
    assert queued(app) == ["1"]
    app.execute(
        "merge into product p using (values (1, 'v'), (2, 'lamp'), (3, null),"
        " (10, 'n')) as s(id, title) on p.id = s.id"
        " when matched and s.title is null then delete"
        " when matched then update set title = s.title"
        " when not matched then insert values (s.id, s.title, 0, 0)"
    )
    assert queued(app) == ["1", "10", "3"]


def test_copy_cascades_views_and_truncate(app: _db.Connection) -> None:
    app.execute(
        "create table seller (id int primary key); insert into seller values (1);"
        "alter table product add seller_id int references seller on delete cascade;"
        "update product set seller_id = 1 where id = 2;"
        "create view editable as select id, title from product"
    )
    installed(app)

    with app.cursor().copy("copy product (id, title) from stdin") as copy:
        for n in (7, 8):
            copy.write_row((n, "copied"))
    assert queued(app) == ["7", "8"]
    app.execute("delete from seller")
    assert queued(app) == ["2"]
    app.execute("update editable set title = 'seen' where id = 7")
    assert queued(app) == ["7"]
    app.execute("truncate product")
    assert queued(app) == [None]


def test_what_is_rolled_back_is_not_queued(app: _db.Connection) -> None:
    installed(app)

    with app.transaction():
        app.execute("update product set title = 'kept' where id = 1")
        with app.transaction(force_rollback=True):
            app.execute("update product set title = 'undone' where id = 2")
    with app.transaction(force_rollback=True):
        app.execute("delete from product")

    assert queued(app) == ["1"]


def case_insensitive(conn: _db.Connection) -> str:
    """Make text_ci, for which 'a' equals 'A', with whatever this server has."""
    if conn.execute(
        "select from pg_available_extensions where name = 'citext'"
    ).fetchone():
        return "create extension citext; create domain text_ci as citext"
    if conn.execute("select from pg_collation where collprovider = 'i'").fetchone():
        return (
            "create collation ci (provider = icu, locale = 'und-u-ks-level2',"
            " deterministic = false); create domain text_ci as text collate ci"
        )
    return "create domain text_ci as text"


def test_types_whose_equality_hides_a_change(app: _db.Connection) -> None:
    app.execute(
        f"{case_insensitive(app)};"
        "create domain name_ci as text_ci;"
        "create domain amount as numeric;"
        "create table ware (id bigint, name text_ci, other name_ci, doc json,"
        " docs jsonb, tags text[], place point, cost amount, code bpchar(5));"
        """insert into ware values (1, 'a', 'a', '{"a": 1}', '{"a": 1}', '{x}',"""
        """ '(1,1)', 1, 'a')"""
    )
    report = installed(
        app, config("select w.id as item_id, w.* from ware w", {"ware": "id"})
    )
    assert dict(report.tables[0].columns)["cost"] == "numeric"

    for change in (
        "name = 'A'",
        "other = 'A'",
        "doc = '{\"a\":1}'",
        "docs = '{\"a\": 2}'",
        "tags = '{X}'",
        "place = '(1,2)'",
        "cost = 2",
        "code = 'b'",
    ):
        app.execute(f"update ware set {change}".encode())
        assert queued(app) == ["1"], change
        app.execute(f"update ware set {change}".encode())
        assert queued(app) == [], change


def test_a_generated_column_changes_with_its_base(app: _db.Connection) -> None:
    number = app.info.server_version
    virtual = ", v text generated always as (lower(title)) virtual"
    app.execute(
        "create table ware (id bigint, title text,"
        " s text generated always as (upper(title)) stored"
        f"{virtual if number >= 180000 else ''})".encode()
    )
    app.execute("insert into ware values (1, 'a')")
    for column in ("s", "v") if number >= 180000 else ("s",):
        installed(
            app, config(f"select id as item_id, {column} from ware", {"ware": "id"})
        )

        app.execute("update ware set title = title || 'x'")

        assert queued(app) == ["1"], column


def test_a_partitioned_table_is_captured_by_row(app: _db.Connection) -> None:
    app.execute(
        "create table ware (id bigint, region text, title text, stock int)"
        " partition by list (region);"
        "create table ware_de partition of ware for values in ('de')"
    )
    source = "select id as item_id, title from ware"
    report = installed(app, config(source, {"ware": "id"}))
    assert report.tables[0].by_row
    assert "partitioned" in report.notes[0]
    app.execute("create table ware_fr partition of ware for values in ('fr')")

    app.execute("insert into ware values (1, 'de', 'a', 0), (2, 'fr', 'b', 0)")
    assert queued(app) == ["1", "2"]
    app.execute("update ware_fr set title = 'c'")
    app.execute("update ware set stock = 9")
    assert set(queued(app)) == {"2"}
    app.execute("update ware set region = 'fr' where id = 1")
    assert set(queued(app)) == {"1"}
    app.execute("update ware set id = 11 where id = 1")
    assert queued(app) == ["1", "11"]
    app.execute("delete from ware_fr where id = 2")
    assert queued(app) == ["2"]
    app.execute("truncate ware")
    assert queued(app) == [None]


def partitioned(conn: _db.Connection) -> ModelConfig:
    conn.execute(
        "create table ware (id bigint, region text, title text, stock int)"
        " partition by list (region);"
        "create table ware_de partition of ware for values in ('de');"
        "insert into ware select i, 'de', 't', 0 from generate_series(1, 30) as i"
    )
    return config("select id as item_id, title from ware", {"ware": "id"})


def test_a_partitioned_table_can_still_be_migrated(app: _db.Connection) -> None:
    installed(app, partitioned(app))

    app.execute("alter table ware alter column title type varchar(99)")
    app.execute("update ware set title = 'x' where id = 1")
    assert queued(app) == ["1"]
    app.execute("alter table ware drop column title")
    with warnings(app) as said:
        app.execute("update ware set stock = 1 where id = 1")
    assert len(said) == 1, "the source does not work either now"


def test_an_update_by_row_queues_a_key_once(app: _db.Connection) -> None:
    installed(app, partitioned(app))

    app.execute("update ware set title = 'x' where id < 3")
    assert queued(app) == ["1", "2"]
    app.execute("update ware set stock = 1")
    assert queued(app) == []
    app.execute("update ware set id = 40 where id = 4")
    assert queued(app) == ["4", "40"]


@pytest.mark.alone
def test_a_transaction_waits_for_the_locked_queue_only_once(
    app: _db.Connection,
) -> None:
    installed(app, partitioned(app))
    with psycopg.connect(app.info.dsn) as other, warnings(app) as said:
        other.execute("lock table recsys.item_change in access exclusive mode")
        start = time.monotonic()
        with app.transaction():
            app.execute("update ware set title = 'x'")
            app.execute("update ware set title = 'y'")
        took = time.monotonic() - start

    assert took < 1
    assert len(said) == 1
    app.execute("update ware set title = 'z' where id = 1")
    assert queued(app) == ["1"], "the next transaction tries again"


@pytest.mark.parametrize("how", ["partition", "child"])
def test_a_watched_partition_or_child_sees_what_comes_through_its_parent(
    app: _db.Connection, how: str
) -> None:
    model = partitioned(app)
    table = "ware_de"
    if how == "child":
        app.execute(
            "create table thing (id bigint, title text);"
            "create table thing_de () inherits (thing);"
            "insert into thing_de select id, title from ware"
        )
        table = "thing_de"
    model = config(f"select id as item_id, title from {table}", {table: "id"})
    report = installed(app, model)

    assert report.tables[0].by_row
    parent = table.removesuffix("_de")
    app.execute(f"update {parent} set title = 'x' where id = 1".encode())
    assert queued(app) == ["1"]
    app.execute(f"delete from {parent} where id = 2".encode())
    assert queued(app) == ["2"]


def brands(conn: _db.Connection) -> ModelConfig:
    conn.execute(
        "alter table product add brand_id int;"
        "create table brand (id int primary key, name text, country text);"
        "insert into brand values (1, 'Acme', 'de'), (2, 'Globex', 'fr');"
        "update product set brand_id = case when id < 3 then 1 else 2 end"
    )
    return config(
        "select p.id as item_id, b.name from product p"
        " join brand b on b.id = p.brand_id",
        {
            "product": "id",
            "brand": "select p.id from product p join changed on p.brand_id = "
            "changed.id -- 100 % of them",
        },
    )


def test_a_joined_table_queues_the_items_of_its_rows(app: _db.Connection) -> None:
    installed(app, brands(app))

    app.execute("update brand set name = 'Acme Corp' where id = 1")
    assert queued(app) == ["1", "2"]
    app.execute("update brand set country = 'uk'")
    assert queued(app) == []
    app.execute("update brand set id = 3 where id = 2")
    assert queued(app) == ["3"]
    app.execute("delete from brand where id = 1")
    assert queued(app) == ["1", "2"]
    app.execute("update product set brand_id = 3 where id = 1")
    assert queued(app) == ["1"]


def test_two_models_on_one_table_do_not_disturb_each_other(
    app: _db.Connection,
) -> None:
    """Also when the name of one begins with that of the other."""
    other = config(
        "select id as item_id, price from product", {"product": "id"}, "shop__b"
    )
    installed(app, other)
    installed(app)

    app.execute("update product set price = 1 where id = 1")
    assert (queued(app), queued(app, "shop__b")) == ([], ["1"])
    app.execute("insert into product values (6, 'x', 1, 1)")
    assert (queued(app), queued(app, "shop__b")) == (["6"], ["6"])
    triggers = "select model, triggers from recsys.change_status order by model"
    assert app.execute(triggers).fetchall() == [("shop", 4), ("shop__b", 4)]
    assert capture.unwatch(app, "shop") == ["product"]
    app.execute("delete from product where id = 6")
    assert (queued(app), queued(app, "shop__b")) == ([], ["6"])


# watch again, unwatch, errors ---------------------------------------------------------


def functions(conn: _db.Connection) -> list[str]:
    return [
        text
        for (text,) in conn.execute(
            "select pg_get_functiondef(oid) from pg_proc"
            " where proname like '\\_capture\\_\\_%' order by proname"
        )
    ] + [
        text
        for (text,) in conn.execute(
            "select pg_get_triggerdef(oid) from pg_trigger"
            " where tgname like 'recsys\\_%' order by tgname, tgrelid::regclass::text"
        )
    ]


def test_watching_twice_is_watching_once(app: _db.Connection) -> None:
    installed(app)
    once = functions(app)

    installed(app)

    assert functions(app) == once
    assert len(once) == 5
    app.execute("update product set title = 'x' where id = 1")
    assert queued(app) == ["1"]


def test_a_new_source_moves_the_triggers(app: _db.Connection) -> None:
    app.execute("create table ware (id bigint, price numeric)")
    installed(app)

    installed(
        app, config("select id as item_id, stock from product", {"product": "id"})
    )
    app.execute("update product set title = 'x', price = 1")
    assert queued(app) == []
    app.execute("update product set stock = 1 where id = 1")
    assert queued(app) == ["1"]
    installed(app, config("select id as item_id, price from ware", {"ware": "id"}))
    app.execute("update product set stock = 2; insert into ware values (5, 1)")
    assert queued(app) == ["5"]
    assert len(functions(app)) == 5


def test_watching_queues_everything_when_older_transactions_have_ended(
    app: _db.Connection,
) -> None:
    with psycopg.connect(app.info.dsn) as older:
        older.execute("select pg_current_xact_id()")
        installed(app)

        assert capture_check.check(app, "shop") == ""
        assert queued(app) == []
        older.commit()

    assert "every item is queued" in capture_check.check(app, "shop")
    assert queued(app) == [None]
    assert capture_check.check(app, "shop") == ""


def test_unwatch_leaves_nothing(app: _db.Connection) -> None:
    installed(app)

    assert capture.unwatch(app, "shop") == ["product"]

    assert functions(app) == []
    app.execute("insert into product values (4, 'chair', 1, 1)")
    assert queued(app) == []
    assert app.execute("select * from recsys.capture").fetchall() == []
    assert capture.unwatch(app, "shop") == []


def test_nothing_configured_comes_with_a_proposal(app: _db.Connection) -> None:
    with pytest.raises(ConfigError, match="watches nothing") as error:
        installed(app, config(PRODUCT.items.sql))
    assert '{ "public.product" = "id" }' in error.value.hint

    app.execute("create table loose (id bigint)")
    with pytest.raises(ConfigError, match="watches nothing") as error:
        installed(app, config("select id as item_id from loose"))
    assert "updated_at" in error.value.hint


@pytest.mark.parametrize(
    ("watched", "said", "hint"),
    [
        ({"nothing": "id"}, "no such table", "shop.product"),
        ({"product": "nr"}, "no column 'nr'", "id, title"),
        ({"product": "select nr from changed"}, 'column "nr" does not', "changed"),
        ({"product": "select id, title from changed"}, "one column", ""),
        ({"product": "select 1"}, "read 'changed'", ""),
        ({"product": "delete from product"}, "fails", "changed"),
        ({"cheap": "id"}, "is a view", "behind it"),
        ({"stored": "id"}, "is a materialised view", "updated_at"),
        ({"seq": "id"}, "no table", ""),
    ],
)
def test_a_mapping_that_cannot_work_is_refused(
    app: _db.Connection, watched: dict[str, str], said: str, hint: str
) -> None:
    app.execute(
        "create view cheap as select * from product where price < 50;"
        "create materialized view stored as select * from product;"
        "create sequence seq"
    )

    with pytest.raises(ConfigError) as error:
        installed(app, config(PRODUCT.items.sql, watched))

    assert said in str(error.value)
    assert hint in error.value.hint
    assert functions(app) == []


@pytest.mark.parametrize(
    ("item_id", "watched", "said"),
    [
        ("bigint", {"product": "title"}, "of type text"),
        ("bigint", {"product": "select title from changed"}, "of type text"),
        ("bigint", {"product": "price"}, "of type numeric"),
        ("uuid", {"product": "id"}, "of type bigint"),
        ("bigint", {"product": "stock"}, ""),
        ("bigint", {"product": "select title::bigint from changed"}, ""),
        ("text", {"product": "id"}, ""),
    ],
)
def test_a_key_of_another_type_is_refused(
    app: _db.Connection, item_id: str, watched: dict[str, str], said: str
) -> None:
    model = replace(config(PRODUCT.items.sql, watched), item_id=item_id)
    if not said:
        assert installed(app, model).tables
        return

    with pytest.raises(ConfigError, match=said) as error:
        installed(app, model)

    assert item_id in str(error.value)
    assert f"::{item_id} from changed" in error.value.hint


def test_a_swept_model_needs_no_triggers(app: _db.Connection) -> None:
    plain = config("select id as item_id, title from product")
    swept = replace(plain, items=replace(plain.items, updated_at="changed_at"))

    with pytest.raises(ConfigError, match="nothing needs triggers") as error:
        installed(app, swept)

    assert error.value.hint == "recsys worker"


def test_a_version_whose_source_is_broken_keeps_nobody_from_watching(
    app: _db.Connection,
) -> None:
    broken = config("select id as item_id, gone from product", {"product": "id"})
    app.execute(
        "insert into recsys.model_version (model, number, state, spec, dim, artifacts)"
        " values ('shop', 1, 'ready', %s, 3, '{}')",
        (Jsonb(broken.to_dict()),),
    )

    report = installed(app)

    assert captured(report) == {"public.product": ["id", "title"]}
    assert len(report.notes) == 1
    assert report.notes[0].startswith("version 1 is left out: items.sql fails")


def test_a_renamed_table_keeps_no_trigger(app: _db.Connection) -> None:
    installed(app)
    app.execute(
        "alter table product rename to product_old;"
        "create table product (like product_old including all)"
    )

    installed(app)
    app.execute("insert into product_old values (8, 'x', 1, 1)")
    assert queued(app) == []
    app.execute("insert into product values (9, 'x', 1, 1)")
    assert queued(app) == ["9"]
    assert len(functions(app)) == 5


def test_unknown_models_and_broken_sources(app: _db.Connection) -> None:
    with pytest.raises(UnknownModel):
        installed(app, config(PRODUCT.items.sql, {"product": "id"}, "nope"))
    with pytest.raises(SourceError):
        installed(app, config("select id as item_id from gone", {"product": "id"}))
    with pytest.raises(ConfigError, match="no changes are captured"):
        capture.switch(app, "shop", enabled=False)


def test_whoever_does_not_own_the_table_is_told(
    app: _db.Connection, role: sql.Identifier
) -> None:
    app.execute(sql.SQL("grant recsys_trainer to {}").format(role))
    app.execute("grant select on product to recsys_trainer")

    with (
        acting_as(app, role) as conn,
        pytest.raises(SourceError, match="may not capture changes") as error,
    ):
        watch(conn, PRODUCT)

    assert "owner" in error.value.hint
    assert functions(app) == []


@pytest.mark.alone
def test_a_locked_table_is_an_error_after_five_seconds(app: _db.Connection) -> None:
    with psycopg.connect(app.info.dsn) as other:
        other.execute("lock table product in share mode")
        start = time.monotonic()

        with pytest.raises(VersionStateError, match="locked by another"):
            installed(app)

        assert 4 < time.monotonic() - start < 8


# the application never feels it -------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        "alter table recsys.item_change rename to gone",
        "alter table recsys.item_change add constraint none check (false) not valid",
        "alter table recsys.capture rename to gone",
        "drop function recsys._item_bucket(text)",
        "alter sequence recsys.capture_failure rename to gone;"
        "alter table recsys.item_change rename to gone_too",
        "alter schema recsys rename to gone",
    ],
    ids=["queue", "check", "switch", "function", "counter", "schema"],
)
def test_a_broken_capture_never_fails_the_application(
    app: _db.Connection, how: str
) -> None:
    installed(app)
    app.execute(how.encode())

    with warnings(app) as said:
        app.execute("update product set title = 'x' where id = 1")
        app.execute("insert into product values (4, 'chair', 1, 1)")
        app.execute("delete from product where id = 2")
        app.execute("truncate product")

    # The truncation needs less, and may come through.
    assert len(said) >= 3
    assert all(s.startswith("WARNING: recsys could not queue") for s in said)


def test_a_lost_event_is_counted_and_everything_queued(app: _db.Connection) -> None:
    installed(app)
    capture_check.check(app, "shop")
    queued(app)
    app.execute("alter table recsys.item_change rename to away")
    with psycopg.connect(app.info.dsn) as other:
        other.execute("update product set title = 'x' where id = 1")
        app.execute("alter table recsys.away rename to item_change")

        # The failure shows at once, the change not before its commit.
        assert "could not queue" in capture_check.check(app, "shop")
        assert queued(app) == []
        other.commit()

    assert "every item is queued" in capture_check.check(app, "shop")
    assert queued(app) == [None]
    assert capture_check.check(app, "shop") == ""


@pytest.mark.alone
@pytest.mark.parametrize("table", ["item_change", "capture"])
def test_a_lock_on_the_queue_costs_a_moment_only(
    app: _db.Connection, table: str
) -> None:
    installed(app)
    with psycopg.connect(app.info.dsn) as other, warnings(app) as said:
        other.execute(f"lock table recsys.{table} in access exclusive mode".encode())
        start = time.monotonic()
        app.execute("update product set title = 'x' where id = 1")
        took = time.monotonic() - start

    assert took < 1
    assert said == [
        "WARNING: recsys could not queue a change of product: "
        "canceling statement due to lock timeout"
    ]
    row = app.execute("show lock_timeout").fetchone()
    assert row == ("0",)


def test_one_row_switches_it_off_and_on(app: _db.Connection) -> None:
    installed(app)
    capture_check.check(app, "shop")
    queued(app)

    capture.switch(app, "shop", enabled=False, reason="import")
    app.execute("update product set title = 'x'")
    app.execute("truncate product")
    assert queued(app) == []
    status = "select capture, reconcile_pending from recsys.change_status"
    assert app.execute(f"{status} where model = 'shop'".encode()).fetchone() == (
        "off",
        False,
    )
    capture.switch(app, "shop", enabled=True)

    assert app.execute(f"{status} where model = 'shop'".encode()).fetchone() == (
        "triggers",
        True,
    )
    assert "switched on again" in capture_check.check(app, "shop")
    assert queued(app) == [None]
    reasons = app.execute(
        "select reason from recsys.audit_log where kind = 'capture' order by id"
    ).fetchall()
    assert reasons == [
        ("capture was installed",),
        ("import",),
        ("",),
        ("capture was switched on again",),
    ]


def test_a_change_that_saw_the_switch_off_is_not_lost(app: _db.Connection) -> None:
    """It began after the switch-on, but before that was committed."""
    installed(app)
    capture_check.check(app, "shop")
    queued(app)
    capture.switch(app, "shop", enabled=False)
    with psycopg.connect(app.info.dsn) as operator:
        operator.execute("select recsys.set_capture('shop', true)")
        with psycopg.connect(app.info.dsn) as writer:
            writer.execute("update product set title = 'x' where id = 1")
            operator.commit()

            capture_check.check(app, "shop")
            assert queued(app) == [], "the worker would read the row before its commit"
            writer.commit()

    assert "every item is queued" in capture_check.check(app, "shop")
    assert queued(app) == [None]


# who may do what ----------------------------------------------------------------------


def test_an_application_role_without_any_privilege_is_captured(
    app: _db.Connection, role: sql.Identifier
) -> None:
    installed(app)
    grant = sql.SQL("grant select, insert, update, delete on product to {}")
    app.execute(grant.format(role))

    with acting_as(app, role) as conn:
        conn.execute("update product set title = 'x' where id = 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select * from recsys.item_change")

    assert queued(app) == ["1"]


def test_the_owner_of_a_table_can_watch_as_a_trainer(
    app: _db.Connection, role: sql.Identifier
) -> None:
    """No superuser: triggers, functions and queue work with a trainer's rights."""
    app.execute(
        sql.SQL(
            "grant recsys_trainer to {0}; alter table product owner to {0};"
            "grant create, usage on schema public to {0}"
        ).format(role)
    )

    with acting_as(app, role) as conn:
        installed(conn)
        conn.execute("update product set title = 'x' where id = 1")
        assert queued(app) == ["1"]
        capture.switch(conn, "shop", enabled=False)
        capture.switch(conn, "shop", enabled=True)
        app.execute("alter table recsys.item_change rename to away")
        conn.execute("update product set title = 'y' where id = 1")
        app.execute("alter table recsys.away rename to item_change")
        assert "could not queue" in capture_check.check(conn, "shop")
        assert capture.unwatch(conn, "shop") == ["product"]

    assert functions(app) == []


def test_a_definer_is_not_led_astray_by_the_callers_path(
    app: _db.Connection, role: sql.Identifier
) -> None:
    """Own functions, operators and temporary tables in front of the path."""
    installed(app, brands(app))
    app.execute(
        sql.SQL(
            "grant select, update on brand, product to {0};"
            "create schema trap authorization {0};"
            "grant temporary on database {1} to {0}"
        ).format(role, sql.Identifier(app.info.dbname))
    )
    with acting_as(app, role) as conn:
        conn.execute(
            "create function trap.took(int, int) returns boolean language plpgsql as"
            " $$begin execute 'create table trap.' || 'owned_by_' || current_user ||"
            " '(id int)'; return true; end$$;"
            "create operator trap.= (leftarg = int, rightarg = int,"
            " function = trap.took);"
            "create temp table product (id bigint, brand_id int);"
            "insert into pg_temp.product values (666, 1);"
            "set search_path = trap, pg_temp, pg_catalog, public"
        )
        conn.execute("update public.brand set name = 'x' where country = 'de'")

    assert queued(app) == ["1", "2"]
    made = app.execute("select tablename from pg_tables where schemaname = 'trap'")
    assert made.fetchall() == []


def test_a_trainer_cannot_get_at_the_owners_rights(
    app: _db.Connection, role: sql.Identifier
) -> None:
    installed(app)
    app.execute(sql.SQL("grant recsys_trainer to {}").format(role))
    (name,) = app.execute(
        "select oid::regprocedure::text from pg_proc where proname like '\\_capture%'"
    ).fetchone() or ("",)
    with acting_as(app, role) as conn:
        for attack in (
            f"create or replace function {name} returns trigger language plpgsql as"
            " $$begin return null; end$$",
            f"create trigger mine after insert on recsys.item_change execute function"
            f" {name}",
            "create function pg_temp.f() returns trigger language plpgsql as"
            " $$begin return null; end$$; create trigger mine after insert on"
            " recsys.item_change execute function pg_temp.f()",
            "create temp table t (id int, title text); create trigger mine after insert"
            f" on t execute function {name}",
            f"drop function {name} cascade",
            "drop trigger recsys_capture_shop_insert on product",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(attack.encode())


def test_a_trainer_cannot_make_the_function_first(
    app: _db.Connection, role: sql.Identifier
) -> None:
    """Whoever owns it could change it later, and it runs as whoever writes."""
    app.execute(sql.SQL("grant recsys_trainer to {}").format(role))
    name = capture.function_name("shop", "public.product")
    with acting_as(app, role) as conn:
        conn.execute(
            f"create function recsys.{name}() returns trigger language plpgsql as"
            " $$begin return null; end$$".encode()
        )

    with pytest.raises(SourceError, match="may put no triggers") as e:
        installed(app)

    assert f"drop function recsys.{name}() cascade" in e.value.hint
    assert len(functions(app)) == 1, "no trigger uses it"
    app.execute(f"drop function recsys.{name}() cascade".encode())
    installed(app)


def test_nobody_gets_the_definers_rights_by_a_better_fitting_function(
    app: _db.Connection, role: sql.Identifier
) -> None:
    """In a schema of the path: to_jsonb(brand) fits better than that of anyelement."""
    app.execute(
        "create schema open; grant create, usage on schema open to public;"
        "alter table product alter title type varchar(50)"
    )
    model = brands(app)
    app.execute("alter table brand alter name type varchar(50)")
    path = "set search_path = open, public"
    with acting_as(app, role) as conn:
        conn.execute(
            "create function open.boom() returns boolean language plpgsql as"
            " $$begin raise exception 'ran as %', current_user; end$$;"
            "create function open.count() returns bigint language sql as"
            " 'select open.boom()::int::bigint';"
            "create function open.same(varchar, varchar) returns boolean language sql"
            " as 'select open.boom()';"
            "create function open.to_jsonb(record) returns jsonb language plpgsql"
            " as 'begin return pg_catalog.to_jsonb(open.boom()); end';"
            "create function open.jsonb_agg(jsonb) returns jsonb language sql"
            " as 'select pg_catalog.to_jsonb(open.boom())';"
            "create operator open.= (leftarg = varchar, rightarg = varchar,"
            " function = open.same)"
        )
    app.execute(path)

    report = installed(app, model)
    assert "everybody may create in schema open" in report.notes[0]
    with warnings(app) as said:
        app.execute("update brand set name = 'x' where id = 1")
        app.execute("update product set title = 'x' where id = 1")
    assert said == []
    assert queued(app) == ["1", "2"]


# the printed statements ---------------------------------------------------------------


def test_the_printed_statements_do_the_same(app: _db.Connection) -> None:
    installed(app)
    wanted = functions(app)
    capture.unwatch(app, "shop")

    for statement in capture.statements(app, "shop", inspect(app, PRODUCT).tables):
        app.execute(statement.encode())

    assert functions(app) == wanted
    app.execute("update product set title = 'x' where id = 1")
    assert queued(app) == ["1"]
