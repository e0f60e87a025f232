"""The two views under test, as WSGI applications, one per gunicorn.

    /?user=7&share=10&crowd=1

``bare`` runs only the nearest-neighbour SQL, with a query vector that somebody else
computed; it does not know what the user has seen. ``recommend`` is what a user of
recsys writes. Both answer the same JSON.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

K = 20
_BYTES = 4 + 2 * 65
"""Of one packed query vector."""
Answer = Callable[[int, int, bool], tuple[list[int], list[float]]]


def _application(answer: Answer) -> Callable[..., Iterable[bytes]]:
    def application(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        asked = dict(parse_qsl(environ["QUERY_STRING"]))
        ids, scores = answer(
            int(asked["user"]), int(asked.get("share", 100)), "crowd" in asked
        )
        body = json.dumps({"ids": ids, "scores": scores}).encode()
        start(
            "200 OK",
            [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("X-Items", str(len(ids))),
            ],
        )
        return [body]

    return application


def bare() -> Callable[..., Iterable[bytes]]:
    """Return the view with nothing but SQL: psycopg as it comes."""
    import psycopg
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    class Vector:
        def __init__(self, data: bytes) -> None:
            self.data = data

    class VectorDumper(Dumper):
        format = Format.BINARY

        def dump(self, obj: Vector) -> bytes:
            return obj.data

    dsn = os.environ["RECSYS_BENCH_DSN"]
    queries = Path(os.environ["RECSYS_BENCH_QUERIES"]).read_bytes()
    local = threading.local()

    def connection() -> psycopg.Connection[Any]:
        conn = getattr(local, "conn", None)
        if conn is None:
            # The database has the settings of the index: see turns.settings.
            pooled = "RECSYS_BENCH_POOLED" in os.environ
            conn = local.conn = psycopg.connect(
                dsn, autocommit=True, prepare_threshold=None if pooled else 5
            )
            conn.adapters.register_dumper(Vector, VectorDumper)
        return conn

    def answer(user: int, share: int, crowd: bool) -> tuple[list[int], list[float]]:
        vector = Vector(queries[user * _BYTES : (user + 1) * _BYTES])
        values: dict[str, object] = {"query": vector, "share": share}
        statement = CROWDED if crowd else PLAIN if share == 100 else FILTERED
        with connection().cursor(binary=True) as cur:
            rows = cur.execute(statement, values).fetchall()
        return [row[0] for row in rows], [-row[1] for row in rows]

    return _application(answer)


PLAIN = """
select item_id, embedding <#> %(query)s::halfvec
from recsys.item_vector_bench_1
order by embedding <#> %(query)s::halfvec
limit 20
"""
FILTERED = """
select v.item_id, v.embedding <#> %(query)s::halfvec
from recsys.item_vector_bench_1 as v join bench_item as i on i.id = v.item_id
where i.part < %(share)s
order by v.embedding <#> %(query)s::halfvec
limit 20
"""
CROWDED = """
select item_id, distance
from (
    select near.item_id, near.distance,
           row_number() over (partition by i.seller order by near.distance) as place
    from (select item_id, embedding <#> %(query)s::halfvec as distance
          from recsys.item_vector_bench_1
          order by embedding <#> %(query)s::halfvec
          limit 200) as near
    join bench_item as i on i.id = near.item_id
) as ranked
where place <= 2
order by distance
limit 20
"""


def recommend() -> Callable[..., Iterable[bytes]]:
    """Return the view of a user of recsys."""
    from recsys import Recommender
    from recsys.rules import Rules

    shop = Recommender("bench", dsn=os.environ["RECSYS_BENCH_DSN"], fallback=False)
    crowded = Rules(at_most=2, per="select id, seller from bench_item")

    def answer(user: int, share: int, crowd: bool) -> tuple[list[int], list[float]]:
        among = ("select id from bench_item where part < %s", [share])
        page = shop.recommend(
            user,
            k=K,
            among=None if share == 100 else among,
            rules=crowded if crowd else None,
        )
        return page.ids, [item.score for item in page]

    return _application(answer)
