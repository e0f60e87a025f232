"""The search of a version, on enough rows that the HNSW index is what answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pytest
import world
from numpy.typing import NDArray

from recsys import Recommender, _db, _request_sql, filters, retrieval, versions
from recsys._db import Halfvec
from recsys.errors import ConfigError, SourceError
from recsys.types import ItemId

ROWS = 6_000
DIM = 16
TARGET = 0.95


@dataclass(frozen=True)
class Catalogue:
    dsn: str
    vectors: Mapping[ItemId, NDArray[np.float32]]
    ef_search: int
    learned: world.Learned


@pytest.fixture(scope="module")
def catalogue(server: str, template: str) -> Iterator[Catalogue]:
    """6,000 items of clustered taste, the least that an index is worth for."""
    model = world.shop_config(train={"dim": DIM}, index={"recall_target": TARGET})
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=ROWS, users=60, events=30)
        _, learned = world.add_version(dsn, model, promote=True)
        with _db.connect(dsn) as conn:
            vectors = world.stored_vectors(conn, "shop_1")
            version = versions.get(conn, "shop", 1)
        assert version.ef_search
        yield Catalogue(dsn, vectors, version.ef_search, learned)


@pytest.fixture
def conn(catalogue: Catalogue) -> Iterator[_db.Connection]:
    with _db.connect(catalogue.dsn) as conn:
        yield conn


def queries(n: int = 20) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(n, DIM))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return list(np.pad(unit, ((0, 0), (0, 1)), constant_values=1).astype(np.float32))


def search(
    conn: _db.Connection,
    query: NDArray[np.float32],
    k: int,
    *,
    exclude: Sequence[ItemId] = (),
    among: Any = None,
    ef_search: int = 40,
) -> tuple[list[ItemId], list[float]]:
    sql = _request_sql.statements("shop_1", world.shop_config())
    if among is None:
        ef_search = max(ef_search, min(1000, 2 * k))
        items, scores = retrieval.search(
            conn, sql, Halfvec(query), k, list(exclude), ef_search
        )
        return list(items), list(scores)
    # Every look from the start: what an earlier test asked for is no help.
    given = filters.normalise(among, 1)
    assert given
    found = retrieval.candidates(
        conn,
        sql,
        _request_sql.Look(
            query=Halfvec(query),
            exclude=list(exclude),
            named=[],
            pinned=[],
            never=[],
            buried=[],
            wish=k,
            ef_search=ef_search,
            first=None,
            whole=False,
            among=filters.literal(conn, given),
            min_score=None,
            keys=None,
            at_most=None,
            places=k,
            amounts=None,
            times=None,
            vectors=False,
        ),
    )
    return found.item_ids[:k], found.scores[:k]


def index_scans(conn: _db.Connection) -> int:
    conn.execute("select pg_stat_force_next_flush()")
    conn.commit()
    row = conn.execute(
        "select idx_scan from pg_stat_user_indexes"
        " where indexrelname = 'item_vector_shop_1_hnsw'"
    ).fetchone()
    conn.commit()
    assert row
    return row[0]


def other_scans(conn: _db.Connection) -> int:
    """How often the vectors were read past the HNSW index, as the exact scan does."""
    conn.execute("select pg_stat_force_next_flush()")
    conn.commit()
    row = conn.execute(
        "select seq_scan + (select idx_scan from pg_stat_user_indexes"
        "  where indexrelname = 'item_vector_shop_1_pkey')"
        " from pg_stat_user_tables where relname = 'item_vector_shop_1'"
    ).fetchone()
    conn.commit()
    assert row
    return row[0]


def recall(found: Sequence[ItemId], best: Sequence[ItemId]) -> float:
    return len(set(found) & set(best)) / len(best)


@pytest.mark.parametrize("excluded", [0, 60])
@pytest.mark.parametrize("k", [1, 20, 1000])
def test_k_rows_and_the_target_recall_come_out_of_the_index(
    catalogue: Catalogue, conn: _db.Connection, k: int, excluded: int
) -> None:
    scans, others, recalls = index_scans(conn), other_scans(conn), []
    # For a sixth of the table the planner rightly reads it all; the index must do too.
    conn.execute("set enable_seqscan = off")

    for query in queries():
        order = world.exact_order(catalogue.vectors, query)
        items, scores = search(
            conn,
            query,
            k,
            exclude=order[:excluded],
            ef_search=catalogue.ef_search,
        )
        assert len(items) == len(set(items)) == k
        assert scores == sorted(scores, reverse=True)
        assert not set(items) & set(order[:excluded])
        recalls.append(recall(items, order[excluded : excluded + k]))

    assert index_scans(conn) >= scans + len(recalls)
    assert other_scans(conn) == others
    assert np.mean(recalls) >= TARGET


@pytest.mark.parametrize("k", [20, 200])
@pytest.mark.parametrize(
    ("share", "condition"),
    [
        (0.5, "shelf % 2 = 0"),
        (0.01, "shelf % 100 = 7"),
        (0.001, "shelf = 7"),
        (1 / ROWS, "id = 4321"),
        (0, "false"),
    ],
)
def test_a_filter_of_any_selectivity_gives_all_it_has_best_first(
    catalogue: Catalogue, conn: _db.Connection, share: float, condition: str, k: int
) -> None:
    among = f"select id from product where {condition}"
    rows = conn.execute(among.encode()).fetchall()
    eligible = {item: catalogue.vectors[item] for (item,) in rows}
    assert len(eligible) == round(share * ROWS)
    recalls = []

    for query in queries(8):
        best = world.exact_order(eligible, query)[:k]
        items, _ = search(conn, query, k, among=among)
        assert len(items) == len(set(items)) == min(k, len(eligible))
        assert set(items) <= set(eligible)
        recalls.append(recall(items, best) if best else 1.0)

    exact = len(eligible) <= k
    assert np.mean(recalls) >= (1.0 if exact else TARGET)


def test_filter_and_exclusions_together_still_give_k(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    among = "select id from product where shelf % 10 = 3"
    rows = conn.execute(among.encode()).fetchall()
    eligible = {item: catalogue.vectors[item] for (item,) in rows}
    query = queries(1)[0]
    order = world.exact_order(eligible, query)

    items, _ = search(conn, query, 20, among=among, exclude=order[:60])

    assert len(items) == 20
    assert recall(items, order[60:80]) >= 0.9


@pytest.mark.parametrize("among", [None, "select id from product where shelf < 900"])
def test_an_index_that_gives_up_early_is_completed_by_the_exact_scan(
    catalogue: Catalogue, conn: _db.Connection, among: str | None
) -> None:
    conn.execute("set hnsw.max_scan_tuples = 1")
    query = queries(1)[0]
    eligible = {
        item: vector
        for item, vector in catalogue.vectors.items()
        if among is None or int(str(item)) % 1000 < 900
    }
    order = world.exact_order(eligible, query)

    items, _ = search(conn, query, 20, exclude=order[:-100], among=among)

    assert items == order[-100:-80]


def test_everything_can_be_asked_for_at_once(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    query = queries(1)[0]
    order = world.exact_order(catalogue.vectors, query)

    items, _ = search(conn, query, 1000, exclude=order[: ROWS - 400])

    assert items == order[ROWS - 400 :]


def test_the_scores_are_the_inner_products(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    query = queries(1)[0]
    rounded = query.astype(np.float16).astype(np.float32)

    items, scores = search(conn, query, 50)

    expected = [float(catalogue.vectors[item] @ rounded) for item in items]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_the_same_question_gets_the_same_answer(conn: _db.Connection) -> None:
    query = queries(1)[0]

    first = search(conn, query, 100)

    assert all(search(conn, query, 100) == first for _ in range(5))


def test_ties_are_ordered_by_item_id(dsn: str) -> None:
    world.fill_shop(dsn)
    world.add_version(dsn, world.shop_config(train={"dim": DIM}), ready=True)
    query = queries(1)[0]
    with _db.connect(dsn) as conn:
        conn.execute(
            "update recsys.item_vector_shop_1 set embedding ="
            " (select embedding from recsys.item_vector_shop_1 where item_id = 9)"
        )
        everything, scores = search(conn, query, 200)
        few, _ = search(conn, query, 30, among="select id from product where id > 150")

    assert len(set(scores)) == 1
    assert everything == sorted(everything)
    assert few == sorted(few)


# settings -------------------------------------------------------------------------


def settings(conn: _db.Connection) -> list[tuple[str, str]]:
    rows = conn.execute("show all").fetchall()
    return [row[:2] for row in rows if not row[0].startswith("transaction_")]


@pytest.mark.parametrize("autocommit", [False, True])
def test_no_setting_stays_behind_in_the_callers_session(
    catalogue: Catalogue, autocommit: bool
) -> None:
    with _db.connect(catalogue.dsn, autocommit=autocommit) as conn:
        # Libraries bring settings when they are loaded.
        conn.execute("select '[1]'::vector")
        conn.execute("do $$ begin end $$")
        conn.execute("set hnsw.ef_search = 33")
        conn.execute("set hnsw.iterative_scan = 'off'")
        before = settings(conn)

        with Recommender("shop", connection=conn) as shop:
            shop.recommend(7, k=300)
            shop.recommend(7, among="select id from product where shelf = 7")
            shop.similar_items(42)
            with pytest.raises(SourceError):
                shop.recommend(7, among="select nonsense")
        after = settings(conn)

    assert any(name == "hnsw.ef_search" for name, _ in before)
    assert any(name == "enable_seqscan" for name, _ in before)
    assert after == before


# filters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "') or true --",
        "'; drop table product; --",
        "\\'; drop table product; --",
        "$1",
        "%s %(x)s %%",
        "$$ $function$",
        "\\",
        "🍏') union select 1 --",
    ],
)
def test_a_filters_parameters_are_values_whatever_they_contain(
    conn: _db.Connection, value: str
) -> None:
    query = queries(1)[0]

    none = search(
        conn, query, 5, among=("select id from product where title=%s", [value])
    )
    named = search(
        conn,
        query,
        5,
        among=("select id from product where title <> %(x)s", {"x": value}),
    )

    assert none == ([], [])
    assert len(named[0]) == 5


def test_filter_parameters_keep_their_types(conn: _db.Connection) -> None:
    query = queries(1)[0]
    among = "select id from product where id = any(%s) and created_at < %s"

    items, _ = search(conn, query, 5, among=(among, [[7, 8, 9], world.NOW]))

    assert sorted(items) == [7, 8, 9]


def test_a_filter_may_end_in_a_comment_or_a_semicolon(conn: _db.Connection) -> None:
    query = queries(1)[0]

    for end in (";", " ; ", " -- all of them", "\n-- all\n"):
        items, _ = search(conn, query, 5, among=f"select id from product{end}")
        assert len(items) == 5


@pytest.mark.parametrize(
    "among",
    [
        "with gone as (delete from product returning id) select id from gone",
        "with more as (insert into customer values (99999) returning id)"
        " select id from more",
        "select id from product for update",
    ],
)
def test_a_filter_cannot_write_or_lock(
    catalogue: Catalogue, conn: _db.Connection, among: str
) -> None:
    with pytest.raises((SourceError, psycopg.Error)):
        search(conn, queries(1)[0], 5, among=among)
    conn.rollback()

    assert conn.execute("select count(*) from product").fetchone() == (ROWS,)
    assert conn.execute("select count(*) from customer").fetchone() == (60,)


@pytest.mark.parametrize(
    "among",
    [
        "select nonsense from product",
        "select id, title from product",
        "select title from product",
        "select id from no_such_table",
        "selec id",
        "drop table product",
        "select id from product; drop table product",
        "select 1/0",
        "select id from product where title = %s",
    ],
)
def test_a_filter_that_fails_is_explained(
    catalogue: Catalogue, conn: _db.Connection, among: str
) -> None:
    with Recommender("shop", connection=conn) as shop:
        with pytest.raises(SourceError, match="among") as caught:
            shop.recommend(7, among=among)

        assert caught.value.hint
        assert len(shop.recommend(7, k=5)) == 5


@pytest.mark.parametrize("among", ["", "  ;  ", ("", [])])
def test_an_empty_filter_is_refused(conn: _db.Connection, among: Any) -> None:
    with pytest.raises(ConfigError, match="empty"):
        search(conn, queries(1)[0], 5, among=among)


def test_filter_parameters_that_do_not_fit_are_explained(conn: _db.Connection) -> None:
    for among in (
        ("select id from product where id = %s", []),
        ("select id from product where id = %(x)s", {"y": 1}),
        ("select id from product where id = %s", [object()]),
    ):
        with pytest.raises(ConfigError, match="among"):
            search(conn, queries(1)[0], 5, among=among)


def test_the_index_is_what_a_plain_request_uses(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    scans = index_scans(conn)

    with Recommender("shop", connection=conn) as shop:
        for user in range(1, 11):
            assert len(shop.recommend(user, k=20)) == 20

    conn.commit()
    assert index_scans(conn) >= scans + 10
