"""A shop's own tables and model versions made without training.

A version needs towers, learned rows and a registry entry; random weights do as well as
trained ones where the database side is tested, and cost milliseconds.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import safetensors.numpy
from numpy.typing import NDArray
from psycopg import sql

from recsys import Recommender, _db, artifacts, config, embeddings, rollout, versions
from recsys.backfill import backfill
from recsys.config import IdType, ModelConfig
from recsys.encoder import FittedSide, fit, towers
from recsys.encoder.sequence import TIMES
from recsys.types import ItemId
from recsys.versions import VersionPlan

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BRANDS = ("Acme", "Globex", "Ünïted", "شركة", "🍏")
WORDS = ("red", "blue", "shirt", "shoe", "lamp", "chair", "mug", "قميص", "☕")
DIM = 8

_numbers = itertools.count()


# ids -------------------------------------------------------------------------------


def make_id(id_type: IdType, n: int) -> ItemId:
    """The n-th id of a type; text ids keep leading zeros."""
    if id_type == "bigint":
        return n
    return UUID(int=n) if id_type == "uuid" else f"{n:06d}A"


# databases -------------------------------------------------------------------------


def on(server: str, name: str) -> str:
    return psycopg.conninfo.make_conninfo(server, dbname=name)


def as_role(dsn: str, role: str) -> str:
    """The same database, every statement with the privileges of a role."""
    return psycopg.conninfo.make_conninfo(dsn, options=f"-c role={role}")


@contextmanager
def database(server: str, template: str | None = None) -> Iterator[str]:
    """DSN of a fresh database, a copy of the template; dropped at the end."""
    name = f"recsys_world_{os.getpid()}_{next(_numbers)}"
    create = sql.SQL("create database {}").format(sql.Identifier(name))
    if template is not None:
        create += sql.SQL(" template {}").format(sql.Identifier(template))
    drop = sql.SQL("drop database if exists {} with (force)").format(
        sql.Identifier(name)
    )
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(create)
    try:
        yield on(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as conn:
            conn.execute(drop)


def name_of(dsn: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])


# the application's tables ----------------------------------------------------------


def fill_shop(
    dsn: str,
    id_type: IdType = "bigint",
    *,
    items: int = 200,
    users: int = 30,
    events: int = 12,
    seed: int = 0,
) -> None:
    """Make product, customer and event; users have events of their own taste."""
    rng = np.random.default_rng(seed)
    with _db.connect(dsn) as conn:
        conn.execute(
            f"""
            create table product (
                id {id_type} primary key, title text, brand text, price float8,
                created_at timestamptz, shelf integer not null);
            create table customer (id {id_type} primary key, country text);
            create table event (
                customer_id {id_type} not null, product_id {id_type} not null,
                kind text not null, created_at timestamptz not null);
            create index event_customer on event (customer_id);
            """.encode()
        )
        add_products(conn, id_type, range(1, items + 1), seed=seed)
        with conn.cursor().copy("copy customer from stdin") as copy:
            for user in range(1, users + 1):
                country = ("de", "fr", "jp")[user % 3]
                copy.write_row((make_id(id_type, user), country))
        with conn.cursor().copy("copy event from stdin") as copy:
            for user in range(1, users + 1):
                for item in rng.choice(items, size=min(events, items), replace=False):
                    copy.write_row(
                        (
                            make_id(id_type, user),
                            make_id(id_type, int(item) + 1),
                            ("view", "cart", "purchase")[int(rng.integers(3))],
                            NOW - timedelta(minutes=int(rng.integers(200_000))),
                        )
                    )
        conn.execute("analyze product, event, customer")
        # The analysts' functions run as this role, which 'recsys upgrade' makes.
        if conn.execute("select where to_regrole('recsys_trainer') is null").rowcount:
            return
        conn.execute("grant select on product, event, customer to recsys_trainer")


def add_products(
    conn: _db.Connection, id_type: IdType, numbers: Sequence[int], *, seed: int = 1
) -> None:
    rng = np.random.default_rng(seed)
    with conn.cursor().copy("copy product from stdin") as copy:
        for n in numbers:
            copy.write_row(
                (
                    make_id(id_type, n),
                    " ".join(rng.choice(WORDS, size=3)),
                    str(rng.choice(BRANDS)),
                    float(np.round(rng.lognormal(3), 2)),
                    NOW - timedelta(days=int(rng.integers(300))),
                    n % 1000,
                )
            )


def toml(
    id_type: IdType = "bigint",
    *,
    features: bool = False,
    name: str = "shop",
    train: Mapping[str, Any] | None = None,
    index: Mapping[str, Any] | None = None,
    record: str = "",
    query: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The recsys.toml of the shop, as a mapping."""
    interactions: dict[str, Any] = {
        "sql": "select customer_id as user_id, product_id as item_id,"
        " created_at as occurred_at, kind, 'phone' as device from event",
        "weights": {"view": 1, "cart": 3, "purchase": 5},
    }
    if record:
        interactions["record"] = record
    model: dict[str, Any] = {
        "item_id": id_type,
        "user_id": id_type,
        "items": {
            "sql": "select id as item_id, title, brand, price, created_at from product"
        },
        "interactions": interactions,
        "train": {"dim": DIM, "history": 50, **(train or {})},
        "index": dict(index or {}),
        "query": dict(query or {}),
    }
    if features:
        model["items"]["features"] = {
            "title": {"type": "text", "buckets": 64},
            "brand": {"type": "category", "min_count": 1},
            "price": {"type": "number", "scale": "log"},
            "created_at": {"type": "time"},
        }
        model["users"] = {
            "sql": "select id as user_id, country from customer",
            "features": {"country": {"type": "category", "min_count": 1}},
        }
        model["context"] = {"features": {"device": {"type": "category"}}}
    return {"model": {name: model}}


