"""Indexes over less than the whole vectors: what they find is re-ranked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import world
from numpy.typing import NDArray

from recsys import (
    Recommender,
    _calibration,
    _candidates,
    _db,
    _index_key,
    _wanted,
    retrieval,
    rollout,
    versions,
)
from recsys._db import Halfvec
from recsys._loaded import Loaded, LoadedVersions
from recsys._request_sql import Look
from recsys.backfill import backfill
from recsys.errors import VersionStateError
from recsys.rules import Rules
from recsys.types import ItemId

ROWS = 5_000
DIM = 64
TARGET = 0.9
KINDS: dict[str, dict[str, Any]] = {
    "prefix": {"prefix": 24},
    "binary": {"quantisation": "binary"},
}


@dataclass(frozen=True)
class Catalogue:
    dsn: str
    vectors: Mapping[ItemId, NDArray[np.float32]]
    version: Loaded
    recall: float


@pytest.fixture(scope="module", params=list(KINDS))
def catalogue(
    server: str, template: str, request: pytest.FixtureRequest
) -> Iterator[Catalogue]:
    """5,000 items, most of whose direction is in the first dimensions."""
    model = config(KINDS[request.param])
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=ROWS, users=8, events=30)
        add_version(dsn, model)
        with fewer_queries():
            backfill(dsn, "shop", 1)
        with _db.connect(dsn) as conn:
            version = versions.get(conn, "shop", 1)
            rollout.promote(conn, "shop", 1, reason="test", force=True)
            conn.commit()
            vectors = world.stored_vectors(conn, "shop_1")
            loaded = LoadedVersions("shop").turn(conn, None).version
        yield Catalogue(dsn, vectors, loaded, version.ann_recall or 0)


@contextmanager
def fewer_queries(*efforts: int) -> Iterator[None]:
    """Calibrate with a third of the queries, and some depths only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_calibration.similar_queries, "__kwdefaults__", {"size": 50})
        if efforts:
            patch.setattr(_calibration, "_RERANKED", efforts)
        yield


def config(index: Mapping[str, Any]) -> Any:
    return world.shop_config(
        train={"dim": DIM}, index={"recall_target": TARGET, **index}
    )


