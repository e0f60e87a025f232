"""Filters, boosts and rules against a slow reading of what they promise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
import world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys import _candidates, _db, _request_sql, _wanted, retrieval
from recsys._loaded import Loaded, LoadedVersions
from recsys.errors import ConfigError, SourceError
from recsys.rules import Fresh, Rules
from recsys.types import ItemId

ROWS = 3_000
DIM = 16


class Catalogue:
    """No dataclass: hypothesis would print every vector."""

    def __init__(
        self,
        dsn: str,
        vectors: Mapping[ItemId, NDArray[np.float32]],
        version: Loaded,
    ) -> None:
        self.dsn, self.vectors, self.version = dsn, vectors, version


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
    wanted = _wanted.wanted(k, **options)
    ids, found = _candidates.find(conn, catalogue.version, query(seed), wanted, seen)
    return list(ids), list(found)


def best(values: Mapping[ItemId, float]) -> list[ItemId]:
    return sorted(values, key=lambda item: (-values[item], item))


def column(conn: _db.Connection, sql: str) -> dict[ItemId, Any]:
    return dict(conn.execute(sql.encode()).fetchall())


BRANDS = "select id, brand from product"
KEYS = (
    BRANDS,
    "select id, id / 2 from product",
    "select id, case when shelf % 3 > 0 then shelf % 11 end from product",
    "select id, shelf % 37 from product",
)


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
    max_examples=60,
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
    k = data.draw(st.sampled_from([1, 5, 20, 30]))
    per = data.draw(st.sampled_from(KEYS))
    brands = column(conn, per)
    least = data.draw(st.none() | st.sampled_from([2, k, 200]))
    min_score = (
        None
        if least is None
        else (all_scores[order[least]] + all_scores[order[least + 1]]) / 2
    )
    by_index = data.draw(st.booleans())
    shelves = column(conn, "select id, shelf from product")
    passing = {item for item in order if shelves[item] % modulus == 0}
    final = {
        item: all_scores[item] + amounts.get(item, 0)
        for item in passing
        if item not in exclude
        and item not in seen
        and (min_score is None or all_scores[item] >= min_score)
    }
    pinned = [item for item in pin if item in passing and item not in exclude][:k]
    counts: dict[Any, int] = {}
    want = []
    for item in [*pinned, *sorted(best(final), key=lambda item: item in bury)]:
        if item in want:
            continue
        key = brands[item]
        counts[key] = counts.get(key, 0) + 1
        if item in pinned or at_most is None or key is None or counts[key] <= at_most:
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
        rules=Rules(at_most=at_most, per=per if at_most else None, pin=pin, bury=bury),
        min_score=min_score,
        recall_target=None if by_index else 1,
    )

    if not by_index:
        assert ids == want[:k]
        return
    # The index may know a neighbour less; everything else holds for it as well.
    assert ids[: len(pinned)] == pinned
    assert len(set(ids)) == len(ids) == len(want[:k])
    assert set(ids) <= {*final, *pinned}
    assert len(set(ids) & set(want[:k])) >= 0.7 * len(ids) - 1


# what a request may contain ----------------------------------------------------------

_PIECES = (
    "'", '"', "\\", ";", "--", "/*", "*/", "$1", "$$", "$function$", "%", "%s", "%(x)s",
    "{", "}", ")", "(", "\n", "\0", "\ud800", "E'", "') or true --", "@s@", ":x",
    "'; drop table product; --", "\\'; drop table product; --", "ﬀ", "🍏", "＇",
)  # fmt: skip
HOSTILE = st.lists(
    st.sampled_from(_PIECES) | st.text(max_size=4), min_size=1, max_size=5
).map("".join)


def tables(conn: _db.Connection) -> list[Any]:
    return conn.execute(
        "select (select count(*) from product), (select count(*) from customer),"
        " (select count(*) from recsys.item_vector_shop_1)"
    ).fetchall()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=HOSTILE, effort=st.sampled_from([None, 1]))
def test_parameters_are_values_whatever_they_contain(
    catalogue: Catalogue, conn: _db.Connection, text: str, effort: float | None
) -> None:
    """A parameter comes back as it is, or is refused; it is never read as SQL."""
    before = tables(conn)
    # True where Postgres reads the very bytes that were passed.
    same = "convert_to(%s, 'UTF8') = %s"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = None
    rules = Rules(
        at_most=2,
        per=(
            f"select id, case when {same} then id::text else 'x' end from product",
            [text, encoded],
        ),
        fresh=Fresh(
            (f"select id, now() from product where {same}", [text, encoded]),
            timedelta(1),
            3,
        ),
    )
    options: dict[str, Any] = {
        "among": (f"select id from product where {same}", [text, encoded]),
        "boost": (f"select id, 4 from product where {same}", [text, encoded]),
        "rules": rules,
        "recall_target": effort,
    }

    if "\0" in text or encoded is None:
        with pytest.raises(ConfigError):
            find(catalogue, conn, 5, **options)
    else:
        ids, found = find(catalogue, conn, 5, **options)
        assert len(ids) == 5
        assert all(score > 5 for score in found)
    assert tables(conn) == before


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    text=HOSTILE,
    place=st.sampled_from(["among", "boost", "per", "times"]),
    effort=st.sampled_from([None, 1]),
)
def test_broken_queries_are_explained_and_change_nothing(
    catalogue: Catalogue,
    conn: _db.Connection,
    text: str,
    place: str,
    effort: float | None,
) -> None:
    before = tables(conn)
    conn.commit()
    columns = {"among": "id", "boost": "id, 1", "per": "id, 'x'", "times": "id, now()"}
    sql = f"select {columns[place]} from product where title <> '' {text}"
    options: dict[str, Any] = {"recall_target": effort}
    with suppress(ConfigError, SourceError):
        if place == "per":
            options["rules"] = Rules(at_most=5, per=sql)
        elif place == "times":
            options["rules"] = Rules(fresh=Fresh(sql, timedelta(1), 1))
        else:
            options[place] = sql
        find(catalogue, conn, 5, **options)
    conn.rollback()

    assert tables(conn) == before
    conn.commit()


BREAKOUTS = (
    "select id from product) as f(item_id)); drop table product; --",
    "select id from product; drop table product",
    "select id from product where true) limit 5; delete from product; select (1",
    "with gone as (delete from product returning id) select id from gone",
)


@pytest.mark.parametrize("effort", [None, 1])
@pytest.mark.parametrize("whole", ["", " /* limit */"])
@pytest.mark.parametrize("text", BREAKOUTS)
def test_not_even_a_filter_that_is_hostile_itself_can_write(
    catalogue: Catalogue,
    conn: _db.Connection,
    text: str,
    whole: str,
    effort: float | None,
) -> None:
    before = tables(conn)
    conn.commit()
    for place in ("among", "boost", "per"):
        rules = Rules(at_most=1, per=text) if place == "per" else None
        given_query = {} if rules else {place: text + whole}
        with pytest.raises(SourceError):
            find(catalogue, conn, 5, rules=rules, recall_target=effort, **given_query)
        conn.rollback()

    assert tables(conn) == before


def test_the_cost_of_a_statement_is_asked_for_one_statement_only(
    conn: _db.Connection,
) -> None:
    with pytest.raises(psycopg.Error):
        conn.execute(
            "select recsys._cost('select 1; drop table product', null::halfvec,"
            " '{}'::bigint[], 0, 1)"
        )
    conn.rollback()

    assert tables(conn)[0][0] == ROWS


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"among": "select nonsense from product"}, "among"),
        ({"among": "select id, title from product"}, "among"),
        ({"among": "select title from product"}, "among"),
        ({"among": "select 1/0"}, "among"),
        ({"boost": "select id from product"}, "boost"),
        ({"boost": "select id, title from product"}, "boost"),
        ({"boost": "select id, 'nan'::float8 from product"}, "boost"),
        ({"rules": Rules(at_most=1, per="select id from nowhere")}, "rules.per"),
        (
            {
                "rules": Rules(
                    fresh=Fresh("select id, title from product", timedelta(1), 1)
                )
            },
            "rules.fresh.times",
        ),
    ],
)
def test_the_query_that_fails_is_named(
    catalogue: Catalogue, conn: _db.Connection, options: Any, named: str
) -> None:
    for effort in (None, 1):
        with pytest.raises(SourceError, match=named) as caught:
            find(catalogue, conn, 5, recall_target=effort, **options)
        conn.rollback()
        assert caught.value.hint


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rules(at_most=0, per=BRANDS),
        lambda: Rules(at_most=2),
        lambda: Rules(per=BRANDS),
        lambda: Rules(mmr=1.5),
        lambda: Rules(mmr=float("nan")),
        lambda: Rules(pin=[1], bury=[1]),
        lambda: Rules(pin="abc"),
        lambda: Rules(pin=list(range(1001))),
        lambda: Rules(pin=[[1]]),  # type: ignore[list-item]
        lambda: Rules(candidates=5001),
        lambda: Rules(fresh="new"),  # type: ignore[arg-type]
        lambda: Fresh(BRANDS, timedelta(0), 1),
        lambda: Fresh(BRANDS, 7, 1),  # type: ignore[arg-type]
        lambda: Fresh(BRANDS, timedelta(1), float("inf")),
        lambda: _wanted.wanted(5, rules={"mmr": 1}),  # type: ignore[arg-type]
        lambda: _wanted.wanted(5, among=17),
        lambda: _wanted.wanted(5, among=("select 1", "x")),
        lambda: _wanted.wanted(5, among=("select 1", [], [])),
        lambda: _wanted.wanted(5, boost={1: "2"}),
        lambda: _wanted.wanted(5, boost={1: float("nan")}),
        lambda: _wanted.wanted(5, boost=dict.fromkeys(range(1001), 1.0)),
        lambda: _wanted.wanted(5, min_score=float("inf")),
        lambda: _wanted.wanted(5, recall_target=0),
        lambda: _wanted.wanted(5, recall_target=1.1),
    ],
)
def test_wishes_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"among": [1, 2, 3]}, r"filter\(pk__in=ids\)"),
        ({"among": "product"}, "Its only column"),
        ({"rules": Rules(at_most=2, per="category")}, "It must have two columns"),
    ],
)
def test_what_is_no_query_is_refused_with_one_that_is(options: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match="must be a query") as caught:
        _wanted.wanted(5, **options)

    assert re.search(hint, caught.value.hint)


@pytest.mark.parametrize(
    "options",
    [
        {"boost": {"7": 1.0}},
        {"rules": Rules(pin=["7"])},
        {"rules": Rules(bury=[2**63])},
        {"exclude": [None]},
    ],
)
def test_ids_of_another_type_are_refused(
    catalogue: Catalogue, conn: _db.Connection, options: Any
) -> None:
    with pytest.raises(ConfigError, match="item_id"):
        find(catalogue, conn, 5, **options)


@pytest.mark.parametrize("among", [
    "select id from product union all select null",
    "select id from product union all select id from product",
    "select id::integer from product",
    "select id::numeric from product",
    "select id from product order by price limit 2900",
    "select max(id) from product group by id",
    "values (1), (2), (3), (4), (5), (6)",
    "table only_ids",
])  # fmt: skip
def test_filters_of_every_shape_fill_the_page(
    catalogue: Catalogue, conn: _db.Connection, among: str
) -> None:
    conn.execute("create temp table only_ids as select id from product")
    all_scores = scores(catalogue, query())
    rows = {row[0] for row in conn.execute(among.encode())}
    want = [item for item in best(all_scores) if item in rows]

    exact, _ = find(catalogue, conn, 5, among=among)
    quick, _ = find(catalogue, conn, 5, among=among, recall_target=None)

    assert exact == want[:5]
    assert len(quick) == len(set(quick)) == 5
    assert set(quick) <= rows


UNUSUAL = {
    "enable_seqscan": "off",
    "enable_sort": "off",
    "jit": "on",
    "plan_cache_mode": "force_custom_plan",
    "hnsw.ef_search": "33",
    "hnsw.iterative_scan": "strict_order",
    "hnsw.max_scan_tuples": "4444",
    "hnsw.scan_mem_multiplier": "3",
}


def test_no_setting_stays_behind(catalogue: Catalogue) -> None:
    def current(conn: _db.Connection) -> list[Any]:
        return [row[:2] for row in conn.execute("show all")]

    with _db.connect(catalogue.dsn) as conn:
        conn.execute("select '[1]'::vector")  # libraries bring their settings
        conn.execute("do $$ begin end $$")
        # None at its default: one that is put back to that would look untouched.
        for name, value in UNUSUAL.items():
            conn.execute(f"set local {name} = {value}".encode())
        before = current(conn)
        for among in ("select id from product", "select id from product where id = 3"):
            find(catalogue, conn, 5, among=among, recall_target=None)
        after = current(conn)
    assert after == before


def test_a_recall_target_takes_the_measured_depth_or_all(catalogue: Catalogue) -> None:
    version = replace(catalogue.version, recall_curve=[(40, 0.9), (80, 0.97)])

    def effort(target: float | None) -> int | None:
        exact, ef_search = _candidates.effort(version, target)
        return None if exact else ef_search

    assert [effort(t) for t in (0.5, 0.9, 0.95, 0.98, 1.0)] == [40, 40, 80, None, None]
    assert effort(None) == version.ef_search


def test_a_backfill_keeps_the_recall_that_it_measured(
    catalogue: Catalogue, conn: _db.Connection
) -> None:
    row = conn.execute(
        "select ef_search, ann_recall, recall_curve from recsys.model_version"
    ).fetchone()
    assert row
    ef_search, recall, curve = row

    assert dict(curve)[ef_search] == pytest.approx(recall, abs=1e-3)
    assert [tuple(point) for point in catalogue.version.recall_curve] == [
        tuple(point) for point in curve
    ]


def test_the_second_request_begins_where_the_first_one_ended(
    catalogue: Catalogue, conn: _db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[_request_sql.Look, _request_sql.Seen]] = []
    asked = retrieval.candidates

    def watched(*given: Any) -> _request_sql.Seen:
        looks.append((given[2], asked(*given)))
        return looks[-1][1]

    monkeypatch.setattr(retrieval, "candidates", watched)
    among = "select id from product where shelf % 5 = 0 -- asked twice"
    for _ in range(2):
        ids, _ = find(catalogue, conn, 20, among=among, recall_target=None)
        assert len(ids) == 20

    (first, found), (second, again) = looks
    assert first.first is None
    assert found.needed is not None
    assert found.scanned > first.ef_search, "the first one had to go on"
    assert second.first == pytest.approx(1.02 * found.needed, abs=2)
    assert again.scanned >= again.needed
