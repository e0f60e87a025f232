"""Training and serving see the same history: items, order and weights of every user."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import world

from recsys import _columns, _db, versions
from recsys.backfill import backfill
from recsys.config import IdType, ModelConfig, from_mapping

data = pytest.importorskip("recsys.training.data", reason="needs recsys[train]")
rows = pytest.importorskip("recsys.training.rows", reason="needs recsys[train]")

History = list[tuple[Any, float]]

START = datetime(2026, 1, 1, tzinfo=UTC)
# Equal times are the rule here; the last two differ by what float8 can just hold.
TIMES = (
    None,
    START,
    START + timedelta(hours=1),
    START + timedelta(days=1),
    START + timedelta(days=1, microseconds=1),
)
KINDS = ("view", "view", "cart", "seen", "unlisted", None)
WEIGHTS = {"view": 1, "cart": 3, "seen": 0}
# Locales sort these in other ways than their bytes.
TEXTS = [
    "a",
    "B",
    "A",
    "b",
    "é",
    "e",
    "10",
    "9",
    " 9",
    "_x",
    "z",
    "Z",
    "ß",
    "\uffee",
    "😀",
]
IDS: dict[IdType, list[Any]] = {
    "bigint": [-5, 2**62, *range(1, 14)],
    "uuid": [UUID(int=random.Random(n).getrandbits(128)) for n in range(15)],
    "text": TEXTS,
}
GONE = 3  # of the ids are in no source any more
HISTORY = 4
USERS = 12


def shop(
    dsn: str, id_type: IdType, *, timed: bool, kinds: bool, **query: Any
) -> ModelConfig:
    """Make items and events in random order, and return their model."""
    rng = random.Random(7)
    ids = IDS[id_type][:]
    rng.shuffle(ids)
    events: list[tuple[Any, ...]] = []
    for user in range(USERS):
        for _ in range(rng.choice((1, 6, 40))):
            item = None if rng.random() < 0.05 else rng.choice(ids)
            events.append((user, item, rng.choice(TIMES), rng.choice(KINDS)))
        # Liked early, seen late: its time is that of the like.
        events.append((user, ids[-1], START, "view"))
        events.append((user, ids[-1], TIMES[-1], "seen"))
    with _db.connect(dsn) as conn:
        conn.execute(f"create table item (id {id_type})".encode())
        columns = f"u bigint, i {id_type}, t timestamptz, k text"
        conn.execute(f"create table event ({columns})".encode())
        cursor = conn.cursor()
        cursor.executemany("insert into item values (%s)", [(i,) for i in ids[GONE:]])
        cursor.executemany("insert into event values (%s, %s, %s, %s)", events)
    columns = "".join([", t as occurred_at" * timed, ", k as kind" * kinds])
    config = {
        "item_id": id_type,
        "user_id": "bigint",
        "items": {"sql": "select id as item_id from item"},
        "interactions": {
            "sql": f"select u as user_id, i as item_id{columns} from event",
            **({"weights": WEIGHTS} if kinds else {}),
        },
        "train": {"dim": world.DIM, "history": HISTORY},
        "query": query,
    }
    made = from_mapping({"model": {"shop": config}}).model("shop")
    known = ("view", "cart") if query else ()
    return replace(made, query=replace(made.query, kinds=known))


def trained(dsn: str, config: ModelConfig, until: datetime | None) -> list[History]:
    """The histories that a fit would see."""
    with _db.connect(dsn) as conn:
        dataset = data.read(conn, config, until=until)
    every = np.ones(len(dataset), np.bool_)
    view = rows.query_rows(dataset, every, dataset.until, config.train.history)
    out: list[History] = [[] for _ in range(USERS)]
    for place, user in enumerate(view.users.tolist()):
        part = slice(view.history.start[place], view.history.start[place + 1])
        items = view.items[view.history.values[part].numpy()].tolist()
        weights = view.history.weight[part].tolist()
        out[dataset.user_ids[user]] = [
            (dataset.item_ids[i], w) for i, w in zip(items, weights, strict=True)
        ]
    return out


def serve(dsn: str, config: ModelConfig) -> Sequence[Any]:
    """Fill version 1 with history rows that tell their item; return the items."""
    with _db.connect(dsn) as conn:
        columns = _columns.interaction_columns(conn, config)
        number = versions.next_number(conn, config)
        learned = world.learn(conn, config)
        marks = np.zeros_like(learned.history)
        marks[:, 0] = np.arange(len(marks))
        plan = world.plan(conn, replace(learned, history=marks), number)
        plan = replace(plan, spec={**plan.spec, "columns": columns})
        versions.create(conn, plan)
    backfill(dsn, "shop", number)
    return learned.item_ids


def served(dsn: str, items: Sequence[Any], until: datetime | None) -> list[History]:
    """The histories that a request would see."""
    out: list[History] = []
    with _db.connect(dsn) as conn:
        for user in range(USERS):
            row = conn.execute(
                "select weights, history from recsys._state_shop_1(%s, %s::float8)",
                (user, until.timestamp() if until else None),
            ).fetchone()
            assert row
            marks = _db.unpack_halfvecs(row[1], world.DIM)[:, 0].astype(int).tolist()
            pairs = zip(marks, row[0] or [], strict=True)
            out.append([(items[mark], weight) for mark, weight in pairs])
    return out


def expected(dsn: str, config: ModelConfig, until: datetime | None) -> list[History]:
    """The histories by definition."""
    past: dict[int, dict[Any, tuple[float, float]]] = {n: {} for n in range(USERS)}
    with _db.connect(dsn) as conn:
        known = {row[0] for row in conn.execute("select id from item")}
        found = conn.execute("select u, i, t, k from event").fetchall()
    timed = "occurred_at" in config.interactions.sql
    for user, item, at, kind in found:
        weight = WEIGHTS.get(kind, 0) if config.interactions.weights else 1
        time = at.timestamp() if at and timed else -1.0
        if item in known and weight and not (until and time >= until.timestamp()):
            best = past[user].get(item, (0.0, -1.0))
            past[user][item] = (max(best[0], weight), max(best[1], time))

    def key(item: Any) -> Any:
        return item.encode() if isinstance(item, str) else item

    return [
        [
            (item, liked[item][0])
            for item in sorted(liked, key=lambda i: (-liked[i][1], key(i)))[:HISTORY]
        ]
        for liked in past.values()
    ]


@pytest.mark.parametrize("id_type", ["bigint", "uuid", "text"])
@pytest.mark.parametrize("columns", ["time and kind", "time", "kind", "neither"])
def test_histories_agree(dsn: str, id_type: IdType, columns: str) -> None:
    config = shop(dsn, id_type, timed="time" in columns, kinds="kind" in columns)
    items = serve(dsn, config)

    for until in (None, TIMES[2]) if "time" in columns else (None,):
        wanted = expected(dsn, config, until)
        assert max(map(len, wanted)) == HISTORY
        assert trained(dsn, config, until) == wanted
        assert served(dsn, items, until) == wanted


def test_events_of_unknown_time_are_before_every_end(dsn: str) -> None:
    config = shop(dsn, "bigint", timed=True, kinds=True)

    with _db.connect(dsn) as conn:
        dataset = data.read(conn, config, until=START)
        row = conn.execute(
            "select count(*) from event where t is null and i in (select id from item)"
        ).fetchone()

    assert row
    assert len(dataset) == row[0] > 0
    assert np.isnan(dataset.time).all()


def moments(dsn: str, until: datetime) -> list[list[tuple[float, str]]]:
    """Age and kind of each event of the histories, by definition."""
    out: list[list[tuple[float, str]]] = []
    with _db.connect(dsn) as conn:
        known = {row[0] for row in conn.execute("select id from item")}
        for user in range(USERS):
            best: dict[Any, tuple[float, str]] = {}
            for item, at, kind in conn.execute(
                "select i, t, k from event where u = %s", (user,)
            ):
                time = at.timestamp() if at else -1.0
                if (
                    item not in known
                    or not WEIGHTS.get(kind)
                    or time >= until.timestamp()
                ):
                    continue
                # Of what happened at once, the kind that is listed first.
                best[item] = max(best.get(item, (-2.0, "")), (time, kind))
            order = sorted(best, key=lambda i: (-best[i][0], i))[:HISTORY]
            end = until.timestamp()
            out.append(
                [
                    (end - best[i][0] if best[i][0] >= 0 else -1.0, best[i][1])
                    for i in order
                ]
            )
    return out


@pytest.mark.parametrize("interests", [1, 3])
def test_ages_and_kinds_come_with_the_history(dsn: str, interests: int) -> None:
    kinds = ["view", "cart"]
    encoder = "transformer" if interests == 1 else "mean"
    query = {"encoder": encoder, "interests": interests}
    config = shop(dsn, "bigint", timed=True, kinds=True, **query)
    serve(dsn, config)
    until = START + timedelta(days=2)

    expected = moments(dsn, until)

    vectors = ", vectors" if interests > 1 else ""
    with _db.connect(dsn) as conn:
        for user in range(USERS):
            row = conn.execute(
                f"select weights, history, ages, kinds{vectors}"
                " from recsys._state_shop_1(%s, %s::float8)".encode(),
                (user, until.timestamp()),
            ).fetchone()
            assert row
            assert len(row[0]) == len(_db.unpack_halfvecs(row[1], world.DIM))
            assert row[2] == pytest.approx([age for age, _ in expected[user]], abs=1e-5)
            assert [kinds[place - 1] for place in row[3]] == [
                kind for _, kind in expected[user]
            ]
            if interests > 1:
                rows = _db.unpack_halfvecs(row[4], world.DIM + 1)
                assert len(rows) == len(row[0])


def test_a_session_has_unknown_ages_and_kinds(dsn: str) -> None:
    config = shop(dsn, "bigint", timed=True, kinds=True, encoder="transformer")
    items = serve(dsn, config)

    with _db.connect(dsn) as conn:
        row = conn.execute(
            "select weights, ages, kinds from recsys._session_shop_1(%s)",
            (list(items[:3]),),
        ).fetchone()

    assert row == ([1.0] * 3, [-1.0] * 3, [0] * 3)


def test_versions_with_a_mean_read_nothing_more(dsn: str) -> None:
    config = shop(dsn, "bigint", timed=True, kinds=True)
    serve(dsn, config)

    with _db.connect(dsn) as conn:
        for name in ("state", "session"):
            row = conn.execute(
                "select proargnames::text, prosrc from pg_proc where proname = %s",
                (f"_{name}_shop_1",),
            ).fetchone()
            assert row
            assert "ages" not in row[0] + row[1]
            assert "kinds" not in row[0] + row[1]
