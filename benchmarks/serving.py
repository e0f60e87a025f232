"""recommend() against the bare nearest-neighbour statement, and backfill against COPY.

Both sides of a ratio are measured in one run, query by query in turn, on the same kind
of connection (autocommit, not prepared). Left out: network latency, which would hide
our own cost; features of users and requests, which the query tower pays for;
concurrent writers.
"""

from __future__ import annotations

import time

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks import world
from benchmarks.report import Row
from recsys import Recommender, _copy, _db, _index, rollout
from recsys._db import Halfvec
from recsys.backfill import backfill
from recsys.progress import Progress

K = 20


def run(dsn: str, items: int, queries: int, progress: Progress) -> list[Row]:
    """Measure loading and serving of one version."""
    dim = 64
    learned = world.catalogue(items, dim, seed=1)
    memory = _index.build_memory_mb(items, dim + 1, 16)
    with _db.connect(dsn) as conn:
        world.tables(conn, learned, seed=2)
        number = world.register(conn, learned, dim)
        conn.commit()
        with progress.stage("Bare COPY and CREATE INDEX"):
            start = time.perf_counter()
            world.bare_copy_and_index(conn, learned, memory)
            bare_s = time.perf_counter() - start
    start = time.perf_counter()
    report = backfill(dsn, world.MODEL, number, progress=progress)
    ours_s = time.perf_counter() - start
    with _db.connect(dsn) as conn:
        conn.execute("drop table recsys.bench_bare")
        rollout.promote(conn, world.MODEL, number, reason="test", force=True)
    phases = ", ".join(f"{name} {s:.0f} s" for name, s in report.seconds.items())
    loading = [
        Row("bare COPY + CREATE INDEX", bare_s, "s", note=f"{items:,} x {dim + 1}"),
        Row("backfill into a ready version", ours_s, "s", note=phases),
        Row("backfill / bare", ours_s / bare_s, "x", 1.2),
    ]
    return loading + _serve(dsn, report.ef_search, queries, progress)


def _serve(dsn: str, ef_search: int, queries: int, progress: Progress) -> list[Row]:
    shop = Recommender(world.MODEL, dsn=dsn)
    users = [int(u) for u in np.random.default_rng(3).integers(0, world.USERS, queries)]
    vectors = {user: shop.query_vector(user) for user in set(users)}
    with _db.connect(dsn, autocommit=True) as conn:
        conn.execute("select '[1]'::vector")
        conn.execute("set hnsw.iterative_scan = 'relaxed_order'")
        conn.execute(f"set hnsw.ef_search = {max(ef_search, 2 * K)}")
        statement = (
            "select item_id, embedding <#> %s::halfvec from recsys.item_vector_bench_1"
            " order by embedding <#> %s::halfvec limit 20"
        )
        ours, bare, pages, rows = [], [], {}, {}
        with progress.stage("Asking", queries) as stage:
            for place, user in enumerate(users):
                query = Halfvec(vectors[user][0])
                # In turn, and each side first half of the time.
                for side in (0, 1) if place % 2 else (1, 0):
                    start = time.perf_counter()
                    if side:
                        pages[user] = shop.recommend(user, k=K)
                        ours.append(time.perf_counter() - start)
                    else:
                        with conn.cursor(binary=True) as cur:
                            rows[user] = cur.execute(
                                statement, (query, query)
                            ).fetchall()
                        bare.append(time.perf_counter() - start)
                stage.advance()
        recall, bare_recall = _recall(conn, vectors, pages, rows)
    shop.close()
    a, b = np.array(ours[100:]) * 1e3, np.array(bare[100:]) * 1e3
    p50, p99 = (np.percentile(a, q) / np.percentile(b, q) for q in (50, 99))
    note = f"ef_search {max(ef_search, 2 * K)}, {world.HISTORY} items of history"
    return [
        Row("bare ANN statement p50", float(np.percentile(b, 50)), "ms"),
        Row("bare ANN statement p99", float(np.percentile(b, 99)), "ms"),
        Row("recommend(k=20) p50", float(np.percentile(a, 50)), "ms", note=note),
        Row("recommend(k=20) p99", float(np.percentile(a, 99)), "ms"),
        Row("recommend / bare p50", float(p50), "x", 1.4),
        Row("recommend / bare p99", float(p99), "x", 1.6),
        Row("recommend recall@20", recall, "", 0.95, least=True, note="seen excluded"),
        Row("bare statement recall@20", bare_recall, ""),
    ]


def _recall(
    conn: psycopg.Connection,
    vectors: dict[int, tuple[NDArray[np.float32], list]],
    pages: dict,
    rows: dict,
) -> tuple[float, float]:
    """Recall against the exact scan, of the served and of the bare answers."""
    users = sorted(vectors)
    asked = np.stack([vectors[u][0] for u in users])
    asked = asked.astype(np.float16).astype(np.float32)
    ids = [r[0] for r in conn.execute(
        "select item_id from recsys.item_vector_bench_1 order by ctid"
    )]  # fmt: skip
    stored = _copy.read_vectors(conn, "item_vector_bench_1", asked.shape[1])
    depth = K + 2 * world.HISTORY
    best = np.full((len(users), depth), -np.inf, np.float32)
    who = np.zeros((len(users), depth), np.int64)
    start = 0
    for block in stored:
        scores = np.concatenate([best, asked @ block.T], axis=1)
        names = np.concatenate(
            [who, np.tile(ids[start : start + len(block)], (len(users), 1))], axis=1
        )
        top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        best = np.take_along_axis(scores, top, 1)
        who = np.take_along_axis(names, top, 1)
        start += len(block)
    order = np.argsort(-best, axis=1)
    exact = np.take_along_axis(who, order, 1)
    hits = bare_hits = 0
    for place, user in enumerate(users):
        seen = set(vectors[user][1])
        unseen = [i for i in exact[place].tolist() if i not in seen][:K]
        hits += len(set(pages[user].ids) & set(unseen))
        bare_hits += len({r[0] for r in rows[user]} & set(exact[place, :K].tolist()))
    return hits / (K * len(users)), bare_hits / (K * len(users))