def shop_config(id_type: IdType = "bigint", **options: Any) -> ModelConfig:
    name = str(options.get("name", "shop"))
    made = config.from_mapping(toml(id_type, **options)).model(name)
    if not made.query.sequential:
        return made
    kinds = ("cart", "purchase", "view")  # as a training would have found them
    return replace(made, query=replace(made.query, kinds=kinds))


# a version without training --------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """What a training would have learned: everything an expected answer needs."""

    config: ModelConfig
    item_ids: list[ItemId]
    served: NDArray[np.float32]
    history: NDArray[np.float32]
    bias: NDArray[np.float32]
    weights: Mapping[str, NDArray[np.float32]]
    items: FittedSide
    users: FittedSide
    context: FittedSide

    @property
    def item_tower(self) -> bytes:
        return towers.item_tower(self.config.train.dim, self.items, self.weights)

    @property
    def query_tower(self) -> bytes:
        return towers.query_tower(
            self.config.train.dim, self.users, self.context, self.weights
        )


@dataclass(frozen=True)
class Shop:
    """A database with versions 1 and 2 of model "shop" ready, 1 serving."""

    dsn: str
    learned: Mapping[int, Learned]


def learn(
    conn: _db.Connection, model: ModelConfig, *, seed: int = 0, cold: int = 0
) -> Learned:
    """Draw random rows and weights; the last ``cold`` items get no learned row."""
    rng = np.random.default_rng(seed)
    dim = model.train.dim
    ids = [
        row[0]
        for row in conn.execute(
            f"select item_id from ({model.items.sql}) as s order by 1".encode()
        )
    ]
    ids = ids[: len(ids) - cold]
    brands = ["Acme", "Globex", "Ünïted", "شركة", "🍏"]
    items = fit(
        model.items.features,
        [
            {
                "title": ["red shirt"] * len(brands),
                "brand": brands,
                "price": [1.0, 10.0, 20.0, 40.0, 80.0],
                "created_at": [NOW.timestamp() - 86_400.0 * n for n in range(5)],
            }
        ],
        reference=NOW.timestamp(),
    )
    users = fit(model.users.features, [{"country": ["de", "de", "fr", "jp"]}])
    context = fit(model.context.features, [{"device": ["phone"] * 3 + ["desk"] * 2}])
    weights: dict[str, NDArray[np.float32]] = {
        "cold_bias": np.float32(0.1).reshape(()),
        "default_query": _unit(rng.normal(size=dim)),
    }
    weights.update(_query_weights(rng, model))
    for side, fitted in (("item", items), ("user", users), ("context", context)):
        weights.update(_side_weights(rng, side, fitted, dim))
    if model.items.features:
        weights["item.history.weight"] = _normal(rng, dim, dim)
    return Learned(
        config=model,
        item_ids=ids,
        served=_unit(rng.normal(size=(len(ids), dim))),
        history=_normal(rng, len(ids), dim),
        bias=(rng.random(len(ids)) * 0.2).astype(np.float32),
        weights=weights,
        items=items,
        users=users,
        context=context,
    )


