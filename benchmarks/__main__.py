"""Run the benchmarks: ``python -m benchmarks [--items N] [--part NAME]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import (
    aa,
    catalogue,
    compression,
    impressions,
    memory,
    process,
    reading,
    report,
    rerank,
    rules,
    server,
    serving,
    training,
    vocabulary,
    world,
)
from benchmarks.live import capturing, freshness, roll
from recsys import _db, rollout, schema
from recsys.backfill import backfill
from recsys.cli.bars import Bars

LIVE = ("roll", "freshness", "capture")
PARTS = (
    "process",
    "serving",
    "rules",
    "rerank",
    "impressions",
    "reading",
    "compression",
    *LIVE,
    "training",
    "catalogue",
    "memory",
    "vocabulary",
    "aa",
)
DATABASE = "recsys_bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=3_000)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--live-items", type=int, default=100_000)
    parser.add_argument("--versions", type=int, default=5)
    parser.add_argument("--switches", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15, help="per live load")
    parser.add_argument("--distinct", type=int, default=5_000_000)
    parser.add_argument("--experiments", type=int, default=2_000)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, help="append the rows as JSON lines")
    options = parser.parse_args()
    parts = options.part or PARTS
    if "process" in parts:
        report.show("Import", process.imports(), options.out)
    on_a_server = {
        "serving": _serving,
        "rules": _rules,
        "rerank": _rerank,
        "impressions": _impressions,
        "reading": _reading,
        "compression": _compression,
        "roll": _roll,
        "freshness": _freshness,
        "capture": _capture,
    }
    for part, measure in on_a_server.items():
        if part not in parts:
            continue
        with server.server() as dsn, server.database(dsn, DATABASE) as fresh:
            schema.upgrade(fresh)
            measure(fresh, options)
    if "training" in parts:
        rows = training.run(options.data / "gowalla", options.epochs)
        report.show("Training on Gowalla, d = 64", rows, options.out)
    if "catalogue" in parts:
        rows = [*catalogue.run(), *catalogue.quality()]
        report.show("Large catalogues, d = 64, one thread", rows, options.out)
    if "memory" in parts:
        report.show(
            "Memory of what looks at the interactions", memory.run(), options.out
        )
    if "vocabulary" in parts:
        rows = vocabulary.run(options.distinct)
        title = f"A category of {options.distinct:,} distinct values"
        report.show(title, rows, options.out)
    if "aa" in parts:
        rows = aa.run(options.experiments)
        report.show("False alarms of A/A experiments", rows, options.out)


def _serving(dsn: str, options: argparse.Namespace) -> None:
    rows = serving.run(dsn, options.items, options.queries, Bars())
    title = f"Loading and serving {options.items:,} items x 64 dimensions"
    report.show(title, rows, options.out)
    report.show("Serving process", _memory(dsn), options.out)


def _rules(dsn: str, options: argparse.Namespace) -> None:
    rows = rules.run(dsn, options.items, options.queries)
    report.show(f"Filters and rules, {options.items:,} items", rows, options.out)


def _rerank(dsn: str, options: argparse.Namespace) -> None:
    rows = rerank.run(dsn, options.items, options.queries, Bars())
    title = f"Ranking again, {options.items:,} items x {rerank.DIM} dimensions"
    report.show(title, rows, options.out)


def _impressions(dsn: str, options: argparse.Namespace) -> None:
    rows = impressions.run(dsn, options.items, options.queries)
    report.show(f"Logging answers, {options.items:,} items", rows, options.out)


def _reading(dsn: str, options: argparse.Namespace) -> None:
    rows = reading.run(dsn, options.interactions)
    report.show("Reading for training", rows, options.out)


def _compression(dsn: str, options: argparse.Namespace) -> None:
    lines = compression.run(
        dsn,
        options.data / "gowalla",
        options.live_items // 5,
        options.queries // 3,
        options.epochs,
        Bars(),
    )
    compression.show("Smaller and faster", lines, options.out)


def _roll(dsn: str, options: argparse.Namespace) -> None:
    items = options.live_items // 5
    rows = roll.run(dsn, items, cycles=options.versions, steady_s=options.seconds)
    title = f"{options.versions} versions of {items:,} items rolled under load"
    report.show(title, rows, options.out)


def _freshness(dsn: str, options: argparse.Namespace) -> None:
    items = options.live_items
    tables = freshness.run(
        dsn,
        items,
        seconds=options.seconds,
        queued=items // 10,
        switches=options.switches,
    )
    for title, rows in tables.items():
        report.show(title, rows, options.out)


def _capture(dsn: str, options: argparse.Namespace) -> None:
    rows = capturing.run(dsn, options.live_items)
    report.show("Capture, in turns with an unwatched table", rows, options.out)


def _memory(dsn: str) -> list[report.Row]:
    """Make a second, small version and switch a running process to it."""
    learned = world.catalogue(2_000, 64, seed=9)
    with _db.connect(dsn) as conn:
        conn.execute("delete from bench_item where id > 2000")
        number = world.register(conn, learned, 64)
    backfill(dsn, world.MODEL, number)

    def promote() -> None:
        with _db.connect(dsn) as conn:
            rollout.promote(conn, world.MODEL, number, reason="test", force=True)

    return process.memory(dsn, promote)


if __name__ == "__main__":
    main()
