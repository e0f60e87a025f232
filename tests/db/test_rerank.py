"""Re-ranking by single items of the history, against a slow reading of its formula."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
import world
from world import Shop

from recsys import Recommender, _db, _exact, evaluate, versions
from recsys._served import Served
from recsys.rules import Rules
from recsys.types import ItemId

TEMPERATURE = 0.7
ITEMS, USERS = 400, 12


@pytest.fixture(scope="module")
def still(server: str, template: str) -> Iterator[Shop]:
    """A shop whose version ranks the first candidates again; no test changes it."""
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=ITEMS, users=USERS)
        config = world.shop_config(query={"rerank": TEMPERATURE})
        _, learned = world.add_version(dsn, config, promote=True)
        yield Shop(dsn, {1: learned})


@pytest.fixture
def conn(still: Shop) -> Iterator[_db.Connection]:
    with _db.connect(still.dsn, autocommit=True) as conn:
        yield conn


class Slowly:
    """The answers of one user, computed one product after the other."""

    def __init__(self, conn: _db.Connection, user: ItemId) -> None:
        self.vectors = world.stored_vectors(conn, "shop_1")
        rows = world.stored_vectors(conn, "shop_1", "item_embedding")
        liked: Mapping[ItemId, float] = dict(
            conn.execute(
                "select product_id, sum(case kind when 'view' then 1 when 'cart' then 3"
                " when 'purchase' then 5 else 0 end)::float8"
                " from event where customer_id = %s group by 1",
                (user,),
            ).fetchall()
        )
        self.seen = list(liked)
        self.weights = [w for w in liked.values() if w > 0]
        self.rows = [rows[i].astype(np.float64) for i, w in liked.items() if w > 0]

    def nearest(self) -> dict[ItemId, float]:
        """Score every item by the mean of the history."""
        total = sum(w * row for w, row in zip(self.weights, self.rows, strict=True))
        query = np.append(total / np.linalg.norm(total), 1)
        query = query.astype(np.float16).astype(np.float64)  # as the search rounds
        return {
            item: float(vector @ query)
            for item, vector in self.vectors.items()
            if item not in self.seen
        }

    def bonus(self, item: ItemId) -> float:
        """Return what the single rows add to an item's score."""
        share = [weight / sum(self.weights) for weight in self.weights]
        mean = sum(w * row for w, row in zip(share, self.rows, strict=True))
        each = [float(np.linalg.norm(row)) for row in self.rows]
        least = 0.3 * sum(w * n for w, n in zip(share, each, strict=True))
        length = max(float(np.linalg.norm(mean)), least)
        direction = self.vectors[item][:-1]
        products = [float(row @ direction) / length for row in self.rows]
        raised = sum(
            w * math.exp(p / TEMPERATURE) for w, p in zip(share, products, strict=True)
        )
        plain = sum(w * p for w, p in zip(share, products, strict=True))
        return TEMPERATURE * math.log(raised) - plain

    def best(self, pool: int) -> dict[ItemId, float]:
        """Return the first candidates with their final scores."""
        near = self.nearest()
        first = sorted(near, key=lambda item: -near[item])[:pool]
        return {item: near[item] + self.bonus(item) for item in first}


def assert_best(
    found: Sequence[tuple[Any, float]], expected: Mapping[ItemId, float], k: int
) -> None:
    """Compare a list with scores; items as close as halfvecs round change places."""
    scores = sorted(expected.values(), reverse=True)[:k]
    np.testing.assert_allclose([score for _, score in found], scores, atol=3e-3)
    np.testing.assert_allclose([expected[item] for item, _ in found], scores, atol=3e-3)


@pytest.mark.parametrize("k", [1, 20, 60])
def test_the_first_candidates_are_ranked_again(
    still: Shop, conn: _db.Connection, k: int
) -> None:
    changed = 0
    with Recommender("shop", connection=conn) as shop:
        for user in range(1, USERS + 1):
            slowly = Slowly(conn, user)
            page = shop.recommend(user, k=k, recall_target=1)

            expected = slowly.best(max(100, 5 * k))
            assert_best([(r.item_id, r.score) for r in page], expected, k)
            near = slowly.nearest()
            nearest = sorted(near, key=lambda item: -near[item])[:k]
            changed += set(nearest) != set(page.ids) or nearest != list(page.ids)

    assert changed > USERS / 2


def test_the_index_is_asked_for_as_much(still: Shop, conn: _db.Connection) -> None:
    with Recommender("shop", connection=conn) as shop:
        for user in range(1, USERS + 1):
            exact = shop.recommend(user, recall_target=1)
            found = shop.recommend(user)

            assert len(set(exact.ids) & set(found.ids)) >= 18
            known = {r.item_id: r.score for r in exact}
            for item in found:
                assert item.score == pytest.approx(
                    known.get(item.item_id, item.score), abs=1e-5
                )


