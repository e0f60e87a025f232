"""How fast a full queue drains: items per second and core, one live version.

The same changes three ways, each on rows that really change, in turns: by
``recsys worker --drain``; by the bare item tower and the same upserts into the same
indexed table, without queue, locks or error handling; and by the bare tower and COPY
into a table without an index, which is what a backfill does. One process each, whose
work alternates with that of its server process: together they fill about one core,
and CPU time is that of both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.live.shop import BRANDS, MODEL
from benchmarks.report import Row
from recsys import _copy, _db, _sql, versions
from recsys._db import Connection, HalfvecArray
from recsys._items import ItemEncoder
from recsys.worker.apply import LiveModel

BATCH = 500
_TABLE = f"item_vector_{MODEL}_1"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class _Spent:
    """Time for a number of items."""

    items: int = 0
    wall: float = 0.0
    cpu: float = 0.0

    @property
    def per_second(self) -> float:
        return self.items / self.wall

    @property
    def per_core(self) -> float:
        return self.items / self.cpu


def run(dsn: str, items: int, queued: int) -> list[Row]:
    """Drain ``queued`` changes in each way.

    Args:
        dsn: A database with version 1 serving and watched.
        items: Size of the catalogue.
        queued: How many changes; spread over the catalogue.
    """
    with _db.connect(dsn, autocommit=True) as conn:
        _autovacuum(conn, on=False)
        conn.execute(f"create table recsys.bench_plain (like recsys.{_TABLE})".encode())
        worker, upserts, copied = _Drain(conn), _Upserts(conn), _Copies(conn)
        rounds = 4
        spent = {way: _Spent() for way in (worker, upserts, copied)}
        worker(_change(conn, items, queued, 0))  # what watching queued, and warm-up
        for turn in range(rounds):
            for way in (worker, upserts, copied):
                ids = _change(conn, items, queued // rounds, turn)
                if way is not worker:
                    conn.execute("truncate recsys.item_change")
                _measure(conn, way, ids, spent[way])
        conn.execute("drop table recsys.bench_plain")
        dead, cpu = _vacuum(conn)
        _autovacuum(conn, on=True)
    queue, direct, plain = spent[worker], spent[upserts], spent[copied]
    return [
        Row("worker", queue.per_second, "items/s", note=f"{queue.items:,} items"),
        Row("bare tower and the same upserts", direct.per_second, "items/s"),
        Row("bare tower and COPY, no index", plain.per_second, "items/s"),
        Row("worker, per core", queue.per_core, "items/s", note="CPU of both sides"),
        Row("bare tower and the same upserts, per core", direct.per_core, "items/s"),
        Row("bare tower and COPY, no index, per core", plain.per_core, "items/s"),
        Row("upserts / worker, per core", direct.per_core / queue.per_core, "x",
            note="cost of queue, locks and reading by key"),
        Row("COPY / worker, per core", plain.per_core / queue.per_core, "x",
            note="and of keeping the HNSW index"),
        Row("VACUUM per dead row, CPU", cpu / dead * 1e3, "ms",
            note=f"{dead:,} dead rows of {items:,}; autovacuum comes at 3 %"),
    ]  # fmt: skip


class _Drain:
    """The worker's own loop over the queue."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._live = LiveModel(MODEL)

    def __call__(self, ids: list[int]) -> None:
        while self._live.apply_changes(self._conn, BATCH).oldest is not None:
            pass


class _Upserts:
    """Read, encode and upsert, batch by batch."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._encoder = ItemEncoder(conn, versions.get(conn, MODEL, 1))
        select = self._encoder.select().replace("%", "%%")
        self._read = _sql.trusted(f"{select} where s.item_id = any(%s::bigint[])")
        row = conn.execute("select 'halfvec'::regtype::oid").fetchone()
        self._halfvec = row[0] if row else 0

    def __call__(self, ids: list[int]) -> None:
        for start in range(0, len(ids), BATCH):
            with self._conn.transaction(), _db.binary_cursor(self._conn) as cur:
                cur.execute(self._read, (ids[start : start + BATCH],))
                encoded = self._encoder.encode(cur.fetchall())
                for table, rows in (
                    (_TABLE, encoded.vectors),
                    (_TABLE.replace("vector", "embedding"), encoded.history),
                ):
                    cur.execute(
                        _sql.trusted(
                            f"insert into recsys.{table} (item_id, embedding)"
                            " select * from unnest(%s::bigint[], %s::halfvec[])"
                            " on conflict (item_id) do update"
                            " set embedding = excluded.embedding"
                        ),
                        (encoded.ids, HalfvecArray(rows, self._halfvec)),
                    )


class _Copies:
    """Read, encode and COPY."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._encoder = ItemEncoder(conn, versions.get(conn, MODEL, 1))
        select = self._encoder.select().replace("%", "%%")
        self._read = _sql.trusted(f"{select} where s.item_id = any(%s::bigint[])")

    def __call__(self, ids: list[int]) -> None:
        with self._conn.transaction():
            rows = _db.binary_cursor(self._conn).execute(self._read, (ids,)).fetchall()
            done = self._encoder.encode(rows)
            _copy.copy_rows(
                self._conn, "bench_plain", "bigint", done.ids, [done.vectors]
            )


def _change(conn: Connection, items: int, count: int, turn: int) -> list[int]:
    """Change items all over the catalogue, so that their vectors differ."""
    step = max(1, items // max(count, 1))
    ids = list(range(1 + turn % step, items + 1, step))[:count]
    conn.execute(
        "update live_item set brand = 'brand ' || (substr(brand, 7)::int + 1) % %s"
        " where id = any(%s::bigint[])".replace("% %s", "%% %s").encode(),
        (BRANDS, ids),
    )
    return ids


def _measure(
    conn: Connection, way: Callable[[list[int]], None], ids: list[int], spent: _Spent
) -> None:
    cpu, wall = _cpu(conn), time.perf_counter()
    way(ids)
    spent.wall += time.perf_counter() - wall
    spent.cpu += _cpu(conn) - cpu
    spent.items += len(ids)


def _autovacuum(conn: Connection, *, on: bool) -> None:
    """Keep autovacuum out of the measurement."""
    setting = "true" if on else "false"
    statement = f"alter table recsys.{_TABLE} set (autovacuum_enabled = {setting})"
    conn.execute(statement.encode())


def _vacuum(conn: Connection) -> tuple[int, float]:
    """Clear away what the changes left; returns the dead rows and the CPU seconds."""
    row = conn.execute(
        "select n_dead_tup from pg_stat_force_next_flush(),"
        " pg_stat_get_dead_tuples(%s::regclass) as n_dead_tup",
        (f"recsys.{_TABLE}",),
    ).fetchone()
    before = _cpu(conn)
    conn.execute(f"vacuum recsys.{_TABLE}".encode())
    return max(row[0] if row else 0, 1), _cpu(conn) - before


def _cpu(conn: Connection) -> float:
    """Return the CPU seconds of this process and of its server process."""
    stat = open(f"/proc/{conn.info.backend_pid}/stat").read()  # noqa: SIM115
    fields = stat.rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / _TICK
