"""A gunicorn with four workers, and what its workers hold in memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.web import load
from benchmarks.web.cache import World

WORKERS = 4
_ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Served:
    """A running gunicorn."""

    socket: Path
    process: subprocess.Popen[bytes]

    def memory_mb(self) -> float:
        """Return the mean memory of a worker that no other process shares."""
        return statistics.mean(
            _private_kb(pid) / 1024 for pid in _children(self.process.pid)
        )


@contextmanager
def gunicorn(
    kept: World, view: str, *, dsn: str | None = None, pooled: bool = False
) -> Generator[Served]:
    """Serve a view of ``views`` on a Unix socket, until the end of the block."""
    env = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "RECSYS_BENCH_DSN": dsn or kept.dsn,
        "RECSYS_BENCH_QUERIES": str(kept.folder / "queries.bin"),
        **({"RECSYS_BENCH_POOLED": "1"} if pooled else {}),
    }
    with tempfile.TemporaryDirectory(prefix="recsys-web-") as folder:
        path = Path(folder) / "socket"
        log = Path(folder) / "log"
        command = [
            *(sys.executable, "-m", "gunicorn", f"benchmarks.web.views:{view}()"),
            # Of gunicorn's workers only these keep connections open.
            *("--worker-class", "gthread", "--threads", "1"),
            *("--workers", str(WORKERS), "--bind", f"unix:{path}"),
            *("--keep-alive", "60", "--log-level", "warning"),
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, env=env, cwd=folder, stdout=out, stderr=out
            )
        try:
            _wait(path, process, log)
            yield Served(path, process)
        finally:
            process.terminate()
            process.wait(30)


def _wait(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"gunicorn ended: {log.read_text()[-2000:]}")
        try:
            load.bodies(path, ["/?user=1"])
            return
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.05)
        except (ConnectionError, RuntimeError) as exc:
            raise RuntimeError(f"{exc}: {log.read_text()[-2000:]}") from exc
    raise RuntimeError("gunicorn did not start within 30 s")


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def _private_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(
        int(line.split()[1])
        for line in lines
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )
