"""What analysts call: named columns, the caller's id types, clear errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
import world
from psycopg import errors as pg
from world import Shop

from recsys import Recommender, _db, rollout


@pytest.fixture(scope="module")
def plain(server: str, template: str) -> Iterator[Shop]:
    """A shop whose model has no features: SQL and Python agree on it."""
    with world.database(server, template) as dsn:
        world.fill_shop(dsn)
        _, learned = world.add_version(dsn, world.shop_config(), promote=True)
        yield Shop(dsn, {1: learned})


@pytest.fixture
def conn(plain: Shop) -> Iterator[_db.Connection]:
    with _db.connect(plain.dsn, autocommit=True) as conn:
        yield conn


def rows(conn: _db.Connection, query: str, *values: object) -> list[tuple[Any, ...]]:
    return conn.execute(query.encode(), values).fetchall()


def test_recommend_agrees_with_python_for_a_model_without_features(
    plain: Shop, conn: _db.Connection
) -> None:
    with Recommender("shop", connection=conn) as shop:
        for user in range(1, 31):
            page = shop.recommend(user, k=10)

            found = rows(conn, "select * from recsys.recommend('shop', %s, 10)", user)

            scores = [r.score for r in page]
            np.testing.assert_allclose([r[1] for r in found], scores, atol=2e-3)
            assert len({int(r[0]) for r in found} & set(page.ids)) >= 9


@pytest.mark.parametrize(
    ("id_type", "dim"),
    [("bigint", world.DIM), ("uuid", world.DIM), ("text", world.DIM), ("bigint", 1024)],
)
def test_recommend_leans_and_adds_what_rose_today_as_python_does(
    dsn: str, id_type: Any, dim: int
) -> None:
    world.fill_shop(dsn, id_type, users=8)
    config = world.shop_config(id_type, train={"dim": dim})
    world.add_version(dsn, config, promote=True, leans=True)
    everybody = [world.make_id(id_type, n) for n in (*range(1, 9), 999)]
    with _db.connect(dsn, autocommit=True) as conn:
        # What has a trend in its specification is asked with it.
        conn.execute(
            "update recsys.model_version"
            """ set spec = spec || '{"trend": {}}' where model = 'shop'"""
        )
        world.assert_alike_in_sql(dsn, everybody)
        world.assert_alike_in_sql(dsn, everybody, k=150)

        best, old = (str(world.make_id(id_type, n)) for n in (150, 151))
        conn.execute(
            "insert into recsys.item_trend (model, number, item_id, delta, measured_at)"
            " select 'shop', 1, id::text, 0.3, now() from product"
            " where shelf in (7, 70, 170) union all values"
            " ('shop', 1, %s, 3::real, now()),"
            " ('shop', 1, %s, 3::real, now() - interval '2 days')",
            (best, old),
        )

        world.assert_alike_in_sql(dsn, everybody)
        world.assert_alike_in_sql(dsn, everybody, k=150)
        nobody = everybody[-1]
        found = rows(conn, "select * from recsys.recommend('shop', %s, 3)", nobody)
        assert found[0][0] == best
        assert old not in [row[0] for row in found]


@pytest.mark.parametrize(
    ("options", "beyond"),
    [
        ({}, None),
        ({"query": {"encoder": "mean"}}, None),
        ({"query": {"encoder": "gated"}}, "the encoder gated"),
        ({"query": {"interests": 2}}, "several interests"),
        ({"features": True}, "features of users or requests"),
    ],
)
def test_recommend_says_once_that_it_approximates(
    dsn: str, options: Any, beyond: str | None
) -> None:
    world.fill_shop(dsn, users=8)
    world.add_version(dsn, world.shop_config(**options), promote=True)
    said: list[str | None] = []

    with _db.connect(dsn, autocommit=True) as conn:
        conn.add_notice_handler(lambda notice: said.append(notice.message_primary))
        with conn.transaction():
            found = rows(
                conn,
                "select r.item_id from customer, recsys.recommend('shop', id, 5) as r",
            )
            rows(conn, "select * from recsys.recommend('shop', 7, 5)")
        once = len(said)
        # Whoever a pooler gives the connection to next is told as well.
        rows(conn, "select * from recsys.recommend('shop', 7, 5)")

    assert (once, len(said)) == ((1, 2) if beyond else (0, 0))
    text = f"version 1 of model shop has {beyond}: recsys.recommend() knows the mean"
    assert len(found) == 8 * 5
    assert [message[: len(text)] for message in said if message] == (
        [text] * 2 if beyond else []
    )


@pytest.mark.parametrize("dim", [1, 64, 3999])
def test_a_query_leans_by_its_direction(conn: _db.Connection, dim: int) -> None:
    rng = np.random.default_rng(0)
    unit = rng.normal(size=dim)
    unit = (unit / np.linalg.norm(unit)).astype(np.float16)
    query = [*unit.tolist(), 1.0]
    lean = rng.normal(size=dim + 1)

    found = rows(
        conn,
        "select recsys._leaning(%s::halfvec, %s::real[])::real[],"
        " recsys._leaning(%s::halfvec, null)::real[]",
        str(query),
        lean.tolist(),
        str(query),
    )

    assert found[0][0][:-1] == pytest.approx(query[:-1], rel=1e-6)
    assert found[0][0][-1] == pytest.approx(1 + unit @ lean[:-1] + lean[-1], rel=1e-3)
    assert found[0][1] == pytest.approx(query, rel=1e-6)


def test_recommend_leaves_out_what_the_user_had(conn: _db.Connection) -> None:
    had = {r[0] for r in rows(conn, "select product_id from event where customer_id=7")}

    found = rows(conn, "select item_id from recsys.recommend('shop', 7, k => 200)")

    assert had
    assert {int(r[0]) for r in found} == set(range(1, 201)) - had


def test_an_unknown_user_gets_the_popular_direction(conn: _db.Connection) -> None:
    found = rows(conn, "select * from recsys.recommend('shop', -5, k => 20)")

    assert len(found) == 20
    assert [r[1] for r in found] == sorted((r[1] for r in found), reverse=True)


def test_similar_items_are_ranked_by_cosine_without_popularity(
    conn: _db.Connection,
) -> None:
    vectors = world.stored_vectors(conn, "shop_1")
    unit = {item: vector[:-1] for item, vector in vectors.items()}
    expected = world.exact_order(unit, unit[42], without=[42])

    found = rows(conn, "select * from recsys.similar_items('shop', 42, k => 10)")

    assert [int(r[0]) for r in found] == expected[:10]
    assert all(-1.01 <= r[1] <= 1.01 for r in found)


def test_nearest_items_ranks_by_inner_product_and_excludes(
    plain: Shop, conn: _db.Connection
) -> None:
    vectors = world.stored_vectors(conn, "shop_1")
    query = np.ones(world.DIM + 1, np.float32)
    expected = world.exact_order(vectors, query)

    found = rows(
        conn,
        "select item_id from recsys.nearest_items('shop', %s::halfvec, 5, %s)",
        str(query.tolist()),
        [str(item) for item in expected[:3]],
    )

    assert [int(r[0]) for r in found] == expected[3:8]


@pytest.mark.parametrize("k", [0, -1, 1001, 10**9, None])
@pytest.mark.parametrize(
    "call",
    [
        "recsys.recommend('shop', 7, %s::integer)",
        "recsys.similar_items('shop', 42, %s::integer)",
        "recsys.nearest_items('shop', '[1,0,0,0,0,0,0,0,1]', %s::integer)",
    ],
)
def test_k_outside_1_to_1000_is_refused(
    conn: _db.Connection, call: str, k: int | None
) -> None:
    with pytest.raises(pg.InvalidParameterValue, match="k must be between 1 and 1000"):
        rows(conn, f"select * from {call}", k)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("recsys.recommend('nope', 7)", pg.InvalidParameterValue, "unknown model"),
        ("recsys.similar_items('nope', 7)", pg.InvalidParameterValue, "unknown model"),
        ("recsys.similar_items('shop', 9999)", pg.NoDataFound, "item 9999"),
        ("recsys.nearest_items('shop', null, 3)", pg.InvalidParameterValue, "is null"),
        (
            "recsys.nearest_items('shop', '[1,2]')",
            pg.InvalidParameterValue,
            "9 dimensions, got 2",
        ),
        ("recsys.coverage('shop', 9)", pg.InvalidParameterValue, "no version 9"),
        ("recsys.recommend('shop', 'abc'::text)", pg.DataError, "abc"),
        ("recsys.recommend('sh''; drop', 7)", pg.InvalidParameterValue, "unknown"),
    ],
)
def test_wrong_arguments_are_named(
    conn: _db.Connection, query: str, error: type[psycopg.Error], message: str
) -> None:
    with pytest.raises(error, match=message):
        rows(conn, f"select * from {query}")


def test_nothing_serving_says_what_to_do(shop: Shop) -> None:
    with _db.connect(shop.dsn, autocommit=True) as conn:
        rollout.promote(conn, "shop", None)

        with pytest.raises(pg.ObjectNotInPrerequisiteState) as caught:
            rows(conn, "select * from recsys.recommend('shop', 7)")

    assert "recsys promote shop" in (caught.value.diag.message_hint or "")


@pytest.mark.parametrize("id_type", ["uuid", "text"])
def test_ids_of_other_types_work_the_same(dsn: str, id_type: Any) -> None:
    world.fill_shop(dsn, id_type)
    world.add_version(dsn, world.shop_config(id_type), promote=True)
    seven = world.make_id(id_type, 7)

    with _db.connect(dsn, autocommit=True) as conn:
        user = rows(conn, "select item_id from recsys.recommend('shop', %s, 5)", seven)
        item = rows(conn, "select * from recsys.similar_items('shop', %s, 5)", seven)

        known = {str(world.make_id(id_type, n)) for n in range(1, 201)}
        assert len(user) == len(item) == 5
        assert {r[0] for r in user + item} <= known - {str(seven)}


def test_coverage_counts_both_directions(shop: Shop) -> None:
    with _db.connect(shop.dsn, autocommit=True) as conn:
        conn.execute("delete from product where id <= 3")
        world.add_products(conn, "bigint", [501, 502])

        found = rows(conn, "select * from recsys.coverage('shop', 1)")

    assert found == [(199, 200, 2, 3)]


def test_version_status_tells_state_coverage_and_sizes(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        found = rows(
            conn,
            "select number, state, percent, phase, dim, item_count, coverage_percent,"
            " ef_search > 0, ann_recall >= 0.95, table_bytes > 0, index_bytes > 0,"
            " error"
            " from recsys.version_status where model = 'shop' order by number",
        )

    assert found == [
        (1, "serving", 100, "done", 9, 200, 100, True, True, True, True, None),
        (2, "ready", 0, "done", 9, 200, 100, True, True, True, True, None),
    ]


def test_version_metric_spreads_metrics_and_survives_odd_ones(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        conn.execute(
            "update recsys.model_version set metrics = %s::jsonb where number = 1",
            (
                '{"validation": {"model": {"recall@20": 0.5}, "users": 7},'
                ' "note": "odd", "list": [1]}',
            ),
        )

        found = rows(conn, "select * from recsys.version_metric where number = 1")

    assert found == [("shop", 1, "validation", "model", "recall@20", 0.5)]


def test_every_public_object_has_a_comment(db: _db.Connection) -> None:
    missing = rows(
        db,
        "select oid::regprocedure::text from pg_proc"
        " where pronamespace = 'recsys'::regnamespace and proname !~ '^_'"
        " and obj_description(oid, 'pg_proc') is null union all"
        " select oid::regclass::text from pg_class"
        " where relnamespace = 'recsys'::regnamespace and relkind in ('r', 'p', 'v')"
        " and not relispartition and relname !~ '^(_|alembic)'"
        " and obj_description(oid, 'pg_class') is null",
    )

    assert missing == []
