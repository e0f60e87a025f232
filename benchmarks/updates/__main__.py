"""Run them: ``python -m benchmarks.updates [--part daily] [--part publish]``.

``--part steps`` is not among those that run by themselves: it compares steps, on days
before those of the other.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report, server
from benchmarks.updates import daily, publishing, steps
from recsys import schema
from recsys.updates.settings import UpdateConfig

PARTS = ("daily", "publish")
STEPS = [(lr, passes) for passes in (1, 2, 5) for lr in (0.1, 0.03, 0.01, 0.003)]
DATABASE = f"recsys_bench_updates_{os.getpid()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=(*PARTS, "steps"), action="append")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--start", default="2013-10-01", help="first day")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--parts-a-day", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=UpdateConfig().lr)
    parser.add_argument("--passes", type=int, default=UpdateConfig().passes)
    parser.add_argument("--guard", type=float, default=UpdateConfig().guard)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--interactions", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=20, help="requests per second")
    parser.add_argument("--seconds", type=float, default=30, help="steady load")
    parser.add_argument("--max-load", type=float, default=1.0)
    parser.add_argument("--out", type=Path, help="append the rows as JSON lines")
    options = parser.parse_args()
    parts = options.part or PARTS
    for part in parts:
        with server.server() as dsn, server.database(dsn, DATABASE) as fresh:
            schema.upgrade(fresh)
            if part in ("daily", "steps"):
                start = datetime.fromisoformat(options.start).replace(tzinfo=UTC)
                plan = daily.Plan(
                    start, options.days, options.parts_a_day, options.epochs,
                    UpdateConfig(overlap_s=0.0, lr=options.lr, passes=options.passes,
                                 guard=options.guard),
                )  # fmt: skip
                data = options.data / "movietweetings"
                if part == "daily":
                    rows = daily.run(fresh, data, plan)
                else:
                    rows = steps.run(fresh, data, plan, STEPS)
                title = f"{options.days} days of MovieTweetings from {options.start}"
            else:
                rows = publishing.run(
                    fresh, options.items, options.interactions, rate=options.rate,
                    steady_s=options.seconds, max_load=options.max_load,
                )  # fmt: skip
                title = f"An update of {options.interactions:,} interactions"
            report.show(title, rows, options.out)


if __name__ == "__main__":
    main()
