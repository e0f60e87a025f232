"""What logging an answer costs: recommend() with off, transaction and background.

The three take turns on one server, request by request, so that a ratio compares the
same minute. Each has a connection of its own; the writer thread of "background" runs
in the same process, so its share of the interpreter is part of the number. Left out:
network latency, which adds one round trip to "transaction" and none to "background".
"""

from __future__ import annotations

import time
from uuid import uuid4

import numpy as np

from benchmarks import world
from benchmarks.report import Row
from recsys import Recommender, _db, _writer
from recsys._answer import Answer, encode
from recsys.backfill import backfill
from recsys.rollout import promote
from recsys.types import Recommendation

MODES = ("off", "transaction", "background")
K = 20
_ITEMS = [Recommendation(1_000_000 + n, 0.87654321 - n / 100) for n in range(K)]


def run(dsn: str, items: int, queries: int) -> list[Row]:
    """Measure requests in the three modes, and the writer alone."""
    learned = world.catalogue(items, 64, seed=1)
    with _db.connect(dsn) as conn:
        world.tables(conn, learned, seed=2)
        number = world.register(conn, learned, 64)
    backfill(dsn, world.MODEL, number)
    with _db.connect(dsn) as conn:
        promote(conn, world.MODEL, number)
    return _requests(dsn, queries) + _writing(dsn) + _stopped()


def _requests(dsn: str, queries: int) -> list[Row]:
    shops = {mode: Recommender(world.MODEL, dsn=dsn, impressions=mode)
             for mode in MODES}  # fmt: skip
    users = np.random.default_rng(3).integers(0, world.USERS, queries)
    took: dict[str, list[float]] = {mode: [] for mode in MODES}
    for place, user in enumerate(users):
        turn = place % len(MODES)
        for mode in (*MODES[turn:], *MODES[:turn]):
            start = time.perf_counter()
            shops[mode].recommend(int(user), k=K)
            took[mode].append(time.perf_counter() - start)
    rows = []
    for shop in shops.values():
        shop.close()
    lost = shops["background"].impressions.stats()
    base = np.array(took["off"][50:]) * 1e3
    for mode in MODES:
        ms = np.array(took[mode][50:]) * 1e3
        for q in (50, 99):
            value = float(np.percentile(ms, q))
            rows.append(Row(f"recommend(k=20), {mode}, p{q}", value, "ms"))
            if mode != "off":
                ratio = value / float(np.percentile(base, q))
                target = 1.1 if (mode, q) == ("background", 50) else None
                rows.append(Row(f"{mode} / off p{q}", ratio, "x", target))
    rows.append(Row("background: dropped or failed", lost.dropped + lost.failed, "", 0))
    return rows


def _writing(dsn: str, answers: int = 20_000) -> list[Row]:
    """Fill the queue as fast as possible and wait for it to be written."""
    writer = _writer.Writer(dsn, limit=1 << 30)
    start = time.perf_counter()
    rows = [_writer.Row(encode(_answer())) for _ in range(answers)]
    encoding = time.perf_counter() - start
    start = time.perf_counter()
    for row in rows:
        writer.put(row)
    queueing = time.perf_counter() - start
    writer.flush(300)
    writing = time.perf_counter() - start
    writer.close()
    with _db.connect(dsn) as conn:
        size = conn.execute(
            "select sum(pg_total_relation_size(inhrelid)) / (select count(*)"
            " from recsys.impression) from pg_inherits"
            " where inhparent = 'recsys.impression'::regclass"
        ).fetchone()
    return [
        Row("making a row", encoding / answers * 1e6, "µs", note="in the request"),
        Row("queueing it", queueing / answers * 1e6, "µs", note="in the request"),
        Row("written per second", answers / writing, "", note="one thread"),
        Row("disk per answer of 20 items, with indexes", float(size[0]), "B"),
    ]


def _stopped(answers: int = 100_000) -> list[Row]:
    """Answers while no server takes them: what a request waits for at most."""
    writer = _writer.Writer("host=/nonexistent dbname=x")
    row = _writer.Row(encode(_answer()))
    took = []
    for _ in range(answers):
        start = time.perf_counter()
        writer.put(row)
        took.append(time.perf_counter() - start)
    stats = writer.stats()
    writer.close(0.1)
    return [
        Row("no server: queueing or dropping p99", float(np.percentile(took, 99)) * 1e6,
            "µs", note=f"{answers:,} answers, {stats.dropped:,} dropped"),
        Row("no server: rows kept in memory", stats.queued, "", note="16 MB"),
    ]  # fmt: skip


def _answer() -> Answer:
    return Answer(
        uuid4(), world.MODEL, K, version=1, user_id=1234567, unit="1234567",
        items=_ITEMS, took_ms=2.5,
    )  # fmt: skip
