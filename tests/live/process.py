"""Run a recsys command with accidents: pauses between statements, death, planted bugs.

    python tests/live/process.py --seed 7 --pause 0.2 -- worker --poll 0.05

The command is the real one, ``recsys``; what is added sits between its statements.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parent))

LONGEST_PAUSE_S = 0.06


class Accidents:
    """What happens before a statement, a commit or a fetch."""

    def __init__(self, seed: int, pause: float, die_at: int) -> None:
        self._random = random.Random(seed)
        self._pause = pause
        self._die_at = die_at
        self._n = 0

    def happen(self) -> None:
        """Pause sometimes, die once."""
        self._n += 1
        if self._n == self._die_at:
            os._exit(9)
        if self._random.random() < self._pause:
            time.sleep(self._random.random() ** 2 * LONGEST_PAUSE_S)

    def install(self) -> None:
        """Put them before everything that talks to the server."""
        for owner, names in (
            (psycopg.Cursor, ("execute", "copy")),
            (psycopg.ServerCursor, ("execute", "fetchmany")),
            (psycopg.Connection, ("commit",)),
            (psycopg.Transaction, ("__exit__",)),
        ):
            for name in names:
                setattr(owner, name, self._before(getattr(owner, name)))

    def _before(self, method: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.happen()
            return method(*args, **kwargs)

        return wrapped


def main() -> None:
    """Install the accidents, then be ``recsys``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=0)
    parser.add_argument("--bug", default="")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    from recsys import _load

    if asked.chunk:
        _load._CHUNK = _load._FETCH = asked.chunk
    if asked.bug:
        from bugs import plant

        plant(asked.bug)
    Accidents(asked.seed, asked.pause, asked.die_at).install()
    from recsys.cli import main as recsys

    sys.argv = ["recsys", *asked.command[1:]]
    recsys()


if __name__ == "__main__":
    main()
