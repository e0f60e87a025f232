"""The three roles, by becoming them and trying."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
import world
from psycopg import errors as pg
from psycopg import sql
from world import Shop

from recsys import Recommender, _db, capture, rollout, schema
from recsys.backfill import backfill
from recsys.errors import SchemaError, SourceError

DENIED = pg.InsufficientPrivilege
TABLES = (
    "model",
    "model_version",
    "artifact",
    "rollout",
    "promotion",
    "interaction",
    "item_trend",
    "item_vector_shop_1",
    "item_embedding_shop_1",
    "id_embedding_shop_1",
)


@pytest.fixture(scope="module")
def town(server: str, shop_template: Shop) -> Iterator[Shop]:
    """The shop, whose application grants its request role its own tables."""
    with world.database(server, world.name_of(shop_template.dsn)) as dsn:
        with _db.connect(dsn) as conn:
            conn.execute("grant select on customer, event, product to recsys_app")
            conn.execute("grant select on customer, event, product to recsys_trainer")
        yield Shop(dsn, shop_template.learned)


@pytest.fixture
def role(server: str) -> Iterator[str]:
    """A login role of this test's own, in no group."""
    name = f"recsys_test_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
        yield name
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def connected(town: Shop, role: str) -> _db.Connection:
    return _db.connect(world.as_role(town.dsn, role), autocommit=True)


def denied(conn: _db.Connection, *statements: str) -> None:
    for statement in statements:
        with pytest.raises(DENIED):
            conn.execute(statement.encode())


# the application -------------------------------------------------------------------


def test_the_application_role_can_serve_and_record(town: Shop) -> None:
    dsn = world.as_role(town.dsn, "recsys_app")

    with Recommender("shop", dsn=dsn) as shop:
        assert len(shop.recommend(7, k=5)) == 5
        assert len(shop.recommend(history=[1, 2], k=5)) == 5
        assert len(shop.recommend(7, among="select id from product")) == 20
        assert len(shop.similar_items(42, k=5)) == 5
        shop.record(7, 42, "view")

    # The app reads it too: a source may be recsys.interaction itself.
    with _db.connect(dsn) as conn:
        row = conn.execute("select user_id, item_id from recsys.interaction").fetchone()
        assert row == ("7", "42")


def test_the_application_role_can_do_nothing_else(town: Shop) -> None:
    with connected(town, "recsys_app") as conn:
        denied(
            conn,
            "update recsys.interaction set kind = kind",
            "delete from recsys.interaction",
            "select * from recsys.promotion",
            "update recsys.model set generation = 0",
            "delete from recsys.model_version",
            "insert into recsys.rollout values ('shop', 2, 100)",
            "insert into recsys.artifact values ('x', 'json', '')",
            "insert into recsys.item_change (model, bucket) values ('shop', 0)",
            "update recsys.item_vector_shop_1 set item_id = item_id",
            "delete from recsys.item_embedding_shop_1",
            "truncate recsys.id_embedding_shop_1",
            "drop table recsys.item_vector_shop_1",
            "create table recsys.mine (x int)",
            "select recsys._promote('shop', 2)",
            "select recsys._next_number('shop', 'bigint', 'bigint')",
            "select recsys._register_version('x',1,'text','text',3,'{}','{}','{}')",
            "select recsys._retire_for_drop('shop', 1)",
            "select recsys._grant_core()",
            "select recsys._grant_version('shop_1')",
            "select * from recsys.similar_items('shop', 42)",
        )


def test_the_application_role_queues_only_what_a_worker_can_take(shop: Shop) -> None:
    queue = "select recsys._queue_items(%s, %s)"
    with connected(shop, "recsys_app") as conn:
        items = ["1", "1", "2", None, "x" * 2001]
        assert conn.execute(queue, ("shop", items)).fetchone() == (2,)
        assert conn.execute(queue, ("unknown", ["1"])).fetchone() == (0,)
    with connected(shop, "recsys_trainer") as conn:
        for bucket, item in ((999, "1"), (0, "1"), (1, None)):
            with pytest.raises(pg.CheckViolation):
                conn.execute(
                    "insert into recsys.item_change (model, bucket, item_id)"
                    " values ('shop', %s, %s)",
                    (bucket, item),
                )


def test_a_trainer_cannot_call_a_trigger_function_of_somebody_else(shop: Shop) -> None:
    """Also when the grants are made again, which names every function of the schema."""
    config = world.shop_config()
    watched = replace(config, items=replace(config.items, watch={"product": "id"}))
    with _db.connect(shop.dsn, autocommit=True) as conn:
        with conn.transaction():
            capture.watch(conn, watched)
        conn.execute("select recsys._grant_core()")
        row = conn.execute(
            "select has_function_privilege('recsys_trainer', oid, 'execute')"
            " from pg_proc where proname ~ '^_capture__'"
        ).fetchone()

    assert row == (False,)


def test_the_filter_runs_with_the_application_roles_privileges(town: Shop) -> None:
    with (
        connected(town, "recsys_app") as conn,
        Recommender("shop", connection=conn) as shop,
        pytest.raises(SourceError, match="permission denied"),
    ):
        shop.recommend(7, among="select number from recsys.promotion")


