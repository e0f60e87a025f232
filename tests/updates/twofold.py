"""A shop of two tastes, whose version has learned rows for most of its items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import world
from numpy.typing import NDArray

from recsys import _db, versions
from recsys._items import ItemEncoder
from recsys.backfill import backfill
from recsys.config import ModelConfig
from recsys.rollout import promote
from recsys.updates.settings import UpdateConfig

ITEMS, USERS = 60, 40
START = world.NOW


@dataclass(frozen=True)
class Twofold:
    """Even users like even items, odd ones odd items. Version 1 of "shop" serves.

    Items above ``ITEMS`` come later; the version knows nothing of them.
    """

    dsn: str
    config: ModelConfig

    def connect(self) -> _db.Connection:
        return _db.connect(self.dsn, autocommit=True)

    def happen(
        self, pairs: list[tuple[int, int]], *, at_s: float, kind: str = "view"
    ) -> None:
        """Let users meet items, one a second, from some seconds after the training."""
        with self.connect() as conn, conn.cursor() as cur:
            cur.executemany(
                "insert into event values (%s, %s, %s, %s)",
                [
                    (user, item, kind, moment(at_s + n))
                    for n, (user, item) in enumerate(pairs)
                ],
            )

    def rows(self, number: int = 1) -> dict[int, NDArray[np.float32]]:
        """Both ID rows of each item, one behind the other."""
        with self.connect() as conn:
            return {
                item: np.array([*served, *history], np.float32)
                for item, served, history in conn.execute(
                    "select item_id, served::real[], history::real[]"
                    f" from recsys.id_embedding_shop_{number}".encode()
                )
            }


def moment(after_s: float) -> datetime:
    return START + timedelta(seconds=after_s)


def learned(conn: _db.Connection, config: ModelConfig) -> world.Learned:
    made = world.learn(conn, config, seed=3, cold=0)
    rng = np.random.default_rng(3)
    axes = np.eye(world.DIM, dtype=np.float32)[:2]
    taste = axes[[item % 2 for item in made.item_ids]]
    noise = rng.normal(size=taste.shape).astype(np.float32)
    return replace(
        made,
        served=taste + 0.15 * noise,
        history=taste + 0.15 * noise,
        bias=np.zeros(len(taste), np.float32),
        weights={**made.weights, "cold_bias": np.float32(0).reshape(())},
    )


def fill(dsn: str, config: ModelConfig) -> None:
    rng = np.random.default_rng(1)
    with _db.connect(dsn) as conn:
        conn.execute(
            "create table product (id bigint primary key, title text, brand text,"
            " price float8, created_at timestamptz, shelf integer not null default 0);"
            "create table customer (id bigint primary key, country text);"
            "create table event (customer_id bigint, product_id bigint,"
            " kind text not null, created_at timestamptz);"
            "create index on event (customer_id, created_at);"
            "create index on event (created_at)"
        )
        world.add_products(conn, "bigint", range(1, ITEMS + 1))
        for user in range(1, USERS + 1):
            conn.execute(
                "insert into customer values (%s, %s)", (user, ("de", "fr")[user % 2])
            )
            own = np.arange(2 - user % 2, ITEMS + 1, 2)
            for item in rng.choice(own, 6, replace=False).tolist():
                conn.execute(
                    "insert into event values (%s, %s, 'view', %s)",
                    (user, item, START - timedelta(days=1, minutes=item)),
                )
        made = world.plan(
            conn, learned(conn, config), versions.next_number(conn, config),
            trained_until=START,
        )  # fmt: skip
        versions.create(conn, made)
    backfill(dsn, "shop", 1)
    with _db.connect(dsn) as conn:
        promote(conn, "shop", 1, reason="test", force=True)


def settings(**changes: Any) -> dict[str, Any]:
    toml = world.toml(features=bool(changes.pop("features", False)))
    toml["model"]["shop"]["update"] = changes
    return toml


QUIET = UpdateConfig(overlap_s=60)
NEW = (ITEMS + 2, ITEMS + 4)


def even(users: range = range(2, 41, 2), items: tuple[int, ...] = NEW):
    return [(user, item) for item in items for user in users]


def add_items(shop: Twofold, *items: int) -> None:
    with shop.connect() as conn:
        world.add_products(conn, "bigint", items)


def expected_vectors(shop: Twofold) -> dict[str, dict[int, np.ndarray]]:
    """Both tables as a fresh computation from ID rows and source makes them."""
    with shop.connect() as conn:
        encoder = ItemEncoder(conn, versions.get(conn, "shop", 1))
        with _db.binary_cursor(conn) as cur:
            rows = cur.execute(encoder.select().encode()).fetchall()
        made = encoder.encode(rows)
    half = np.float16
    return {
        "item_vector": dict(zip(made.ids, made.vectors.astype(half), strict=True)),
        "item_embedding": dict(zip(made.ids, made.history.astype(half), strict=True)),
    }


def assert_consistent(shop: Twofold) -> None:
    """Invariant 3: the version holds what a fresh computation would give."""
    for table, expected in expected_vectors(shop).items():
        with shop.connect() as conn:
            stored = world.stored_vectors(conn, "shop_1", table)
        assert stored.keys() == expected.keys()
        for item, vector in stored.items():
            np.testing.assert_array_equal(vector, expected[item].astype(np.float32))
