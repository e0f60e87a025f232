"""A shop whose items change, and versions "trained on the same data" without training.

Every version holds the same tastes in a space of its own: with noise, rotated at random
and one dimension more than the version before. So its numbers alone tell what belongs
together: rows, towers or queries of two versions do not fit into one statement, and
where they would, the scores show it (see ``check``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks import world
from recsys import _db, artifacts, capture, embeddings, versions
from recsys._db import Connection
from recsys.config import ModelConfig, from_mapping
from recsys.encoder import FittedSide, fit
from recsys.encoder.towers import item_tower, query_tower

MODEL = "live"
USERS = 500
HISTORY = 27
BRANDS = 32
DIM = 64
_CONTENT = 0.3
"""Length of what the brand adds to an item's unit vector."""
_NOISE = 0.5
"""Length of what sets an item apart from itself in other versions."""
_PAST = 0.02
"""Share of it in the history rows: they change, and queries hardly do."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Learned:
    """One version: what its answers are made of.

    Attributes:
        number: Its number.
        served: Learned item rows, shape (N, d), as stored; item id i is row i - 1.
        bias: Shape (N,).
        brands: What a brand adds to an item, shape (BRANDS, d).
    """

    number: int
    served: Floats
    bias: Floats
    brands: Floats


@dataclass(frozen=True)
class Shop:
    """The data that all versions have in common.

    Attributes:
        base: The catalogue that every version is a rotation of.
        histories: Row numbers of each user's items, shape (USERS, HISTORY).
    """

    base: embeddings.Embeddings
    histories: NDArray[np.int64]

    @property
    def spare(self) -> list[int]:
        """Ids of items in nobody's history: a query stays when they go."""
        past = set((self.histories + 1).ravel().tolist())
        return [item for item in self.base.item_ids if item not in past]


def config(dim: int = DIM) -> ModelConfig:
    """Return the configuration; ``brand`` is used, ``price`` and ``stock`` are not."""
    return from_mapping(
        {
            "model": {
                MODEL: {
                    "items": {
                        "sql": "select id as item_id, brand from live_item",
                        "watch": {"live_item": "id"},
                        "features": {"brand": {"type": "category", "min_count": 1}},
                    },
                    "interactions": {
                        "sql": "select user_id, item_id, occurred_at from live_event"
                    },
                    "train": {"dim": dim},
                }
            }
        }
    ).model(MODEL)


def make(dsn: str, items: int, seed: int = 1) -> Shop:
    """Make the application's tables."""
    rng = np.random.default_rng(seed)
    base = world.catalogue(items, DIM, seed)
    histories = np.empty((USERS, HISTORY), np.int64)
    pool = base.served[: min(items, 20_000)].astype(np.float32)
    for user in range(USERS):
        likeness = pool @ pool[rng.integers(len(pool))]
        near = np.argpartition(-likeness, 60)[:60]
        histories[user] = rng.choice(near, HISTORY, False)
    with _db.connect(dsn) as conn:
        conn.execute(
            "create table live_item (id bigint primary key, brand text not null,"
            " price float8 not null, stock integer not null)"
        )
        conn.execute(
            "insert into live_item select i, 'brand ' || i %% %s, i, i"
            " from generate_series(1, %s) as i",
            (BRANDS, items),
        )
        conn.execute(
            "create table live_event (user_id bigint, item_id bigint,"
            " occurred_at timestamptz)"
        )
        with conn.cursor().copy("copy live_event from stdin") as copy:
            for user, rows in enumerate(histories.tolist()):
                for place, row in enumerate(rows):
                    copy.write_row((user, row + 1, f"2026-01-{1 + place:02d}"))
        conn.execute("create index on live_event (user_id, occurred_at)")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("vacuum analyze live_item, live_event")
    return Shop(base, histories)


def register(conn: Connection, shop: Shop) -> Learned:
    """Register the next version; the caller commits."""
    number = versions.next_number(conn, config())
    dim = DIM + number
    rng = np.random.default_rng((7, number))
    turned = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:DIM]
    noise = rng.normal(size=shop.base.served.shape) * np.arange(1, DIM + 1) ** -0.5
    noise *= _NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    served = (shop.base.served + noise) @ turned
    served /= np.linalg.norm(served, axis=1, keepdims=True)
    stored = embeddings.Embeddings(
        item_ids=shop.base.item_ids,
        served=served.astype(np.float16),
        history=served.astype(np.float16),
        bias=shop.base.bias,
        default_query=(shop.base.default_query @ turned).astype(np.float32),
    )
    brands = rng.normal(size=(BRANDS, dim))
    brands *= _CONTENT / np.linalg.norm(brands, axis=1, keepdims=True)
    learned = Learned(
        number,
        stored.served.astype(np.float32),
        stored.bias,
        brands.astype(np.float32),
    )
    _create(conn, stored, learned)
    return learned


def _create(conn: Connection, stored: embeddings.Embeddings, learned: Learned) -> None:
    dim = learned.brands.shape[1]
    settings = config(dim)
    names = [f"brand {n}" for n in range(BRANDS)]
    items, nothing = fit(settings.items.features, [{"brand": names}]), FittedSide(())
    weights = {
        "cold_bias": np.float32(0),
        "default_query": stored.default_query,
        "item.brand.table": np.concatenate(
            [np.zeros((2, dim), np.float32), learned.brands]
        ),
        "item.dense.bias": np.zeros(dim, np.float32),
        "item.hidden.w1": np.zeros((dim, 4), np.float32),
        "item.hidden.b1": np.zeros(4, np.float32),
        "item.hidden.w2": np.zeros((4, dim), np.float32),
        "item.history.weight": (_PAST * np.eye(dim)).astype(np.float32),
    }
    hashes = {
        "item_tower": artifacts.put(conn, "onnx", item_tower(dim, items, weights)),
        "query_tower": artifacts.put(
            conn, "onnx", query_tower(dim, nothing, nothing, weights)
        ),
        "embeddings": artifacts.put(
            conn, "safetensors", embeddings.pack(stored, "bigint")
        ),
    }
    spec = {**settings.to_dict(), "columns": ["occurred_at"]}
    versions.create(conn, versions.VersionPlan(MODEL, learned.number, spec, hashes))


def watch(dsn: str) -> None:
    """Install the capture triggers."""
    with _db.connect(dsn) as conn:
        capture.watch(conn, config())