# analysts --------------------------------------------------------------------------


def test_analysts_call_the_functions_and_read_the_views(town: Shop) -> None:
    with connected(town, "recsys_analyst") as conn:
        for query in (
            "select * from recsys.recommend('shop', 7, 5)",
            "select * from recsys.similar_items('shop', 42, 5)",
            "select * from recsys.nearest_items('shop','[1,0,0,0,0,0,0,0,1]', 5)",
        ):
            assert len(conn.execute(query.encode()).fetchall()) == 5
        for query in (
            "select recsys.schema_version()",
            "select * from recsys.coverage('shop', 1)",
            "select * from recsys.version_status limit 1",
            "select * from recsys.switch_log limit 1",
        ):
            assert conn.execute(query.encode()).fetchone()
        conn.execute("select * from recsys.version_metric")


def test_analysts_never_touch_tables_nor_internal_functions(town: Shop) -> None:
    with _db.connect(town.dsn) as conn:
        internal = conn.execute(
            "select proname, has_function_privilege('recsys_analyst', oid, 'execute')"
            " from pg_proc where pronamespace = 'recsys'::regnamespace"
            " and proname ~ '^_'"
        ).fetchall()
    assert len(internal) >= 15
    # Asked, not called: a strict function of null is null before anybody checks.
    assert [name for name, allowed in internal if allowed] == []

    with connected(town, "recsys_analyst") as conn:
        denied(conn, *[f"select from recsys.{name}" for name in TABLES])
        denied(conn, *[f"delete from recsys.{name}" for name in TABLES])
        denied(conn, "select from product", "create table recsys.mine (x int)")


def test_an_analyst_cannot_make_a_function_read_tables_of_their_own(
    town: Shop,
) -> None:
    """The functions run as their owner; names must not resolve to the caller's."""
    with connected(town, "recsys_analyst") as conn:
        conn.execute(
            "create function pg_temp.who() returns bigint language plpgsql as"
            " $$ begin raise exception 'ran as %', current_user; end $$"
        )
        for table in ("event", "product", "customer"):
            conn.execute(
                f"create temp view {table} as select pg_temp.who() as id,"
                " pg_temp.who() as customer_id, pg_temp.who() as product_id,"
                " ''::text as kind, now() as created_at, ''::text as title,"
                " ''::text as brand, 1.0 as price, ''::text as country".encode()
            )

        assert len(conn.execute("select recsys.recommend('shop', 7)").fetchall()) == 20
        row = conn.execute("select * from recsys.coverage('shop', 1)").fetchone()
        assert row == (200, 200, 0, 0)


# trainers --------------------------------------------------------------------------


def test_a_trainer_makes_fills_promotes_and_drops_a_version(shop: Shop) -> None:
    model = world.shop_config(features=True)
    with _db.connect(shop.dsn) as conn:
        conn.execute("grant select on product, customer, event to recsys_trainer")
        conn.execute("grant select on product, customer, event to recsys_app")
    dsn = world.as_role(shop.dsn, "recsys_trainer")

    number, _ = world.add_version(dsn, model, seed=3, promote=True)

    with Recommender("shop", dsn=world.as_role(shop.dsn, "recsys_app")) as app:
        assert app.recommend(7).version == number
    with connected(shop, "recsys_analyst") as conn:
        found = conn.execute("select * from recsys.recommend('shop', 7)").fetchall()
        assert len(found) == 20
    with _db.connect(dsn) as conn:
        assert rollout.rollback(conn, "shop") == 1
        rollout.drop(conn, "shop", number)


@pytest.mark.parametrize(
    ("routine", "call"),
    [
        ("_coverage_shop_1()", "coverage('shop', 1)"),
        ("_query_shop_1(bigint)", "recommend('shop', 7)"),
    ],
)
def test_a_trainer_cannot_become_the_role_that_migrated(
    shop: Shop, routine: str, call: str
) -> None:
    """The analysts' functions call what a trainer may replace: never as a superuser."""
    with _db.connect(shop.dsn) as conn:
        row = conn.execute(
            "select pg_get_functiondef(%s::regprocedure)", (f"recsys.{routine}",)
        ).fetchone()
        assert row
        head = str(row[0]).split("LANGUAGE")[0]
    with connected(shop, "recsys_trainer") as conn:
        body = "begin raise exception 'ran as %', current_user; end"
        conn.execute(f"{head} language plpgsql as $$ {body} $$".encode())
        with pytest.raises(pg.RaiseException, match="ran as recsys_trainer"):
            conn.execute(f"select * from recsys.{call}".encode())


def test_a_trainer_adds_nothing_to_what_an_administrator_runs(shop: Shop) -> None:
    """_grant_core runs with the caller's rights, often a superuser's."""
    body = "language plpgsql as $$ begin raise exception 'ran as %', current_user; end"
    with connected(shop, "recsys_trainer") as conn:
        for name in ("_grant_part_aaa", "_grant_part_zzz"):
            conn.execute(
                f"create function recsys.{name}() returns void {body} $$".encode()
            )
    with _db.connect(shop.dsn, autocommit=True) as conn:
        conn.execute("select recsys._grant_core()")

        conn.execute("drop function recsys._grant_part_live()")
        with connected(shop, "recsys_trainer") as trainer:
            trainer.execute(
                "create function recsys._grant_part_live() returns void"
                f" {body} $$".encode()
            )
        with pytest.raises(DENIED, match="belongs neither"):
            conn.execute("select recsys._grant_core()")


