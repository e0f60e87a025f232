"""Filters, boosts and rules against a slow reading of what they promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys import Recommender, _candidates, _db
from recsys._loaded import Loaded, LoadedVersions
from recsys.errors import ConfigError, SourceError
from recsys.rules import Fresh, Rules
from recsys.types import ItemId

ROWS = 3_000
DIM = 16


@dataclass(frozen=True)
class Catalogue:
    dsn: str
    vectors: Mapping[ItemId, NDArray[np.float32]]
    version: Loaded


@pytest.fixture(scope="module")
def catalogue(server: str, template: str) -> Iterator[Catalogue]:
    model = world.shop_config(train={"dim": DIM})
    with world.database(server, template) as dsn:
        world.fill_shop(dsn, items=ROWS, users=60, events=30)
        world.add_version(dsn, model, promote=True)
        with _db.connect(dsn) as conn:
            vectors = world.stored_vectors(conn, "shop_1")
            version = LoadedVersions("shop").turn(conn, None).version
        yield Catalogue(dsn, vectors, version)


@pytest.fixture
def conn(catalogue: Catalogue) -> Iterator[_db.Connection]:
    with _db.connect(catalogue.dsn) as conn:
        yield conn


def query(seed: int = 0) -> NDArray[np.float32]:
    row = np.random.default_rng(seed).normal(size=DIM)
    return np.append(row / np.linalg.norm(row), 1).astype(np.float32)


def scores(catalogue: Catalogue, vector: NDArray[np.float32]) -> dict[ItemId, float]:
    rounded = vector.astype(np.float16).astype(np.float32)
    return {i: float(row @ rounded) for i, row in catalogue.vectors.items()}


def find(
    catalogue: Catalogue,
    conn: _db.Connection,
    k: int,
    seed: int = 0,
    *,
    seen: Sequence[ItemId] = (),
    **options: Any,
) -> tuple[list[ItemId], list[float]]:
    # Exact, so that what differs from the slow reading is no recall of the index.
    options.setdefault("recall_target", 1)
    wanted = _candidates.wanted(k, **options)
    ids, found = _candidates.find(conn, catalogue.version, query(seed), wanted, seen)
    return list(ids), list(found)


def best(values: Mapping[ItemId, float]) -> list[ItemId]:
    return sorted(values, key=lambda item: (-values[item], item))


def column(conn: _db.Connection, sql: str) -> dict[ItemId, Any]:
    return dict(conn.execute(sql.encode()).fetchall())


BRANDS = "select id, brand from product"


# scores ----------------------------------------------------------------------------


@pytest.mark.parametrize("effort", [None, 1])
def test_min_score_is_of_the_models_score(
    catalogue: Catalogue, conn: _db.Connection, effort: float | None
) -> None:
    all_scores = scores(catalogue, query())
    order = best(all_scores)
    least = (all_scores[order[6]] + all_scores[order[7]]) / 2

    ids, found = find(catalogue, conn, 20, min_score=least, recall_target=effort)

    assert ids == order[:7]
    assert min(found) >= least
    assert find(catalogue, conn, 3, min_score=least)[0] == order[:3]
    assert find(catalogue, conn, 3, min_score=99) == ([], [])


@pytest.mark.parametrize("effort", [None, 1])
def test_boosted_items_are_candidates_whatever_their_rank(
    catalogue: Catalogue, conn: _db.Connection, effort: float | None
) -> None:
    all_scores = scores(catalogue, query())
    order = best(all_scores)
    amounts = {order[-1]: 9.0, order[1500]: 8.0, order[0]: -9.0}

    ids, found = find(catalogue, conn, 5, boost=amounts, recall_target=effort)

    assert ids == [order[-1], order[1500], *order[1:4]]
    np.testing.assert_allclose(found[0], all_scores[order[-1]] + 9, atol=1e-3)


def test_a_boost_does_not_get_past_filter_exclusions_or_min_score(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    order = best(scores(catalogue, query()))
    amounts = dict.fromkeys(order[-3:], 9.0)

    among = ("select id from product where id <> %s", [order[-1]])
    ids, _ = find(
        catalogue,
        conn,
        5,
        boost=amounts,
        among=among,
        exclude=[order[-2]],
        seen=[order[-3]],
    )

    assert ids == order[:5]
    assert find(catalogue, conn, 5, boost=amounts, min_score=0.5)[0] == order[:5]


def test_a_boost_query_orders_the_nearest_anew(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    all_scores = scores(catalogue, query())
    prices = column(conn, "select id, price from product")
    near = best(all_scores)[:50]
    want = best({item: all_scores[item] + prices[item] / 100 for item in near})

    boost = ("select id, price / %s from product union all select 1, null", [100])
    rules = Rules(candidates=50)
    ids, found = find(catalogue, conn, 10, boost=boost, rules=rules)

    assert ids == want[:10]
    assert found == sorted(found, reverse=True)


def test_freshness_halves_with_age(catalogue: Catalogue, conn: _db.Connection) -> None:
    all_scores = scores(catalogue, query())
    ages = column(
        conn, "select id, extract(epoch from now() - created_at)::float8 from product"
    )
    half_life = timedelta(days=30)
    near = best(all_scores)[:100]
    want = {
        item: all_scores[item]
        + 2 * 0.5 ** (max(ages[item], 0) / half_life.total_seconds())
        for item in near
    }

    fresh = Fresh("select id, created_at from product", half_life, 2)
    ids, found = find(catalogue, conn, 10, rules=Rules(fresh=fresh))

    assert ids == best(want)[:10]
    np.testing.assert_allclose(found, [want[item] for item in ids], atol=1e-3)


@pytest.mark.parametrize("time", ["null::timestamptz", "'infinity'", "'-infinity'"])
def test_an_item_without_a_time_gains_nothing(
    catalogue: Catalogue, conn: _db.Connection, time: str
) -> None:
    fresh = Fresh(f"select id, {time}::timestamptz from product", timedelta(1), 5)

    found = find(catalogue, conn, 10, rules=Rules(fresh=fresh))

    assert found == find(catalogue, conn, 10)


# variety ---------------------------------------------------------------------------


@pytest.mark.parametrize("effort", [None, 1])
@pytest.mark.parametrize("at_most", [1, 4])
def test_no_key_takes_more_than_its_places_and_the_page_is_full(
    catalogue: Catalogue, conn: _db.Connection, at_most: int, effort: float | None
) -> None:
    all_scores = scores(catalogue, query())
    shelves = column(conn, "select id, shelf % 30 from product")
    count: dict[Any, int] = {}
    want: list[ItemId] = []
    for item in best(all_scores):
        count[shelves[item]] = count.get(shelves[item], 0) + 1
        if count[shelves[item]] <= at_most:
            want.append(item)

    rules = Rules(at_most=at_most, per="select id, shelf % 30 from product")
    ids, _ = find(catalogue, conn, 20, rules=rules, recall_target=effort)

    assert len(ids) == 20
    if effort:
        assert ids == want[:20]
    else:
        assert len(set(ids) & set(want[:20])) >= 17


@pytest.mark.parametrize("effort", [None, 1])
def test_crowding_searches_the_whole_catalogue_for_another_key(
    catalogue: Catalogue, conn: _db.Connection, effort: float | None
) -> None:
    """All items are of one key, but the two that fit worst."""
    order = best(scores(catalogue, query()))
    rare = order[-2:]
    per = (
        "select id, case when id = any(%s) then id::text else 'x' end from product",
        [rare],
    )

    rules = Rules(at_most=1, per=per)
    ids, _ = find(catalogue, conn, 20, rules=rules, recall_target=effort)

    assert ids == [order[0], *rare]


def test_items_without_a_key_are_not_limited(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    order = best(scores(catalogue, query()))
    per = ("select id, nullif(brand, brand) from product where id <> %s", [order[0]])

    ids, _ = find(catalogue, conn, 20, rules=Rules(at_most=1, per=per))

    assert ids == order[:20]


def test_of_several_keys_the_smallest_counts(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    order = best(scores(catalogue, query()))
    per = (
        "select id, 'a' from product union all select id, id::text || 'b' from product"
    )

    ids, _ = find(catalogue, conn, 5, rules=Rules(at_most=1, per=per))

    assert ids == order[:5]  # '1b' < 'a', and each item's own


def test_mmr_of_one_is_the_order_by_score_and_of_zero_is_varied(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    order = best(scores(catalogue, query()))

    def likeness(ids: Sequence[ItemId]) -> float:
        rows = np.stack([catalogue.vectors[item][:DIM] for item in ids])
        return float((rows @ rows.T).mean())

    same, _ = find(catalogue, conn, 10, rules=Rules(mmr=1))
    half, _ = find(catalogue, conn, 10, rules=Rules(mmr=0.5))
    varied, _ = find(catalogue, conn, 10, rules=Rules(mmr=0.0))

    assert same == order[:10]
    assert half[0] == order[0]
    assert likeness(varied) < likeness(half) < likeness(same)
    assert set(varied) <= set(order[:100])


# pinned and buried -----------------------------------------------------------------


@pytest.mark.parametrize("effort", [None, 1])
def test_pinned_items_stand_in_front_also_when_seen(
    catalogue: Catalogue, conn: _db.Connection, effort: float | None
) -> None:
    order = best(scores(catalogue, query()))
    pin = [order[-1], order[3], 999_999, order[-1], order[-2], order[-3]]

    ids, _ = find(
        catalogue,
        conn,
        6,
        rules=Rules(pin=pin),
        seen=[order[-1], order[0]],
        exclude=[order[-2]],
        among=("select id from product where id <> %s", [order[-3]]),
        recall_target=effort,
    )

    assert ids == [order[-1], order[3], order[1], order[2], order[4], order[5]]


@pytest.mark.parametrize("effort", [None, 1])
def test_buried_items_come_only_behind_all_others(
    catalogue: Catalogue, conn: _db.Connection, effort: float | None
) -> None:
    order = best(scores(catalogue, query()))
    few = ("select id from product where id = any(%s)", [order[:8]])
    rules = Rules(bury=order[:5])

    ids, _ = find(catalogue, conn, 6, rules=rules, recall_target=effort)
    short, _ = find(catalogue, conn, 6, rules=rules, among=few, recall_target=effort)

    assert ids == order[5:11]
    assert short == [*order[5:8], *order[:3]]


def test_pinned_items_count_among_their_key(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    brands = column(conn, BRANDS)
    order = best(scores(catalogue, query()))
    pin = [item for item in order if brands[item] == "Acme"][:3]

    ids, _ = find(catalogue, conn, 9, rules=Rules(at_most=2, per=BRANDS, pin=pin))

    assert ids[:3] == pin
    counts = [brands[item] for item in ids[3:]]
    assert "Acme" not in counts
    assert max(map(counts.count, counts)) == 2


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_everything_at_once_is_what_the_order_of_the_rules_says(
    catalogue: Catalogue, conn: _db.Connection, data: st.DataObject
) -> None:
    seed = data.draw(st.integers(0, 3))
    all_scores = scores(catalogue, query(seed))
    order = best(all_scores)
    some = st.lists(st.sampled_from(order[:12] + order[-3:]), max_size=6, unique=True)
    pin, seen, exclude, bury = (data.draw(some) for _ in range(4))
    bury = [item for item in bury if item not in pin]
    amounts = {
        item: data.draw(st.sampled_from([-2.0, 0.5, 5.0])) for item in data.draw(some)
    }
    at_most = data.draw(st.none() | st.integers(1, 3))
    modulus = data.draw(st.sampled_from([1, 2, 50, 1000]))
    k = data.draw(st.sampled_from([1, 5, 30]))
    brands = column(conn, BRANDS)
    shelves = column(conn, "select id, shelf from product")
    passing = {item for item in order if shelves[item] % modulus == 0}
    final = {
        item: all_scores[item] + amounts.get(item, 0)
        for item in passing
        if item not in exclude and item not in seen
    }
    pinned = [item for item in pin if item in passing and item not in exclude][:k]
    counts: dict[Any, int] = {}
    want = []
    for item in [*pinned, *sorted(best(final), key=lambda item: item in bury)]:
        if item in want:
            continue
        counts[brands[item]] = counts.get(brands[item], 0) + 1
        if item in pinned or at_most is None or counts[brands[item]] <= at_most:
            want.append(item)

    ids, _ = find(
        catalogue,
        conn,
        k,
        seed,
        seen=seen,
        exclude=exclude,
        among=("select id from product where shelf %% %s = 0", [modulus]),
        boost=amounts,
        rules=Rules(
            at_most=at_most, per=BRANDS if at_most else None, pin=pin, bury=bury
        ),
    )

    assert ids == want[:k]