def test_what_rose_today_is_a_candidate(dsn: str) -> None:
    world.fill_shop(dsn, items=ITEMS, users=USERS)
    config = world.shop_config(query={"rerank": TEMPERATURE})
    world.add_version(dsn, config, promote=True)
    with _db.connect(dsn, autocommit=True) as conn:
        conn.execute(
            """update recsys.model_version set spec = spec || '{"trend": {}}'"""
        )
        far = Slowly(conn, 1)
        last = min(far.nearest(), key=far.nearest().__getitem__)
        conn.execute(
            "insert into recsys.item_trend (model, number, item_id, delta, measured_at)"
            " values ('shop', 1, %s, 5, now())",
            (str(last),),
        )
        with Recommender("shop", connection=conn) as shop:
            page = shop.recommend(1, k=5)

    assert page.ids[0] == last
    expected = far.nearest()[last] + 5 + far.bonus(last)
    assert page[0].score == pytest.approx(expected, abs=2e-2)


def test_min_score_is_of_the_final_score(still: Shop, conn: _db.Connection) -> None:
    with Recommender("shop", connection=conn) as shop:
        every = shop.recommend(3, k=40, recall_target=1)
        least = every[25].score - 1e-6
        assert sorted(Slowly(conn, 3).nearest().values())[-26] < least

        some = shop.recommend(3, k=40, min_score=least, recall_target=1)
        pinned = shop.recommend(
            3, k=40, min_score=1e6, rules=Rules(pin=(every.ids[39],))
        )

    assert some.ids == every.ids[:26]
    assert list(pinned.ids) == [every.ids[39]]


def test_filters_boosts_and_rules_start_from_the_final_score(
    still: Shop, conn: _db.Connection
) -> None:
    slowly = Slowly(conn, 5)
    with Recommender("shop", connection=conn) as shop:
        among = "select id from product where id % 2 = 0"
        even = shop.recommend(5, k=10, among=among, recall_target=1)
        boosted = shop.recommend(5, k=10, boost={even.ids[9]: 3.0}, recall_target=1)
        varied = shop.recommend(5, k=10, rules=Rules(mmr=0.999999), recall_target=1)
        plain = shop.recommend(5, k=10, recall_target=1)

    near = {i: s for i, s in slowly.nearest().items() if int(i) % 2 == 0}
    first = sorted(near, key=lambda item: -near[item])[:100]
    expected = {item: near[item] + slowly.bonus(item) for item in first}
    assert_best([(r.item_id, r.score) for r in even], expected, 10)
    assert boosted.ids[0] == even.ids[9]
    assert boosted[0].score == pytest.approx(even[9].score + 3, abs=1e-3)
    assert varied.ids == plain.ids


def test_pages_follow_each_other_without_a_repeat(
    still: Shop, conn: _db.Connection
) -> None:
    with Recommender("shop", connection=conn) as shop:
        first = shop.recommend(2, k=30)
        second = first.next()

    assert len(second) == 30
    assert not set(first.ids) & set(second.ids)


def test_without_a_second_item_the_mean_decides(
    still: Shop, conn: _db.Connection
) -> None:
    item = next(iter(world.stored_vectors(conn, "shop_1")))
    with Recommender("shop", connection=conn) as shop:
        alone = shop.recommend(history=[item], k=5, recall_target=1)
        nobody = shop.recommend(k=5)
        like = shop.similar_items(item, k=5)

    vectors = world.stored_vectors(conn, "shop_1")
    row = world.stored_vectors(conn, "shop_1", "item_embedding")[item]
    query = np.append(row / np.linalg.norm(row), 1)
    expected = sorted(
        (float(v @ query) for i, v in vectors.items() if i != item), reverse=True
    )
    np.testing.assert_allclose([r.score for r in alone], expected[:5], atol=3e-3)
    assert len(nobody) == len(like) == 5


def test_rows_that_nearly_cancel_out_are_no_louder(dsn: str) -> None:
    """Their mean is next to nothing, and what is divided by it would be anything."""
    world.fill_shop(dsn, items=60, users=1)
    config = world.shop_config(query={"rerank": 0.1})
    world.add_version(dsn, config, promote=True)
    with _db.connect(dsn, autocommit=True) as conn:
        first, second = list(world.stored_vectors(conn, "shop_1"))[:2]
        conn.execute(
            "delete from event; insert into event values"
            f" (1, {first}, 'view', now()), (1, {second}, 'view', now())".encode()
        )
        for factor in (-0.999, -1.0):
            conn.execute(
                "update recsys.item_embedding_shop_1 as h set embedding = (select"
                " o.embedding * array_fill(%s::real, array[vector_dims(o.embedding)])"
                "::halfvec from recsys.item_embedding_shop_1 as o"
                " where o.item_id = %s) where h.item_id = %s",
                (factor, first, second),
            )
            with Recommender("shop", connection=conn) as shop:
                page = shop.recommend(1, k=10)

            bonuses = [Slowly(conn, 1).bonus(item) for item in page.ids]
            assert len(page) == 10
            # Two rows of one length on either side: half of 2 / 0.3.
            assert 1 < max(bonuses) <= 1 / 0.3 + 1e-3
            assert page[0].score <= 1 + 1 / 0.3 + 0.5
        world.assert_alike_in_sql(dsn, [1])