def _query_weights(
    rng: np.random.Generator, model: ModelConfig
) -> dict[str, NDArray[np.float32]]:
    """Weights of what the queries are made with, small enough to keep the mean near."""
    query, dim = model.query, model.train.dim
    if query.interests > 1 and query.interests_from == "learned":
        return {"query.interests": _normal(rng, dim, query.interests)}
    if not query.sequential:
        return {}
    kinds, length, heads = len(query.kinds) + 1, query.length, query.heads
    runs = 2 if query.encoder == "gated" else 1
    shapes = {"pool.position": (length, runs), "pool.time": (TIMES, runs)}
    shapes["pool.kind"] = (kinds, runs)
    if query.encoder == "gated":
        shapes |= {"gate.weight": (2 * dim, dim), "gate.recency": (TIMES, dim)}
        shapes["gate.bias"] = (dim,)
    layers = {"attention": 1, "transformer": query.layers}.get(query.encoder, 0)
    if layers:
        shapes |= {"kind": (kinds, dim), "pause": (TIMES, dim)}
        shapes |= {"out.scale": (dim,), "out.bias": (dim,), "out.weight": (dim, dim)}
    for n in range(layers):
        shapes |= {f"{n}.{k}": (dim, dim) for k in ("query", "key", "value", "out")}
        shapes |= {f"{n}.norm.{k}": (dim,) for k in ("scale", "bias")}
        shapes |= {f"{n}.position": (length, heads), f"{n}.time": (TIMES, heads)}
        if query.encoder == "transformer":
            shapes |= {f"{n}.mlp.{k}": (dim,) for k in ("scale", "bias", "b2")}
            shapes |= {f"{n}.mlp.w1": (dim, 2 * dim), f"{n}.mlp.b1": (2 * dim,)}
            shapes[f"{n}.mlp.w2"] = (2 * dim, dim)
    made = {f"query.{name}": 0.3 * _normal(rng, *s) for name, s in shapes.items()}
    return {**made, "query.recency.most": np.float32(1e7).reshape(())}


def _side_weights(
    rng: np.random.Generator, side: str, fitted: FittedSide, dim: int
) -> dict[str, NDArray[np.float32]]:
    if not fitted.features:
        return {}
    out = {
        f"{side}.dense.bias": _normal(rng, dim) * 0,
        f"{side}.hidden.w1": _normal(rng, dim, 4),
        f"{side}.hidden.b1": _normal(rng, 4),
        f"{side}.hidden.w2": _normal(rng, 4, dim),
    }
    if fitted.dense_width:
        out[f"{side}.dense.weight"] = _normal(rng, fitted.dense_width, dim) * 0.1
    for name, rows in fitted.table_sizes.items():
        table = _normal(rng, rows, dim)
        table[0] = 0
        out[f"{side}.{name}.table"] = table
    return {key: value.astype(np.float32) for key, value in out.items()}


def _normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / norm).astype(np.float32)


def leaning(learned: Learned, *, strength: float = 0.8) -> Learned:
    """Let popularity count more for one half of all queries than for the other."""
    weight = np.random.default_rng(5).normal(size=learned.config.train.dim)
    weights = {
        "lean.weight": strength * _unit(weight),
        "lean.constant": np.float32(0.1).reshape(()),
    }
    return replace(learned, weights={**learned.weights, **weights})


