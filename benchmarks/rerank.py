"""What ranking the first candidates again costs: recommend() with it and without.

One version, asked in turns by two recommenders of one process: the second has read a
temperature in its specification. Left out: network latency, under which the vectors of
a hundred candidates (26 KB at 128 dimensions) travel as well.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks import world
from benchmarks.report import Row
from recsys import Recommender, _db
from recsys.backfill import backfill
from recsys.progress import Progress
from recsys.rollout import promote

K = 20
DIM = 128
_WARM = 100
_EXACT = 200
_TURN, _TURNS = 50, 10
_TEMPERATURE = """
update recsys.model_version
set spec = jsonb_set(spec, '{query,rerank}', to_jsonb(%s::float8))
where model = %s
"""


def run(dsn: str, items: int, queries: int, progress: Progress) -> list[Row]:
    """Measure both, and how many of the re-ranked items an exact scan would show."""
    learned = world.catalogue(items, DIM, seed=1)
    with _db.connect(dsn) as conn:
        world.tables(conn, learned, seed=2)
        number = world.register(conn, learned, DIM)
        # recsys.recommend() runs as this role.
        conn.execute("grant select on bench_item, bench_event to recsys_trainer")
    backfill(dsn, world.MODEL, number, progress=progress)
    with _db.connect(dsn) as conn:
        promote(conn, world.MODEL, number)
    plain, again = (Recommender(world.MODEL, dsn=dsn) for _ in range(2))
    users = np.random.default_rng(3).integers(0, world.USERS, queries + _WARM).tolist()
    with plain, again:
        for shop, temperature in ((plain, 0.0), (again, 1.0)):
            with _db.connect(dsn) as conn:
                conn.execute(_TEMPERATURE.encode(), (temperature, world.MODEL))
            shop.warm()
        rows = _asked([plain, again], users, progress)
    return rows + _in_sql(dsn, users)


def _asked(sides: list[Recommender], users: list[int], progress: Progress) -> list[Row]:
    seconds: list[list[float]] = [[], []]
    changed: list[float] = []
    with progress.stage("Asking", len(users)) as stage:
        for place, user in enumerate(users):
            lists: list[list] = [[], []]
            for side in (0, 1) if place % 2 else (1, 0):
                start = time.perf_counter()
                lists[side] = list(sides[side].recommend(user, k=K).ids)
                seconds[side].append(time.perf_counter() - start)
            changed.append(1 - len({*lists[0]} & {*lists[1]}) / K)
            stage.advance()
    found = [_recall(side, users[:_EXACT]) for side in sides]
    ms = [np.array(some[_WARM:]) * 1e3 for some in seconds]
    rows: list[Row] = []
    for q in (50, 99):
        plain, again = (float(np.percentile(some, q)) for some in ms)
        rows += [
            Row(f"recommend(k=20) p{q}", plain, "ms"),
            Row(f"the same, ranked again p{q}", again, "ms"),
            Row(f"ranked again / not p{q}", again / plain, "x"),
        ]
    note = "against the exact scan at the same k"
    return [
        *rows,
        Row("recall@20", found[0], "", 0.95, least=True, note=note),
        Row("recall@20, ranked again", found[1], "", 0.95, least=True, note=note),
        Row("share of a page that is another", float(np.mean(changed)), ""),
    ]


def _in_sql(dsn: str, users: list[int]) -> list[Row]:
    """Measure recsys.recommend(), by turns of fifty requests."""
    seconds: dict[float, list[float]] = {0.0: [], 1.0: []}
    ask = f"select * from recsys.recommend('{world.MODEL}', %s, {K})".encode()
    with _db.connect(dsn, autocommit=True) as conn:
        for turn in range(_TURNS):
            temperature = float(turn % 2)
            conn.execute(_TEMPERATURE.encode(), (temperature, world.MODEL))
            for user in users[:_TURN]:
                start = time.perf_counter()
                conn.execute(ask, (user,)).fetchall()
                if turn > 1:  # the first two plan their statements
                    seconds[temperature].append(time.perf_counter() - start)
    without, again = (float(np.median(some)) * 1e3 for some in seconds.values())
    return [
        Row("recsys.recommend() in SQL, p50", without, "ms"),
        Row("the same, ranked again p50 in SQL", again, "ms"),
    ]


def _recall(shop: Recommender, users: list[int]) -> float:
    shares = [
        len({*shop.recommend(user, k=K).ids} & {*exact.ids}) / len(exact.ids)
        for user in users
        for exact in [shop.recommend(user, k=K, recall_target=1)]
    ]
    return float(np.mean(shares))
