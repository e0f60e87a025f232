"""A real Postgres for every test: a migrated template, cloned per test."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from recsys import _db, schema

_numbers = itertools.count()
_TESTS = Path(__file__).parent
# Folders and files whose tests read the clock or fill the machine by themselves.
ALONE = (
    "db/test_compare", "examples", "faults", "live", "plans/test_selectivity",
    "processes", "test_bench",
)  # fmt: skip


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """DSN of a server: RECSYS_TEST_DSN, or an embedded one of this session."""
    given = os.environ.get("RECSYS_TEST_DSN")
    if given:
        yield given
        return
    from recsys import embedded

    with tempfile.TemporaryDirectory(prefix="recsys-test-") as folder:
        data = Path(folder) / "pgdata"
        yield embedded.start(data)
        embedded.stop(data)


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """Name of a database at head, never connected to."""
    name = f"recsys_template_{os.getpid()}"
    _recreate(server, name)
    schema.upgrade(_on(server, name))
    yield name
    _drop(server, name)


@pytest.fixture
def empty_dsn(server: str) -> Iterator[str]:
    """DSN of a fresh database without the recsys schema."""
    name = f"recsys_empty_{os.getpid()}_{next(_numbers)}"
    _recreate(server, name)
    yield _on(server, name)
    _drop(server, name)


@pytest.fixture
def dsn(server: str, template: str) -> Iterator[str]:
    """DSN of a fresh database with the recsys schema at head."""
    name = f"recsys_test_{os.getpid()}_{next(_numbers)}"
    _recreate(server, name, template)
    yield _on(server, name)
    _drop(server, name)


@pytest.fixture
def db(dsn: str) -> Iterator[_db.Connection]:
    """Connection to a fresh database with the recsys schema at head."""
    with _db.connect(dsn) as conn:
        yield conn


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(_TESTS).as_posix().startswith(ALONE):
            item.add_marker(pytest.mark.alone)


def pytest_report_header() -> list[str]:
    given = os.environ.get("RECSYS_TEST_DSN")
    return [f"postgres: {'RECSYS_TEST_DSN' if given else 'embedded'}"]


def _on(server: str, name: str) -> str:
    return psycopg.conninfo.make_conninfo(server, dbname=name)


def _recreate(server: str, name: str, template: str | None = None) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        _force_drop(conn, name)
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
        conn.execute(statement)


def _drop(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        _force_drop(conn, name)


def _force_drop(conn: psycopg.Connection, name: str) -> None:
    conn.execute(
        sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
    )
