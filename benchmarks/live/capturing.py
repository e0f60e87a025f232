"""What a capture trigger costs the statement it hangs on, per changed row.

Two tables of the same rows, one watched and one not, take turns statement by statement
on one connection. Time is that of the statement, inside a transaction: a commit waits
for the disk and would hide the trigger (one row shows it). A partitioned table is
captured by row, any other by statement. Left out: what the worker does later, and
several sessions at once.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from psycopg import sql

from benchmarks.live import shop
from benchmarks.report import Row
from recsys import _db, _sql, capture
from recsys._db import Connection

_ROUNDS = 5
_COLUMNS = "(id bigint primary key, brand text, price float8, stock integer)"
_TABLES = {
    "": ("bench_bare", "bench_watched"),
    ", partitioned": ("bench_bare_parts", "bench_watched_parts"),
}
_SINGLE = {
    "update": "update {} set brand = brand || '.' where id = %s",
    "update of an unused column": "update {} set stock = stock + 1 where id = %s",
    "insert": "insert into {} values (%s + 10000000, 'brand', 1, 1)",
    "delete": "delete from {} where id = %s + 10000000",
}
_WHOLE = {
    "update": "update {} set brand = brand || '.'",
    "update of an unused column": "update {} set stock = stock + 1",
    "insert": "insert into {} select id + 10000000, brand, price, stock from {}",
    "delete": "delete from {} where id > 10000000",
}


def run(dsn: str, rows: int, *, singles: int = 500) -> list[Row]:
    """Measure statements of one row and of ``rows`` rows.

    Args:
        dsn: An empty database at head.
        rows: Rows of each table.
        singles: Statements of one row per kind and round.
    """
    found = []
    with _db.connect(dsn) as conn:
        data = shop.make(dsn, 100)
        shop.register(conn, data)
        for bare, watched in _TABLES.values():
            for table in (bare, watched):
                _make(conn, table, rows, parts=table.endswith("parts"))
            _watch(conn, watched)
        conn.commit()
        for what, (bare, watched) in _TABLES.items():
            found += _singles(conn, what, bare, watched, singles)
        for what, (bare, watched) in _TABLES.items():
            found += _statements(conn, what, bare, watched, rows)
        conn.rollback()
        conn.autocommit = True
        found += _commits(conn, singles)
    return found


def _make(conn: Connection, table: str, rows: int, *, parts: bool) -> None:
    by = " partition by hash (id)" if parts else ""
    conn.execute(f"create table {table} {_COLUMNS}{by}".encode())
    for n in range(4 if parts else 0):
        conn.execute(
            f"create table {table}_{n} partition of {table}"
            f" for values with (modulus 4, remainder {n})".encode()
        )
    conn.execute(
        f"insert into {table} select i, 'brand', i, i"
        f" from generate_series(1, {rows}) as i".encode()
    )
    conn.execute(f"analyze {table}".encode())


def _watch(conn: Connection, table: str) -> None:
    config = shop.config()
    source = f"select id as item_id, brand from {table}"
    items = replace(config.items, sql=source, watch={table: "id"})
    report = capture.inspect(conn, replace(config, items=items))
    mine = [t for t in report.tables if t.table.endswith(f".{table}")]
    for statement in capture.statements(conn, shop.MODEL, mine):
        conn.execute(_sql.trusted(statement))


def _singles(
    conn: Connection, what: str, bare: str, watched: str, count: int
) -> list[Row]:
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(_ROUNDS):
        for kind, text in _SINGLE.items():
            for n in range(1, count + 1):
                for table in (bare, watched) if n % 2 else (watched, bare):
                    statement = sql.SQL(text).format(sql.Identifier(table))
                    start = time.perf_counter()
                    conn.execute(statement, (n,))
                    spent = time.perf_counter() - start
                    took.setdefault((kind, table), []).append(spent)
        conn.commit()
    return [
        _row(f"one row{what}: {kind}", np.median(took[kind, bare]),
             np.median(took[kind, watched]), 1)
        for kind in _SINGLE
    ]  # fmt: skip


def _statements(
    conn: Connection, what: str, bare: str, watched: str, rows: int
) -> list[Row]:
    took: dict[tuple[str, str], list[float]] = {}
    for turn in range(_ROUNDS):
        for kind, text in _WHOLE.items():
            for table in (bare, watched) if turn % 2 else (watched, bare):
                name = sql.Identifier(table)
                statement = sql.SQL(text).format(*[name] * text.count("{}"))
                start = time.perf_counter()
                conn.execute(statement)
                spent = time.perf_counter() - start
                took.setdefault((kind, table), []).append(spent)
        conn.commit()
        conn.execute("truncate recsys.item_change")
        conn.commit()
        conn.autocommit = True
        for table in (bare, watched):
            conn.execute(sql.SQL("vacuum {}").format(sql.Identifier(table)))
        conn.autocommit = False
    return [
        _row(f"{rows:,} rows{what}: {kind}", np.median(took[kind, bare]),
             np.median(took[kind, watched]), rows)
        for kind in _WHOLE
    ]  # fmt: skip


def _commits(conn: Connection, count: int) -> list[Row]:
    """One-row updates that commit, as an application does."""
    took: dict[str, list[float]] = {table: [] for table in _TABLES[""]}
    for n in range(1, count + 1):
        for table in _TABLES[""]:
            statement = sql.SQL(_SINGLE["update"]).format(sql.Identifier(table))
            start = time.perf_counter()
            conn.execute(statement, (n,))
            took[table].append(time.perf_counter() - start)
    bare, watched = (float(np.median(took[table])) for table in _TABLES[""])
    return [_row("one row: update and commit", bare, watched, 1)]


def _row(what: str, bare: float, watched: float, rows: int) -> Row:
    each, cost = bare / rows * 1e6, (watched - bare) / rows * 1e6
    note = f"{each:.2f} µs a row without, {cost:+.2f} µs with the trigger"
    return Row(f"{what}, watched / not", watched / bare, "x", note=note)
