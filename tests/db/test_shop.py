"""The demo shop: the same for everyone, and shaped like a shop."""

import runpy
from pathlib import Path

import psycopg
import pytest

from recsys import config

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def fill():
    return runpy.run_path(str(EXAMPLES / "shop" / "generate.py"))["fill"]


@pytest.fixture
def shop(db, fill):
    fill(db, products=800, customers=400, visits=3000)
    return db


def one(conn, query):
    return conn.execute(query).fetchone()


def test_same_seed_gives_the_same_shop(empty_dsn, shop, fill):
    query = (
        "select count(*), md5(string_agg(e::text, ',' order by id)) from shop_event e"
    )
    with psycopg.connect(empty_dsn) as other:
        fill(other, products=800, customers=400, visits=3000)
        again = one(other, query)
        fresh = "select md5(string_agg(p::text, ',' order by id)) from shop_product p"
        assert one(other, fresh) == one(shop, fresh)

    assert again == one(shop, query)


def test_nothing_happens_before_it_can(shop):
    assert one(
        shop,
        "select count(*) from shop_event e join shop_product p on p.id = e.product_id"
        " where e.created_at < p.created_at",
    ) == (0,)
    assert one(
        shop,
        "select count(*) from shop_event e join shop_customer c on c.id = e.customer_id"
        " where e.created_at < c.joined_at",
    ) == (0,)


def test_funnel_narrows_and_begins_with_a_view(shop):
    counts = dict(
        shop.execute("select kind, count(*) from shop_event group by kind").fetchall()
    )

    assert counts["view"] > 4 * counts["cart"] > 4 * counts["purchase"] > 0
    assert one(
        shop,
        "select count(*) from shop_event as c where kind = 'cart' and not exists"
        " (select from shop_event as v where v.kind = 'view'"
        "  and v.customer_id = c.customer_id and v.product_id = c.product_id"
        "  and v.created_at <= c.created_at)",
    ) == (0,)


def test_seasons_show(shop):
    winter, summer = one(
        shop,
        "select count(*) filter (where to_char(e.created_at, 'MM') in ('11', '12')),"
        " count(*) filter (where to_char(e.created_at, 'MM') in ('06', '07'))"
        " from shop_event e join shop_product p on p.id = e.product_id"
        " where p.category = 'Ski Wear'",
    )

    assert winter > 3 * summer


@pytest.mark.parametrize(
    "name", sorted(p.parent.name for p in EXAMPLES.glob("*/demo.toml"))
)
def test_every_preset_declares_its_model(name):
    assert config.load(EXAMPLES / name / "recsys.toml").model(name)


def test_shop_sources_run(shop):
    model = config.load(EXAMPLES / "shop" / "recsys.toml").model("shop")

    for source in (model.items, model.users):
        columns = {c.name for c in shop.execute(source.sql.encode()).description}
        assert {f.name for f in source.features} < columns

    values = {
        "user_id": 1,
        "item_id": 1,
        "kind": "cart",
        "occurred_at": "2026-11-01",
        "request_id": None,
    }
    before = one(shop, "select max(id) from shop_event")[0]
    shop.execute(model.interactions.record.encode(), values)
    assert one(shop, "select max(id) from shop_event") == (before + 1,)
