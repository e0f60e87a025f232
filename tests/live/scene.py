"""A watched shop, its versions, and the comparison of all of them with the source.

The item source joins two tables, hides some products and reads only some columns, so
that every kind of change occurs: used and unused columns, keys, joined rows.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import world

from recsys import (
    _db,
    _sql,
    capture,
    capture_check,
    clean_up,
    config,
    rollout,
    versions,
)
from recsys._items import ItemEncoder
from recsys.backfill import backfill
from recsys.config import ModelConfig
from recsys.worker import tasks
from recsys.worker.loop import Worker

MODEL = "shop"
TOLERANCE = 2e-3
"""halfvec keeps 11 bits, and a batch of another size may round differently."""
_SOURCE = (
    "select p.id as item_id, concat_ws(' ', p.title, b.name) as title,"
    " b.name as brand, p.price, p.created_at"
    " from product as p left join brand as b on b.id = p.brand_id where not p.hidden"
)
_WATCH = {
    "product": "id",
    "brand": "select product.id from product"
    " join changed on product.brand_id = changed.id",
}


@dataclass
class Scene:
    """A database with a watched model.

    Attributes:
        dsn: Its connection string.
        model: The model's configuration.
    """

    dsn: str
    model: ModelConfig

    def add_version(self, seed: int, *, cold: int = 0, ready: bool = True) -> int:
        """Make one more version; backfilled unless told otherwise."""
        number, _ = world.add_version(
            self.dsn, self.model, seed=seed, cold=cold, ready=ready
        )
        return number

    def drain(self) -> None:
        """Apply everything that is queued, with one worker."""
        Worker(self.dsn, run_tasks=False).drain()

    def settle(self) -> None:
        """Complete every unfinished backfill, then drain."""
        self.reconcile()
        with _db.connect(self.dsn) as conn:
            unfinished = [
                version.number
                for version in versions.list_versions(conn, MODEL)
                if version.state == "building"
            ]
        self.drain()
        for number in unfinished:
            backfill(self.dsn, MODEL, number)
        self.drain()
        with _db.connect(self.dsn) as conn:
            clean_up.forget(conn, MODEL)

    def reconcile(self) -> None:
        """Let the periodic check queue everything if something asked for it."""
        with _db.connect(self.dsn, autocommit=True) as conn:
            while capture_check.check(conn, MODEL):
                self.drain()

    def run(self, *statements: str) -> None:
        """Run statements of the application, each in a transaction of its own."""
        with _db.connect(self.dsn, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def value(self, query: str) -> object:
        """Return the only value of a query."""
        with _db.connect(self.dsn) as conn:
            row = conn.execute(query.encode()).fetchone()
        return row[0] if row else None


def build(dsn: str, *, items: int = 400, versions_ready: int = 1) -> Scene:
    """Make the shop in a database at head: versions, triggers, an empty queue."""
    world.fill_shop(dsn, items=items, users=10, events=8)
    with _db.connect(dsn) as conn:
        conn.execute(
            "create table brand (id integer primary key, name text, country text);"
            "insert into brand select n, 'maker' || n, 'de' from generate_series(1, 40)"
            " as n;"
            "alter table product add hidden boolean not null default false,"
            " add brand_id integer references brand on delete set null;"
            "update product set brand_id = 1 + id % 40"
        )
    made = world.toml(features=True, index={"recall_target": 0.5})
    made["model"][MODEL]["items"] |= {"sql": _SOURCE, "watch": _WATCH}
    scene = Scene(dsn, config.from_mapping(made).model(MODEL))
    for number in range(versions_ready):
        scene.add_version(number + 1, cold=items // 4)
    with _db.connect(dsn) as conn:
        if versions_ready:
            rollout.promote(conn, MODEL, 1, reason="first")
        capture.watch(conn, scene.model)
        tasks.plan(conn)
        # It would mend what the tests are to find.
        conn.execute(
            "update recsys.schedule set next_at = now() + interval '1 day'"
            " where task = 'compare ids'"
        )
    scene.reconcile()
    scene.drain()
    return scene


def differences(dsn: str, *, queue_empty: bool = True) -> list[str]:
    """Compare every building, ready and serving version with the source as it is now.

    Returns:
        What differs, one line each; empty when everything is as it must be.
    """
    found: list[str] = []
    with _db.connect(dsn) as conn:
        for version in versions.list_versions(conn, MODEL):
            if version.state not in ("building", "ready", "serving"):
                continue
            found += [
                f"version {version.number} ({version.state}): {line}"
                for line in _of_version(conn, version)
            ]
        if queue_empty:
            for item, n in conn.execute(
                "select item_id, count(*) from recsys.item_change group by 1"
            ):
                found.append(f"queued {n} times: {item}")
        for row in conn.execute(
            "select number, item_id, attempts, error from recsys.item_failure"
        ):
            found.append(f"failed: {row}")
        for row in conn.execute(
            "select number, item_id from recsys.item_gone as g where not exists"
            " (select from recsys.model_version as v where v.model = g.model"
            " and v.number = g.number)"
        ):
            found.append(f"gone, of no version: {row}")
    return found


def _of_version(conn: _db.Connection, version: versions.ModelVersion) -> list[str]:
    encoder = ItemEncoder(conn, version)
    rows = _db.binary_cursor(conn).execute(_sql.trusted(encoder.select())).fetchall()
    fresh = encoder.encode(rows)
    found: list[str] = []
    for table, values in (("item_vector", fresh.vectors),
                          ("item_embedding", fresh.history)):  # fmt: skip
        wanted = dict(zip(fresh.ids, values, strict=True))
        stored = world.stored_vectors(conn, version.suffix, table)
        missing, extra = wanted.keys() - stored.keys(), stored.keys() - wanted.keys()
        stale = [
            item
            for item in wanted.keys() & stored.keys()
            if not np.allclose(wanted[item], stored[item], TOLERANCE, TOLERANCE)
        ]
        for what, items in (("missing", missing), ("resurrected", extra),
                            ("stale", stale)):  # fmt: skip
            found += [f"{table}: {what} {item}" for item in sorted(items)]  # type: ignore[type-var]
    return found
