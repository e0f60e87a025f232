"""Interleave at random for a long time: ``make soak``, or python tests/live/soak.py.

    python tests/live/soak.py --minutes 10
    python tests/live/soak.py --seed 4711 --seconds 30     repeat one run
    python tests/live/soak.py --bug "lost event" --minutes 3

Each run prints its seed. It ends at the first difference, with status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import scene  # noqa: E402
import world  # noqa: E402
from chaos import Chaos, Options  # noqa: E402

from recsys import embedded, schema  # noqa: E402


def main() -> int:
    """Run until the time is over or something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=40, help="of one run")
    parser.add_argument("--seed", type=int, help="one run with this seed")
    parser.add_argument("--bug", default="", help="planted; see bugs.py")
    parser.add_argument("--restarts", type=int, default=2, help="per run, at most")
    asked = parser.parse_args()
    end = time.monotonic() + asked.minutes * 60
    with tempfile.TemporaryDirectory(prefix="recsys-soak-") as folder:
        data = Path(folder) / "pgdata"
        server = embedded.start(data)
        try:
            with world.database(server) as template:
                schema.upgrade(template)
                while True:
                    seed = asked.seed or random.SystemRandom().randrange(1, 10**6)
                    options = Options(
                        seed, asked.seconds, data, asked.restarts, asked.bug
                    )
                    found = one(server, world.name_of(template), options, Path(folder))
                    if found or asked.seed or time.monotonic() > end:
                        return 1 if found else 0
        finally:
            embedded.stop(data)


def one(server: str, template: str, options: Options, folder: Path) -> list[str]:
    """Run one seed in a fresh database and say how it went."""
    logs = folder / f"logs-{options.seed}-{time.monotonic_ns()}"
    logs.mkdir()
    start = time.monotonic()
    with world.database(server, template) as dsn:
        made = scene.build(dsn)
        made.run("checkpoint")  # as in conftest.py
        chaos = Chaos(made, options, logs)
        found = chaos.run()
    took = time.monotonic() - start
    counts = " ".join(f"{name}={n}" for name, n in sorted(chaos.done.items()))
    print(f"seed {options.seed}: {len(found)} differences, {took:.0f} s; {counts}")
    for line in found[:40]:
        print("   ", line)
    if found:
        print(f"Repeat: python tests/live/soak.py --seed {options.seed}"
              f" --seconds {options.seconds:.0f}")  # fmt: skip
    sys.stdout.flush()
    return found


if __name__ == "__main__":
    sys.exit(main())
