"""Several queries of one user: one statement, k items, a share for each interest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
import world

from recsys import Recommender, _db, _interests, _request_sql, retrieval
from recsys._db import Halfvec
from recsys.rules import Rules

ITEMS, K = 5_000, 20


@pytest.fixture(scope="module")
def shop(server: str, template: str) -> Iterator[str]:
    """5,000 products, and a version whose users have up to three interests."""
    model = world.shop_config(query={"interests": 3, "share": 0.6})
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=ITEMS, users=20)
        world.add_version(dsn, model, promote=True)
        yield dsn


@pytest.fixture
def model(shop: str) -> Iterator[Recommender]:
    with Recommender("shop", dsn=shop) as made:
        yield made


def queries_of(model: Recommender, user: int) -> np.ndarray:
    return model.query_vector(user)[0]


def exact(dsn: str, query: np.ndarray, seen: list[int], k: int) -> list[int]:
    with _db.connect(dsn) as conn:
        vectors = world.stored_vectors(conn, "shop_1")
    return world.exact_order(vectors, query, without=seen)[:k]


def test_each_interest_is_sure_of_its_places(model: Recommender, shop: str) -> None:
    for user in (1, 2, 3):
        queries, seen = model.query_vector(user)
        assert queries.shape == (3, world.DIM + 1)

        page = model.recommend(user, k=K)

        items = [r.item_id for r in page]
        assert len(set(items)) == len(items) == K
        assert not set(items) & set(seen)
        assert [r.score for r in page] == sorted((r.score for r in page), reverse=True)
        sure = _interests.sure_places(K, 3, 0.6)
        assert sure == 4
        for query in queries:
            best = exact(shop, query, seen, sure)
            assert len(set(best) & set(items)) >= sure - 1  # the index may miss one


def test_a_page_of_several_interests_is_one_statement_on_the_index(shop: str) -> None:
    config = world.shop_config(query={"interests": 3})
    sql = _request_sql.statements("shop_1", config)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, world.DIM + 1)).astype(np.float32)
    with _db.connect(shop) as conn:
        before = _scans(conn)
        conn.execute("set enable_seqscan = off")

        ids, scores = retrieval.interests(
            conn, sql, [Halfvec(v) for v in vectors], K, [1, 2], 200, 3
        )
        conn.commit()
        lists = [
            retrieval.search(conn, sql, Halfvec(v), K, [1, 2], 200) for v in vectors
        ]
        used = _scans(conn) - before

    assert len(ids) == K
    assert (list(ids), list(scores)) == _interests.merge(lists, K, 3)
    assert used >= 3


def _scans(conn: psycopg.Connection) -> int:
    conn.execute("select pg_stat_force_next_flush()")
    conn.commit()
    row = conn.execute(
        "select sum(idx_scan) from pg_stat_user_indexes"
        " where relname = 'item_vector_shop_1'"
    ).fetchone()
    assert row
    return int(row[0])


@pytest.mark.parametrize("recall_target", [None, 1.0])
def test_filters_and_exclusions_hold_for_every_interest(
    model: Recommender, shop: str, recall_target: float | None
) -> None:
    queries, seen = model.query_vector(4)

    page = model.recommend(
        4,
        k=K,
        among="select id from product where shelf < 100",
        exclude=[5, 6],
        recall_target=recall_target,
    )

    items = [r.item_id for r in page]
    assert len(set(items)) == K
    assert all(item % 1000 < 100 for item in items)
    assert not set(items) & {5, 6, *seen}
    with _db.connect(shop) as conn:
        vectors = world.stored_vectors(conn, "shop_1")
    few = {item: vector for item, vector in vectors.items() if item % 1000 < 100}
    for query in queries:
        best = world.exact_order(few, query, without=[5, 6, *seen])[:4]
        assert len(set(best) & set(items)) >= 3


def test_rules_order_what_all_interests_found(model: Recommender) -> None:
    rules = Rules(per="select id, brand from product", at_most=4, mmr=0.3, pin=[77])

    page = model.recommend(5, k=K, rules=rules)

    items = [r.item_id for r in page]
    assert items[0] == 77
    assert len(set(items)) == K


def test_pages_follow_each_other_without_repeats(model: Recommender) -> None:
    first = model.recommend(6, k=K)
    second = first.next()

    both = [r.item_id for r in (*first, *second)]
    assert len(set(both)) == 2 * K


def test_few_items_and_nobody_are_answered(model: Recommender) -> None:
    one = model.recommend(history=[17], k=K)
    nobody = model.recommend(k=K)

    assert len(one) == len(nobody) == K
    assert 17 not in [r.item_id for r in one]


def test_a_session_has_interests_of_its_own(model: Recommender) -> None:
    page = model.recommend(history=[1, 2, 3, 4, 5, 6], k=K)

    assert len({r.item_id for r in page}) == K
    assert not {r.item_id for r in page} & {1, 2, 3, 4, 5, 6}


def test_merging_keeps_each_interests_best_and_fills_by_score() -> None:
    strong = ([1, 2, 3, 4, 5], [0.9, 0.8, 0.7, 0.6, 0.5])
    weak = ([6, 1, 7, 8], [0.3, 0.2, 0.1, 0.05])

    page, scores = _interests.merge([strong, weak], 4, 1)

    assert page == [1, 2, 3, 6]
    assert scores == [0.9, 0.8, 0.7, 0.3]


def test_learned_interests_are_served(server: str, template: str) -> None:
    query = {"interests": 2, "interests_from": "learned"}
    config = world.shop_config(query=query)
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=300, users=10)
        world.add_version(dsn, config, promote=True)
        with Recommender("shop", dsn=dsn) as model:
            queries, seen = model.query_vector(1)
            page = model.recommend(1, k=10)
        wanted = {item for q in queries for item in exact(dsn, q, seen, 2)}

    assert queries.shape == (2, world.DIM + 1)
    assert len({r.item_id for r in page}) == 10
    assert len(wanted & {r.item_id for r in page}) >= len(wanted) - 1


def test_a_sequential_version_is_served(server: str, template: str) -> None:
    config = world.shop_config(query={"encoder": "transformer", "length": 20})
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=300, users=10)
        world.add_version(dsn, config, promote=True)
        with Recommender("shop", dsn=dsn) as model:
            page = model.recommend(1, k=10)
            forward = model.recommend(history=[3, 2, 1], k=10)
            backward = model.recommend(history=[1, 2, 3], k=10)

    assert len(page) == 10
    assert [r.item_id for r in forward] != [r.item_id for r in backward]
