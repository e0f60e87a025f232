"""A synthetic catalogue of any size with a registered model version, without training.

Item vectors are unit vectors of few effective dimensions with a popularity dimension,
like learned ones; isotropic random vectors would make any index look bad.
"""

from __future__ import annotations

import numpy as np
import psycopg

from recsys import _copy, artifacts, embeddings, versions
from recsys._db import Connection
from recsys.config import ModelConfig, from_mapping
from recsys.encoder import FittedSide
from recsys.encoder.towers import item_tower, query_tower

MODEL = "bench"
USERS = 2_000
HISTORY = 27  # the mean of Gowalla


def config(dim: int) -> ModelConfig:
    """Return the configuration of the benchmark model."""
    return from_mapping(
        {
            "model": {
                MODEL: {
                    "items": {"sql": "select id as item_id from bench_item"},
                    "interactions": {
                        "sql": "select user_id, item_id, occurred_at from bench_event"
                    },
                    "train": {"dim": dim},
                }
            }
        }
    ).model(MODEL)


def catalogue(items: int, dim: int, seed: int) -> embeddings.Embeddings:
    """Return ID embeddings of blended tastes and log-normal popularity."""
    rng = np.random.default_rng(seed)
    # Learned vectors fill few of their dimensions: a shrinking spectrum, and tastes
    # that blend into each other. Tight clusters would cut an HNSW graph into islands.
    spectrum = np.arange(1, dim + 1) ** -0.5
    tastes = rng.normal(size=(64, dim)) * spectrum
    taste = tastes[rng.integers(0, len(tastes), items)]
    served = taste + rng.normal(size=(items, dim)) * spectrum
    served /= np.linalg.norm(served, axis=1, keepdims=True)
    popularity = rng.lognormal(1.0, 1.2, items)
    return embeddings.Embeddings(
        item_ids=range(1, items + 1),
        served=served.astype(np.float16),
        history=served.astype(np.float16),
        bias=(0.06 * np.log1p(popularity)).astype(np.float32),
        default_query=tastes[0].astype(np.float32),
    )


def tables(conn: Connection, learned: embeddings.Embeddings, seed: int) -> None:
    """Make the application's tables: items, and users who stay near a few items."""
    rng = np.random.default_rng(seed)
    conn.execute("create table bench_item (id bigint primary key)")
    conn.execute(
        "insert into bench_item select generate_series(1, %s)", (len(learned.item_ids),)
    )
    conn.execute(
        "create table bench_event (user_id bigint, item_id bigint,"
        " occurred_at timestamptz)"
    )
    sample = rng.choice(
        len(learned.item_ids), min(50_000, len(learned.item_ids)), False
    )
    pool = learned.served[sample].astype(np.float32)
    with conn.cursor().copy("copy bench_event from stdin") as copy:
        for user in range(USERS):
            likeness = pool @ pool[rng.integers(len(pool))]
            taste = np.argpartition(-likeness, 60)[:60]
            for place, item in enumerate(rng.choice(taste, HISTORY, False)):
                stamp = f"2026-01-{1 + place % 28:02d}"
                copy.write_row((user, int(sample[item]) + 1, stamp))
    conn.execute("create index on bench_event (user_id, occurred_at)")
    conn.execute("analyze bench_item")
    conn.execute("analyze bench_event")


def register(conn: Connection, learned: embeddings.Embeddings, dim: int) -> int:
    """Register a version whose towers pass the ID embeddings through."""
    settings = config(dim)
    nothing = FittedSide(())
    weights = {
        "cold_bias": np.float32(0),
        "default_query": learned.default_query,
    }
    number = versions.next_number(conn, settings)
    hashes = {
        "item_tower": artifacts.put(conn, "onnx", item_tower(dim, nothing, weights)),
        "query_tower": artifacts.put(
            conn, "onnx", query_tower(dim, nothing, nothing, weights)
        ),
        "embeddings": artifacts.put(
            conn, "safetensors", embeddings.pack(learned, "bigint")
        ),
    }
    spec = {**settings.to_dict(), "columns": ["occurred_at"]}
    versions.create(conn, versions.VersionPlan(MODEL, number, spec, hashes))
    return number


def bare_copy_and_index(
    conn: psycopg.Connection, learned: embeddings.Embeddings, memory_mb: int
) -> None:
    """COPY the finished item vectors into a table of the same shape and index it."""
    vectors = np.concatenate(
        [learned.served.astype(np.float32), learned.bias[:, None]], axis=1
    )
    dim = vectors.shape[1]
    conn.execute("drop table if exists recsys.bench_bare")
    conn.execute(
        f"create table recsys.bench_bare (item_id bigint primary key,"
        f" embedding halfvec({dim}) not null)"
    )
    _copy.copy_rows(conn, "bench_bare", "bigint", learned.item_ids, [vectors])
    conn.execute(
        "select set_config('maintenance_work_mem', %s, true)", (f"{memory_mb}MB",)
    )
    conn.execute(
        "create index on recsys.bench_bare using hnsw (embedding halfvec_ip_ops)"
        " with (m = 16, ef_construction = 64)"
    )
    conn.commit()
