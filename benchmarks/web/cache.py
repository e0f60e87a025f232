"""The world of ``make bench-web``: built once, kept outside the repository.

A folder per number of items: the data of an embedded Postgres, the vectors as other
engines read them, and the exact answers. What the code's SQL has become since is
brought into it in place; the vectors and their index, which take minutes, stay.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import world
from recsys import _copy, _db, _sql, embedded, rollout, schema, versions
from recsys._db import Connection, Halfvec
from recsys.backfill import backfill
from recsys.progress import Progress

DIM = 64
K = 20
ASKED = 200
"""Users whose answers are compared with the exact ones."""
SHARES = {"none": 100, "10 %": 10, "1 %": 1}
"""Filters: items whose part, of 0 to 99, is below."""
CROWD = 2
"""Items per seller on a page, with crowding."""
SELLERS = 20
_DATABASE = "recsys_bench"


@dataclass(frozen=True)
class World:
    """A catalogue that is served, and what the answers should be."""

    folder: Path
    dsn: str

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a kept array, without reading what is not used of it."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def root() -> Path:
    """Return the folder of everything that is kept."""
    given = os.environ.get("RECSYS_BENCH_CACHE")
    if given:
        return Path(given)
    if os.getuid() == 0:
        # Postgres runs as another user then, who must not look into root's home.
        return Path("/var/cache/recsys-bench")
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "recsys-bench"


def open_world(items: int, progress: Progress) -> World:
    """Return the world of this size, built or refreshed where it has to be."""
    folder = root() / str(items)
    folder.mkdir(parents=True, exist_ok=True)
    dsn = embedded.start(folder / "pgdata", database=_DATABASE)
    stamp = folder / "sql.sha256"
    current = _fingerprint()
    if not stamp.exists() or stamp.read_text() != current:
        stamp.unlink(missing_ok=True)
        _build(dsn, items, progress)
        stamp.write_text(current)
    kept = World(folder, dsn)
    if not (folder / "unseen-crowded.npy").exists():
        with progress.stage("Exact answers"):
            _keep(kept)
    return kept


def close_world(kept: World, *, forget: bool = False) -> None:
    """Stop the server; remove the folder too with ``forget``."""
    embedded.stop(kept.folder / "pgdata")
    if forget:
        shutil.rmtree(kept.folder, ignore_errors=True)


def _fingerprint() -> str:
    found, files = hashlib.sha256(), _sql.files()
    parts = (*(files / "sql").rglob("*.sql"), *(files / "migrations").rglob("*.py"))
    for path in (*sorted(parts), Path(versions.__file__)):
        found.update(path.read_bytes())
    return found.hexdigest()


def _build(dsn: str, items: int, progress: Progress) -> None:
    _upgrade(dsn)
    learned = world.catalogue(items, DIM, seed=1)
    with _db.connect(dsn) as conn:
        fresh = conn.execute("select to_regclass('bench_item') is null").fetchone()
        if fresh == (True,):
            with progress.stage("Tables of the application"):
                world.tables(conn, learned, seed=2)
                world.register(conn, learned, DIM)
        else:
            _render(conn)
        conn.commit()
        _columns(conn)
    # Also on a version that is ready: what it measures may have changed.
    backfill(dsn, world.MODEL, 1, progress=progress)
    with _db.connect(dsn) as conn:
        rollout.promote(conn, world.MODEL, 1, reason="benchmark", force=True)


def _upgrade(dsn: str) -> None:
    """Bring the schema up, its newest revision too where that was edited since."""
    with _db.connect(dsn, autocommit=True) as conn:
        there = "select to_regprocedure('recsys.schema_version()') is not null"
        row = conn.execute(there).fetchone()
        if row == (True,):
            row = conn.execute("select recsys.schema_version()").fetchone()
    if row == (schema.CORE_REVISION,):
        schema.downgrade(dsn, revision=f"{int(schema.CORE_REVISION) - 1:04}")
    schema.upgrade(dsn)


def _columns(conn: Connection) -> None:
    """Give every item a part of a hundred, by chance but repeatably, and a seller."""
    row = conn.execute(
        "select exists (select from pg_attribute where attname = 'seller'"
        " and attrelid = 'bench_item'::regclass)"
    )
    if row.fetchone() == (True,):
        return
    conn.execute("alter table bench_item add column part smallint")
    conn.execute("update bench_item set part = mod(abs(hashint8(id)), 100)")
    conn.execute(
        "alter table bench_item add column seller smallint"
        f" generated always as (part % {SELLERS}) stored"
    )
    conn.execute("create index on bench_item (part)")
    conn.commit()
    conn.autocommit = True
    conn.execute("vacuum analyze bench_item")
    conn.autocommit = False


def _render(conn: Connection) -> None:
    """Make the functions of the version again, as this code has them."""
    version = versions.get(conn, world.MODEL, 1)
    names = conn.execute(
        "select p.oid::regprocedure::text from pg_proc as p"
        " where p.pronamespace = 'recsys'::regnamespace and p.proname like %s",
        (f"%{version.suffix}".replace("_", r"\_"),),
    ).fetchall()
    for (name,) in names:
        conn.execute(_sql.trusted(f"drop function {name}"))
    plan = versions.VersionPlan(
        version.model, version.number, version.spec, version.artifacts
    )
    for statement in versions.create_statements(plan):
        if "recsys._register_version(" not in statement:
            conn.execute(_sql.trusted(statement))


def _keep(kept: World) -> None:
    """Write vectors, filter columns, query vectors and exact answers as arrays."""
    from recsys import Recommender

    def save(name: str, values: NDArray[np.generic]) -> None:
        np.save(kept.folder / f"{name}.npy", values)

    with _db.connect(kept.dsn) as conn:
        table = f"item_vector_{versions.suffix(world.MODEL, 1)}"
        ids = conn.execute(f"select item_id from recsys.{table} order by ctid")
        ids = np.array([row[0] for row in ids], np.int64)
        vectors = np.concatenate(list(_copy.read_vectors(conn, table, DIM + 1)))
        rows = conn.execute("select id, part from bench_item").fetchall()
        part = np.empty(ids.max() + 1, np.int16)
        part[[row[0] for row in rows]] = [row[1] for row in rows]
    with Recommender(world.MODEL, dsn=kept.dsn) as shop:
        found = [shop.query_vector(user) for user in range(world.USERS)]
    asked = np.stack([query for query, _ in found]).astype(np.float16)
    save("ids", ids)
    save("vectors", vectors)
    save("part", part[ids])
    save("queries", asked.astype(np.float32))
    # As the server takes them: the bare view packs nothing.
    packed = b"".join(Halfvec(query.astype(np.float32)).data for query in asked)
    (kept.folder / "queries.bin").write_bytes(packed)
    seen = [set(items) for _, items in found[:ASKED]]
    queries = asked[:ASKED].astype(np.float32)
    for share in SHARES.values():
        chosen = part[ids] < share
        plain, unseen = _exact(vectors[chosen], ids[chosen], queries, seen, K)
        save(f"unseen-{share}", unseen)
        save(f"exact-{share}", plain)
    deep = _exact(vectors, ids, queries, seen, 20 * K)
    for name, rows in zip(("exact", "unseen"), deep, strict=True):
        crowded = [_at_most(row, part[row] % SELLERS) for row in rows]
        save(f"{name}-crowded", np.array(crowded))


def _at_most(ids: NDArray[np.int64], sellers: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return the first K items of which no seller has more than CROWD."""
    kept: list[int] = []
    taken = Counter[int]()
    for item, seller in zip(ids.tolist(), sellers.tolist(), strict=True):
        if taken[seller] < CROWD and len(kept) < K:
            taken[seller] += 1
            kept.append(item)
    return np.array(kept + [-1] * (K - len(kept)), np.int64)


def _exact(
    vectors: NDArray[np.float32],
    ids: NDArray[np.int64],
    queries: NDArray[np.float32],
    seen: list[set[int]],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the nearest k of every query, and the nearest k that it has not seen.

    Rows are filled with -1 where there are not as many.
    """
    shape = (len(queries), k)
    plain, unseen = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    for row, query in enumerate(queries):
        scores = vectors @ query
        depth = min(len(ids), k + len(seen[row]))
        top = np.argpartition(-scores, depth - 1)[:depth]
        best = ids[top[np.argsort(-scores[top], kind="stable")]]
        plain[row, : min(k, depth)] = best[:k]
        rest = [item for item in best.tolist() if item not in seen[row]][:k]
        unseen[row, : len(rest)] = rest
    return plain, unseen


def recall(answers: list[list[int]], exact: NDArray[np.int64]) -> float:
    """Return the share of the exact answers that were given."""
    exact = exact[: len(answers)]
    hits = sum(
        len(set(given) & set(wanted[wanted >= 0].tolist()))
        for given, wanted in zip(answers, exact, strict=True)
    )
    return hits / int((exact >= 0).sum())