def test_a_row_that_is_far_too_long_is_no_error(dsn: str) -> None:
    """Postgres cannot raise e to a thousand, and makes that an error."""
    world.fill_shop(dsn, items=80, users=1)
    config = world.shop_config(query={"rerank": 0.1})
    world.add_version(dsn, config, promote=True)
    with _db.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "delete from event; insert into event select 1, id, case id when 1"
            " then 'view' else 'purchase' end, now() from product where id <= 50;"
            " update recsys.item_embedding_shop_1 set embedding = embedding *"
            " array_fill(case item_id when 1 then 1000 else 0.001 end::real,"
            " array[vector_dims(embedding)])::halfvec"
        )
        with Recommender("shop", connection=conn) as shop:
            page = shop.recommend(1, k=10)
        found = conn.execute("select * from recsys.recommend('shop', 1, 10)").fetchall()

    assert len(page) == len(found) == 10
    assert all(math.isfinite(score) for _, score in found)
    # One of 246 parts of the weight, and all of the length.
    assert page[0].score > 100


def test_rules_and_min_score_go_together(still: Shop, conn: _db.Connection) -> None:
    """What min_score leaves out must not shift the vectors of the rest."""
    varied = Rules(mmr=0.3, candidates=200)  # as many as a page of 40 ranks again
    with Recommender("shop", connection=conn) as shop:
        every = shop.recommend(7, k=40, recall_target=1)
        least = every[19].score - 1e-6
        some = shop.recommend(7, k=5, min_score=least, rules=varied, recall_target=1)
        same = shop.recommend(
            7,
            k=5,
            among=("select unnest(%s::bigint[])", [list(every.ids[:20])]),
            rules=varied,
            recall_target=1,
        )

    assert some.ids == same.ids
    assert some.ids != every.ids[:5]


@pytest.mark.parametrize("id_type", ["bigint", "uuid", "text"])
def test_sql_ranks_again_as_python_does(dsn: str, id_type: Any) -> None:
    world.fill_shop(dsn, id_type, items=ITEMS, users=8)
    config = world.shop_config(id_type, query={"rerank": TEMPERATURE})
    world.add_version(dsn, config, promote=True, leans=True)
    everybody = [world.make_id(id_type, n) for n in (*range(1, 9), 999)]

    world.assert_alike_in_sql(dsn, everybody)
    world.assert_alike_in_sql(dsn, everybody, k=150)


def test_sql_says_what_single_items_add(still: Shop, conn: _db.Connection) -> None:
    slowly = Slowly(conn, 4)
    some = list(slowly.vectors)[:30]

    found = dict(
        conn.execute(
            "select * from recsys._rerank_shop_1(4::bigint, %s::bigint[], %s)",
            (some, TEMPERATURE),
        ).fetchall()
    )
    nobody = conn.execute(
        "select * from recsys._rerank_shop_1(999::bigint, %s::bigint[], 1)", (some,)
    ).fetchall()

    expected = {item: slowly.bonus(item) for item in some}
    assert found == pytest.approx(expected, abs=2e-3)
    assert nobody == []


def test_an_evaluation_asks_as_a_request_does(still: Shop) -> None:
    with _db.connect(still.dsn) as conn, Recommender("shop", dsn=still.dsn) as shop:
        pages = {user: shop.recommend(user, k=20) for user in range(1, USERS + 1)}
        hits = {user: {page.ids[3]} for user, page in pages.items()}
        found = evaluate.evaluate(
            conn, "shop", 1, evaluate.Holdout(hits, None, {}), exact=True
        )

    # The fourth of each list, so that a list in another order cannot score the same.
    expected = 1 / math.log2(5)
    assert found.metrics["model"]["recall@20"] == 1
    assert found.metrics["model"]["ndcg@20"] == pytest.approx(expected)
    assert found.metrics["exact"]["recall@20"] == 1
    assert found.metrics["exact"]["ndcg@20"] == pytest.approx(expected, abs=0.02)


def test_an_item_that_goes_during_an_exact_scan_is_passed_over(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fill_shop(dsn, items=60, users=4)
    config = world.shop_config(query={"rerank": TEMPERATURE})
    world.add_version(dsn, config, promote=True)
    ranked = _exact._rank  # pyright: ignore[reportPrivateUsage]
    with _db.connect(dsn, autocommit=True) as conn:
        version = versions.get(conn, "shop", 1)
        answers = [Served(conn, version, 10, None).ask(1)]
        gone = answers[0].items[0]

        def then_gone(*args: Any, **options: Any) -> Any:
            found = ranked(*args, **options)
            with psycopg.connect(dsn) as other:
                other.execute(
                    "delete from recsys.item_vector_shop_1 where item_id = %s", (gone,)
                )
            return found

        monkeypatch.setattr(_exact, "_rank", then_gone)
        (list_,) = _exact.exact(conn, version, answers, 10)

    assert gone not in list_.items
    assert len(list_.items) == 10