def plan(
    conn: _db.Connection,
    learned: Learned,
    number: int,
    *,
    metrics: Mapping[str, Any] | None = None,
    trained_until: datetime | None = None,
) -> VersionPlan:
    """Store the artifacts and return the version plan, as a training would."""
    model = learned.config
    rows = embeddings.Embeddings(
        item_ids=learned.item_ids,
        served=learned.served.astype(np.float16),
        history=learned.history.astype(np.float16),
        bias=learned.bias,
        default_query=learned.weights["default_query"],
    )
    hashes = {
        "item_tower": artifacts.put(conn, "onnx", learned.item_tower),
        "query_tower": artifacts.put(conn, "onnx", learned.query_tower),
        "embeddings": artifacts.put(
            conn, "safetensors", embeddings.pack(rows, model.item_id)
        ),
        "report": artifacts.put(conn, "json", b"{}"),
    }
    if "lean.weight" in learned.weights:
        tensors = {name: np.asarray(w) for name, w in learned.weights.items()}
        content = safetensors.numpy.save(tensors)
        hashes["weights"] = artifacts.put(conn, "safetensors", content)
    spec = json.loads(
        json.dumps({**model.to_dict(), "columns": ["occurred_at", "kind"]})
    )
    if trained_until is not None:
        spec["trained_until"] = trained_until.isoformat()
    return VersionPlan(model.name, number, spec, hashes, metrics or {})


def add_version(
    dsn: str,
    model: ModelConfig,
    *,
    seed: int = 0,
    ready: bool = True,
    promote: bool = False,
    cold: int = 0,
    leans: bool = False,
    metrics: Mapping[str, Any] | None = None,
    trained_until: datetime | None = None,
) -> tuple[int, Learned]:
    """Make a version without training; backfilled unless told otherwise."""
    with _db.connect(dsn) as conn:
        number = versions.next_number(conn, model)
        learned = learn(conn, model, seed=seed, cold=cold)
        learned = leaning(learned) if leans else learned
        made = plan(conn, learned, number, metrics=metrics, trained_until=trained_until)
        versions.create(conn, made)
    if ready or promote:
        backfill(dsn, model.name, number)
    if promote:
        with _db.connect(dsn) as conn:
            rollout.promote(conn, model.name, number, reason="test", force=True)
    return number, learned


# expected answers, in numpy ---------------------------------------------------------


def exact_order(
    vectors: Mapping[ItemId, NDArray[np.float32]],
    query: NDArray[np.float32],
    *,
    without: Sequence[ItemId] = (),
) -> list[ItemId]:
    """Every item by inner product with the query, best first, ties by id."""
    rounded = query.astype(np.float16).astype(np.float32)
    gone = set(without)
    scored = [
        (-float(vector @ rounded), item)
        for item, vector in vectors.items()
        if item not in gone
    ]
    return [item for _, item in sorted(scored, key=lambda pair: (pair[0], pair[1]))]


def assert_alike_in_sql(dsn: str, users: Sequence[ItemId], *, k: int = 10) -> None:
    """Compare recsys.recommend() with Python's answers, up to the halfvec's rounding.

    Items whose scores differ by less than that may change places, also the last one
    with one that is no longer on the list.
    """
    with (
        _db.connect(dsn, autocommit=True) as conn,
        Recommender("shop", connection=conn) as shop,
    ):
        for user in users:
            page = shop.recommend(user, k=k)
            found = conn.execute(
                "select * from recsys.recommend('shop', %s, %s)", (user, k)
            ).fetchall()

            scores = [item.score for item in page]
            np.testing.assert_allclose([score for _, score in found], scores, atol=2e-3)
            known = {str(item.item_id): item.score for item in page}
            theirs = [known.get(item, scores[-1]) for item, _ in found]
            np.testing.assert_allclose([score for _, score in found], theirs, atol=2e-3)
            assert len({item for item, _ in found}) == len(page)


def stored_vectors(
    conn: _db.Connection, suffix: str, table: str = "item_vector"
) -> dict[ItemId, NDArray[np.float32]]:
    """The vectors of a version as the table holds them."""
    rows = conn.execute(
        f"select item_id, embedding::real[] from recsys.{table}_{suffix}".encode()
    ).fetchall()
    return {item: np.array(values, np.float32) for item, values in rows}
