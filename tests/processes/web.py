"""Starts a web server, asks it, and sees what it left in the database."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from recsys import Recommender, _db

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
USERS = range(1, 13)


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


@dataclass(frozen=True)
class Web:
    """A running server of tests/processes/served.py."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> dict[str, Any]:
        conn = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            conn.request("GET", path)
            reply = conn.getresponse()
            body = reply.read()
        finally:
            conn.close()
        assert reply.status == 200, (body, self.said())
        return json.loads(body)

    def get_all(self, paths: Iterable[str], clients: int = 8) -> list[dict[str, Any]]:
        """Ask many at once; answers in the order of the paths."""
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(self.get, paths))

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end, and wait until it did."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(15)


@contextmanager
def serving(
    command: list[str],
    folder: Path,
    dsn: str,
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path = HERE,
) -> Iterator[Web]:
    """Run a server until the end of the block; ``{port}`` in its command is filled in.

    Args:
        command: Program of this Python's environment, and its arguments.
        folder: For its log.
        dsn: The shop's database.
        env: More of the environment.
        cwd: Where it finds the application.
    """
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                str(BIN / command[0]),
                *(x.replace("{port}", str(port)) for x in command[1:]),
            ],
            cwd=cwd,
            # Unbuffered, and errors in every process: what a server says is read.
            env={
                **os.environ,
                "RECSYS_DSN": dsn,
                "PYTHONUNBUFFERED": "1",
                **(env or {}),
            },
            stdout=out,
            stderr=out,
            # A group of its own: whatever it leaves behind is ended with it.
            start_new_session=True,
        )
    web = Web(port, process, log)
    try:
        until(lambda: _answers(web), 30, web.said)
        yield web
    finally:
        try:
            web.stop()
        finally:
            _end_group(process.pid)
            process.wait(5)


def _answers(web: Web) -> bool:
    if web.process.poll() is not None:
        raise AssertionError(f"the server ended:\n{web.said()}")
    try:
        return bool(web.get("/"))
    except (OSError, HTTPException):
        return False


def _end_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def until(holds: Any, seconds: float = 10, what: Any = None) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(what() if what else "it did not come to hold")
        time.sleep(0.02)


def expected(dsn: str) -> dict[int, list[Any]]:
    """What each user must get, from whatever process."""
    with Recommender("shop", dsn=dsn) as shop:
        return {user: [r.item_id for r in shop.recommend(user, k=5)] for user in USERS}


def sessions(dsn: str) -> int:
    """Sessions that recommenders of other processes hold on this database."""
    with _db.connect(dsn) as conn:
        row = conn.execute(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and application_name = 'recsys' and pid <> pg_backend_pid()"
        ).fetchone()
    return int(row[0]) if row else 0


def impressions(dsn: str) -> int:
    with _db.connect(dsn) as conn:
        row = conn.execute("select count(*) from recsys.impression").fetchone()
    return int(row[0]) if row else 0
