"""A real PgBouncer in front of the test server.

    with pooler(server, size=2) as pool:
        shop = Recommender("shop", dsn=pool.dsn(shop_dsn))

Transaction mode unless told otherwise, on a Unix socket of its own folder.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import tools
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

_PORT = 6432
"""Only names the socket in the folder: nothing listens on TCP."""


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer."""

    folder: Path
    process: subprocess.Popen[bytes]

    def dsn(self, direct: str) -> str:
        """The database of a direct connection string, through the pooler."""
        return make_conninfo(direct, host=str(self.folder), port=_PORT)

    def show(self, what: str) -> list[dict[str, Any]]:
        """Rows of a console command, such as ``show("pools")``."""
        dsn = f"host={self.folder} port={_PORT} dbname=pgbouncer user=postgres"
        # The console knows the simple protocol only.
        with psycopg.connect(
            dsn,
            autocommit=True,
            row_factory=dict_row,
            cursor_factory=psycopg.ClientCursor,
        ) as conn:
            return conn.execute(f"show {what}".encode()).fetchall()

    def log(self) -> str:
        """What it said so far."""
        return (self.folder / "log").read_text(errors="replace")


@contextmanager
def pooler(
    server: str, *, size: int = 2, mode: str = "transaction", **settings: object
) -> Iterator[Pooler]:
    """Start a PgBouncer and stop it at the end.

    Args:
        server: Direct connection string; every database of that server is reachable.
        size: Server connections per database: fewer than the clients of the test.
        mode: "transaction", "session" or "statement".
        settings: More of pgbouncer.ini's section [pgbouncer].
    """
    program = tools.program("pgbouncer")
    # Not tmp_path: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="recsys-pool-"))
    try:
        _configure(folder, server, size, mode, settings)
        command = [program, "-q", str(folder / "pgbouncer.ini")]
        if os.getuid() == 0:
            user = _other_user(server)
            command += ["-u", user]
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, user)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        pool = Pooler(folder, process)
        try:
            _wait(pool)
            yield pool
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _configure(
    folder: Path, server: str, size: int, mode: str, settings: dict[str, object]
) -> None:
    to = conninfo_to_dict(server)
    user = to.get("user") or getpass.getuser()
    where = [f"{key}={to[key]}" for key in ("host", "port") if to.get(key)]
    if to.get("password"):
        where.append(f"password={to['password']}")
    lines: dict[str, object] = {
        "unix_socket_dir": folder,
        "listen_port": _PORT,
        "pool_mode": mode,
        "default_pool_size": size,
        "max_client_conn": 500,
        # Whoever reaches the socket may log in as whom they say, as on the server.
        "auth_type": "trust",
        "auth_file": folder / "users.txt",
        "admin_users": "postgres",
        "server_reset_query_always": 0,
        # A dropped database must not wait for an idle session of ours.
        "server_idle_timeout": 60,
        **settings,
    }
    (folder / "users.txt").write_text(
        "".join(f'"{name}" ""\n' for name in sorted({user, "postgres"}))
    )
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = {' '.join(where)}\n\n[pgbouncer]\n"
        + "".join(f"{key} = {value}\n" for key, value in lines.items())
    )


def _other_user(server: str) -> str:
    """Who it runs as instead of root, which PgBouncer refuses to be."""
    host = str(conninfo_to_dict(server).get("host") or "")
    # The embedded server's socket lies in a folder that only its own user may enter.
    return Path(host).owner() if host.startswith("/") else "nobody"


def _wait(pool: Pooler) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            pool.show("version")
            return
        except psycopg.OperationalError as exc:
            if pool.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PgBouncer did not start:\n{pool.log()}") from exc
            time.sleep(0.02)
