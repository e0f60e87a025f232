"""The server and the database that a benchmark runs on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from recsys import embedded


@contextmanager
def server() -> Generator[str]:
    """Use the server of RECSYS_DSN, or an embedded one of this run."""
    given = os.environ.get("RECSYS_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        data = Path(folder) / "pgdata"
        try:
            yield embedded.start(data)
        finally:
            embedded.stop(data)


@contextmanager
def database(dsn: str, name: str) -> Generator[str]:
    """Make an empty database of its own, dropped at the end."""
    drop = sql.SQL("drop database if exists {} with (force)")
    create = sql.SQL("create database {}").format(sql.Identifier(name))
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(drop.format(sql.Identifier(name)))
        conn.execute(create)
    try:
        yield psycopg.conninfo.make_conninfo(dsn, dbname=name)
    finally:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(drop.format(sql.Identifier(name)))