def test_no_definer_is_stronger_than_the_trainers(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        rows = conn.execute(
            "select proowner::regrole::text, count(*) from pg_proc"
            " where pronamespace = 'recsys'::regnamespace and prosecdef group by 1"
        ).fetchall()

    assert [row[0] for row in rows] == ["recsys_trainer"]


def test_a_trainer_can_fill_a_version_that_a_migration_made(shop: Shop) -> None:
    model = world.shop_config(features=True)
    with _db.connect(shop.dsn) as conn:
        conn.execute("grant select on product, customer, event to recsys_trainer")
    number, _ = world.add_version(shop.dsn, model, seed=3, ready=False)

    report = backfill(world.as_role(shop.dsn, "recsys_trainer"), "shop", number)

    assert report.item_count == 200


# nobody ----------------------------------------------------------------------------


def test_a_role_in_no_group_gets_nothing_and_a_hint(town: Shop, role: str) -> None:
    with connected(town, role) as conn:
        denied(
            conn,
            *[f"select from recsys.{name}" for name in TABLES],
            "select * from recsys.version_status",
            "select * from recsys.recommend('shop', 7)",
            "select recsys.schema_version()",
        )
        with pytest.raises(SchemaError, match="may not use") as caught:
            schema.check(conn)
        assert "grant recsys_app" in caught.value.hint

    with (
        Recommender("shop", dsn=world.as_role(town.dsn, role)) as shop,
        pytest.raises(SchemaError, match="may not use"),
    ):
        shop.recommend(7)


def test_no_function_is_open_to_everybody(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        rows = conn.execute(
            "select p.oid::regprocedure from pg_proc as p, aclexplode(coalesce("
            " p.proacl, acldefault('f', p.proowner))) as a"
            " where p.pronamespace = 'recsys'::regnamespace and a.grantee = 0"
        ).fetchall()

    assert rows == []


def test_everything_works_without_a_superuser(server: str, role: str) -> None:
    """pgvector installed by an administrator; the rest by a role that owns nothing."""
    with world.database(server) as dsn:
        with _db.connect(dsn, autocommit=True) as conn:
            conn.execute("create extension vector")
            name = sql.Identifier(world.name_of(dsn))
            grant = sql.SQL("grant create on database {} to {}")
            conn.execute(grant.format(name, sql.Identifier(role)))
            own = sql.SQL("create schema shop authorization {}")
            conn.execute(own.format(sql.Identifier(role)))
            path = sql.SQL("alter database {} set search_path = shop, public")
            conn.execute(path.format(name))
        mine = world.as_role(dsn, role)
        try:
            schema.upgrade(mine)
            world.fill_shop(mine)
            world.add_version(mine, world.shop_config(features=True), promote=True)
            with Recommender("shop", dsn=mine) as shop:
                assert len(shop.recommend(7)) == 20
            with _db.connect(mine, autocommit=True) as conn:
                query = "select * from recsys.recommend('shop', 7)"
                assert len(conn.execute(query.encode()).fetchall()) == 20
                rollout.drop(conn, "shop", 1, stop_serving=True)
            schema.downgrade(mine, revision="base")
        finally:
            with _db.connect(dsn, autocommit=True) as conn:
                own = sql.SQL("drop owned by {} cascade")
                conn.execute(own.format(sql.Identifier(role)))


def test_analysts_can_ask_a_trainers_version_where_nobody_is_superuser(
    server: str, role: str
) -> None:
    """The functions run as the role that migrated, which must reach the version."""
    with world.database(server) as dsn:
        with _db.connect(dsn, autocommit=True) as conn:
            conn.execute("create extension vector")
            name = sql.Identifier(world.name_of(dsn))
            grant = sql.SQL("grant create on database {} to {}")
            conn.execute(grant.format(name, sql.Identifier(role)))
            world.fill_shop(dsn)
            tables = "select on product, customer, event"
            give = sql.SQL(f"grant {tables} to {{}}")
            conn.execute(give.format(sql.Identifier(role)))
            conn.execute(f"grant {tables} to recsys_trainer, recsys_app".encode())
        try:
            schema.upgrade(world.as_role(dsn, role))
            trainer = world.as_role(dsn, "recsys_trainer")
            world.add_version(trainer, world.shop_config(features=True), promote=True)

            with _db.connect(world.as_role(dsn, "recsys_analyst")) as conn:
                query = "select * from recsys.recommend('shop', 7)"
                assert len(conn.execute(query.encode()).fetchall()) == 20
        finally:
            with _db.connect(dsn, autocommit=True) as conn:
                own = sql.SQL("drop owned by {} cascade")
                conn.execute(own.format(sql.Identifier(role)))