def fading(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    rows = rng.normal(size=(n, DIM)) / (1 + np.arange(DIM)) ** 0.75
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def add_version(dsn: str, model: Any) -> None:
    rng = np.random.default_rng(5)
    with _db.connect(dsn) as conn:
        number = versions.next_number(conn, model)
        learned = world.learn(conn, model)
        learned = dataclasses.replace(
            learned, served=fading(rng, ROWS), history=fading(rng, ROWS)
        )
        versions.create(conn, world.plan(conn, learned, number))


@pytest.fixture
def conn(catalogue: Catalogue) -> Iterator[_db.Connection]:
    with _db.connect(catalogue.dsn) as conn:
        yield conn


def queries(n: int = 8, popularity: float = 1) -> list[NDArray[np.float32]]:
    rows = fading(np.random.default_rng(7), n)
    return list(np.pad(rows, ((0, 0), (0, 1)), constant_values=popularity))


def scans(conn: _db.Connection) -> tuple[int, int]:
    """How often the index was read, and the vectors past it."""
    conn.execute("select pg_stat_force_next_flush()")
    conn.commit()
    row = conn.execute(
        "select (select idx_scan from pg_stat_user_indexes"
        "  where indexrelname = 'item_vector_shop_1_hnsw'),"
        " seq_scan + (select idx_scan from pg_stat_user_indexes"
        "  where indexrelname = 'item_vector_shop_1_pkey')"
        " from pg_stat_user_tables where relname = 'item_vector_shop_1'"
    ).fetchone()
    conn.commit()
    assert row
    return row[0], row[1]


def found_share(found: Sequence[ItemId], best: Sequence[ItemId]) -> float:
    return len(set(found) & set(best)) / len(best)


@pytest.mark.parametrize(("k", "excluded"), [(20, 0), (20, 10), (200, 0)])
def test_the_short_index_gives_k_rows_at_the_recall_of_the_whole_vectors(
    catalogue: Catalogue, conn: _db.Connection, k: int, excluded: int
) -> None:
    sql, effort = catalogue.version.statements, catalogue.version.ef_search
    before, recalls = scans(conn), []

    for popularity in (1, 0):
        for query in queries(popularity=popularity):
            order = world.exact_order(catalogue.vectors, query)
            ids, scores = retrieval.search(
                conn, sql, Halfvec(query), k, order[:excluded], effort
            )
            rounded = query.astype(np.float16).astype(np.float32)
            exact = [float(catalogue.vectors[i] @ rounded) for i in ids]
            assert len(set(ids)) == k
            assert list(scores) == sorted(scores, reverse=True)
            np.testing.assert_allclose(scores, exact, atol=1e-4)
            assert not set(ids) & set(order[:excluded])
            recalls.append(found_share(ids, order[excluded : excluded + k]))

    after = scans(conn)
    assert after[0] >= before[0] + len(recalls)
    assert after[1] == before[1]
    assert np.mean(recalls) >= TARGET
    assert catalogue.recall >= TARGET


def test_without_re_ranking_the_recall_would_be_missed(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    """The depth is what makes the recall: as many as places are not enough."""
    recalls = []
    for query in queries():
        order = world.exact_order(catalogue.vectors, query)
        ids, _ = retrieval.search(
            conn, catalogue.version.statements, Halfvec(query), 20, [], 20
        )
        recalls.append(found_share(ids, order[:20]))

    assert np.mean(recalls) < TARGET - 0.05


@pytest.mark.parametrize("condition", ["shelf % 2 = 0", "shelf = 7"])
def test_a_filtered_page_has_the_same_recall(
    catalogue: Catalogue, conn: _db.Connection, condition: str
) -> None:
    among = f"select id from product where {condition}"
    eligible = {
        item: catalogue.vectors[item]
        for (item,) in conn.execute(among.encode()).fetchall()
    }
    wanted = _wanted.wanted(20, among=among)
    recalls = []

    for query in queries():
        ids, _ = _candidates.find(conn, catalogue.version, query, wanted)
        best = world.exact_order(eligible, query)[:20]
        assert len(set(ids)) == min(20, len(eligible))
        recalls.append(found_share(list(ids), best))

    assert np.mean(recalls) >= (1 if len(eligible) <= 20 else TARGET)


def test_a_filter_that_half_pass_makes_the_search_read_twice_as_deep(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    look = Look(
        query=Halfvec(queries(1)[0]), exclude=[], named=[], pinned=[], never=[],
        buried=[], wish=20, ef_search=catalogue.version.ef_search, first=None,
        whole=False, among="select id from product where shelf % 2 = 0",
        min_score=None, keys=None, at_most=None, places=20, amounts=None, times=None,
        vectors=False,
    )  # fmt: skip

    seen = retrieval.candidates(conn, catalogue.version.statements, look)
    if catalogue.version.config.index.quantisation != "none":
        return  # it reads so deep here that the exact scan is cheaper

    assert seen.stage == "index"
    # Of as many that pass as the calibration re-ranks, not of the first twenty.
    assert seen.scanned >= 1.5 * catalogue.version.ef_search


def test_rules_and_the_least_score_see_the_whole_vectors(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    query = queries(1)[0]
    order = world.exact_order(catalogue.vectors, query)
    rounded = query.astype(np.float16).astype(np.float32)
    least = float(catalogue.vectors[order[9]] @ rounded) - 1e-4

    def ask(**options: Any) -> list[ItemId]:
        wanted = _wanted.wanted(20, **options)
        return list(_candidates.find(conn, catalogue.version, query, wanted)[0])

    assert found_share(ask(min_score=least), order[:10]) >= 0.9
    assert set(ask(min_score=least)) <= set(order[:12])
    brands = "select id, brand from product"
    page = ask(rules=Rules(per=brands, at_most=4, pin=(order[500],)))
    assert len(page) == 20
    assert page[0] == order[500]
    assert found_share(ask(exclude=order[:5]), order[5:25]) >= 0.8


def test_python_and_sql_functions_answer_from_it(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    with Recommender("shop", connection=conn) as shop:
        page = shop.recommend(7, k=20)
        alike = shop.similar_items(42, k=20)
    said = conn.execute(
        "select item_id::bigint from recsys.similar_items('shop', 42, 20)"
    ).fetchall()
    told = conn.execute("select * from recsys.recommend('shop', 7, 500)").fetchall()

    assert len(page) == len(alike) == 20
    assert [item for (item,) in said] == alike.ids
    assert len(told) == 500


def test_an_unreachable_recall_says_what_to_change(server: str, template: str) -> None:
    model = world.shop_config(
        train={"dim": 16}, index={"recall_target": 1.0, "prefix": 2}
    )
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=500, users=5)
        world.add_version(dsn, model, ready=False)

        with (
            fewer_queries(40, 60),
            pytest.raises(VersionStateError, match="recall") as caught,
        ):
            backfill(dsn, "shop", 1)

    assert "index.prefix" in caught.value.hint


def test_a_shorter_key_is_a_smaller_one() -> None:
    def size(**index: Any) -> int:
        model = world.shop_config(train={"dim": 256}, index=index)
        return _index_key.index_key(model.index, 256).size

    assert size() == 522
    assert size(prefix=64) == 138
    assert size(quantisation="binary") < size(prefix=64)
    assert size(prefix=256) == size()
