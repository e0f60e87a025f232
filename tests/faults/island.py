"""A server of its own that tests may freeze and stop, and a streaming replica of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import world

from recsys import embedded, schema


class Island:
    """One Postgres of the tests' own.

    Attributes:
        folder: Its data.
        dsn: Connection string to its database.
        server: Its process, where this one started it.
    """

    server: subprocess.Popen[bytes] | None = None

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder = folder
        self.dsn = dsn

    def processes(self) -> list[psutil.Process]:
        first = (self.folder / "postmaster.pid").read_text().split("\n")[0]
        postmaster = psutil.Process(int(first))
        return [postmaster, *postmaster.children(recursive=True)]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process in its tracks: sockets accept, nobody answers."""
        stopped = self.processes()
        # One that was at its end is gone by then, or when its parent goes on.
        for one in stopped:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        try:
            yield
        finally:
            for one in stopped:
                with suppress(psutil.NoSuchProcess):
                    one.resume()

    def stop(self) -> None:
        embedded.stop(self.folder)
        if self.server is not None:
            self.server.wait(30)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop the server, and start it again."""
        embedded.stop(self.folder)
        try:
            yield
        finally:
            embedded.start(self.folder)

    def execute(self, text: str, *values: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            cursor = conn.execute(text.encode(), values or None)
            return cursor.fetchall() if cursor.description else []


def primary(folder: Path) -> Island:
    """Start a server with a shop: versions 1 and 2 ready, 1 serving."""
    dsn = embedded.start(folder / "primary", database="shop")
    schema.upgrade(dsn)
    world.fill_shop(dsn)
    model = world.shop_config(features=True)
    world.add_version(dsn, model, seed=1, promote=True)
    world.add_version(dsn, model, seed=2)
    return Island(folder / "primary", dsn)


def standby(of: Island, folder: Path) -> Island:
    """Start a streaming replica."""
    postgres = of.processes()[0]
    binaries = Path(postgres.exe()).parent
    data, owner = folder / "standby", of.folder.stat().st_uid
    params = psycopg.conninfo.conninfo_to_dict(of.dsn)
    subprocess.run(
        [
            *(binaries / "pg_basebackup", "-D", data, "-R", "-X", "stream"),
            *("-c", "fast", "-h", str(params["host"]), "-U", "postgres"),
        ],
        check=True,
        capture_output=True,
    )
    # Where 'alter system reset' does not reach it.
    auto = (data / "postgresql.auto.conf").read_text()
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(auto)
    for path in (data, *data.rglob("*")):
        shutil.chown(path, owner, of.folder.stat().st_gid)
    for stale in data.glob(".s.PGSQL.*"):
        stale.unlink()  # the primary's: its socket lies among its data
    with (folder / "standby.log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-h", "", "-k", data],
            stdout=log,
            stderr=log,
            user=owner if os.getuid() == 0 else None,
            start_new_session=True,
        )
    dsn = psycopg.conninfo.make_conninfo(of.dsn, host=str(data))
    made = Island(data, dsn)
    made.server = server
    wait_for(lambda: made.execute("select pg_is_in_recovery()") == [(True,)])
    return made


def caught_up(of: Island, replica: Island) -> None:
    """Wait until a replica has replayed what its primary has written."""
    lsn = of.execute("select pg_current_wal_flush_lsn()::text")[0][0]
    query = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
    wait_for(lambda: replica.execute(query, lsn) == [(True,)])


def repair(of: Island, replica: Island) -> None:
    """Let a replica follow again, whatever a test has done to it."""
    replica.execute("alter system reset all")
    replica.execute("select pg_reload_conf()")
    replica.execute("select pg_wal_replay_resume()")
    caught_up(of, replica)


def wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something holds, also one that cannot be asked yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if true():
                return
        except psycopg.OperationalError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"it did not come about within {seconds:g} s")
