"""Own connections prepare their statements where one session is behind them."""

from __future__ import annotations

from pooler import pooler
from web import expected

from recsys import Recommender, _db, _request_sql
from recsys._own import OwnConnections
from recsys.config import from_mapping


def prepared(source: OwnConnections) -> list[str]:
    with source.use() as conn:
        rows = conn.execute("select statement from pg_prepared_statements").fetchall()
    return [row[0] for row in rows]


def test_a_direct_connection_prepares_what_is_asked_again(shop: str) -> None:
    source = OwnConnections(shop)
    with Recommender("shop", connection=source) as asking:
        for _ in range(4):
            asking.recommend(7, k=5)
        names = prepared(source)

    assert sum("_state_shop_" in name for name in names) == 1
    assert sum("_search_shop_" in name for name in names) == 1


def test_nothing_is_prepared_behind_a_pooler(server: str, shop: str) -> None:
    with pooler(server, size=1) as pool:
        source = OwnConnections(pool.dsn(shop))
        with source.use() as conn:
            threshold = conn.prepare_threshold
        source.close()

    assert threshold is None


def test_a_statement_that_another_session_prepared_is_asked_anew(shop: str) -> None:
    source = OwnConnections(shop)
    with Recommender("shop", connection=source, fallback=False) as asking:
        for _ in range(4):
            asking.recommend(7, k=5)
        with source.use() as conn:
            # psycopg does not see it: as if another session had come.
            conn.pgconn.exec_(b"deallocate all")

        page = asking.recommend(7, k=5)
        for _ in range(4):
            asking.recommend(7, k=5)

        assert page.ids == expected(shop)[7]
        assert prepared(source) == []


def test_ids_arrive_as_they_are(shop: str) -> None:
    lists = [[], [1], [-1, 2**63 - 1, 0, 7], [3, None]]
    given = from_mapping(
        {"model": {"shop": {"items": {"sql": "select 1 as item_id"},
                            "interactions": {"sql": "select 1 as user_id"}}}}
    ).model("shop")  # fmt: skip
    statements = _request_sql.statements("shop_1", given)
    with _db.connect(shop) as conn, _db.binary_cursor(conn) as cur:
        rows = [
            cur.execute("select %s::bigint[]", (statements.array(ids),)).fetchone()
            for ids in lists
        ]

    assert [row[0] for row in rows] == lists
