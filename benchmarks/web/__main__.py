"""Measure recommend() in web servers: ``python -m benchmarks.web [--part NAME]``.

The first run builds a world of a million items and the indexes of other engines, once,
outside the repository: RECSYS_BENCH_CACHE, by default the user's cache folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.report import Row
from benchmarks.web import cache, compared, costs, turns
from benchmarks.web.cache import World
from benchmarks.web.pooled import pooler
from benchmarks.web.workers import WORKERS, gunicorn
from recsys.cli.bars import Bars
from recsys.progress import Progress

PARTS = ("requests", "pooler", "engines", "costs")


def main() -> None:
    """Build what is missing, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5, help="per slice of a load")
    parser.add_argument("--rounds", type=int, default=4, help="slices of each view")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--engine", choices=compared.ENGINES, action="append")
    parser.add_argument("--build", action="store_true", help="build only")
    parser.add_argument("--out", type=Path, help="append the rows as JSON lines")
    options = parser.parse_args()
    progress = Bars()
    kept = cache.open_world(options.items, progress)
    try:
        if options.build:
            for engine in options.engine or compared.ENGINES:
                compared.build(kept, engine, progress)
            return
        with turns.settings(kept) as ef_search:
            parts: dict[str, Callable[[], None]] = {
                "requests": lambda: _requests(kept, ef_search, options),
                "pooler": lambda: _pooled(kept, options),
                "engines": lambda: _engines(kept, ef_search, options, progress),
                "costs": lambda: _costs(kept, options),
            }
            for part in options.part or PARTS:
                parts[part]()
    finally:
        cache.close_world(kept)


def _requests(kept: World, ef_search: int, options: argparse.Namespace) -> None:
    with gunicorn(kept, "bare") as bare, gunicorn(kept, "recommend") as ours:
        for setting in turns.SETTINGS:
            rows = turns.measure(
                kept,
                bare,
                ours,
                setting,
                seconds=options.seconds,
                rounds=options.rounds,
            )
            title = (
                f"{setting.name}: {options.items:,} x 64, {WORKERS} gunicorn workers,"
                f" ef_search {ef_search}"
            )
            report.show(title, rows, options.out)
        held = bare.memory_mb(), ours.memory_mb()
    rows = [
        Row("bare SQL", held[0], "MB"),
        Row("recommend()", held[1], "MB"),
        Row("added", held[1] - held[0], "MB"),
    ]
    report.show("Memory of a worker, shared with no other", rows, options.out)


def _pooled(kept: World, options: argparse.Namespace) -> None:
    with pooler(kept.dsn, size=WORKERS) as pool:
        dsn = pool.dsn(kept.dsn)
        with (
            gunicorn(kept, "bare", dsn=dsn, pooled=True) as bare,
            gunicorn(kept, "recommend", dsn=dsn, pooled=True) as ours,
        ):
            rows = turns.measure(
                kept,
                bare,
                ours,
                turns.SETTINGS[0],
                seconds=options.seconds,
                rounds=options.rounds,
            )
    title = f"PgBouncer: transaction mode, no filter, {options.items:,} x 64"
    report.show(title, rows, options.out)


def _engines(
    kept: World, ef_search: int, options: argparse.Namespace, progress: Progress
) -> None:
    found = compared.postgres(kept, ef_search, options.seconds)
    absent: dict[str, str] = {}
    for engine in options.engine or compared.ENGINES:
        results = compared.other(kept, engine, options.seconds, progress)
        if isinstance(results, str):
            absent[engine] = results
        else:
            found += results
    table = Table(
        title=f"The same candidates, {options.items:,} x 64, one query at a time",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("engine")
    for name in (
        "filter",
        "queries/s",
        "p50 ms",
        "p99 ms",
        "recall",
        "short",
        "effort",
    ):
        table.add_column(name, justify="right")
    for one in sorted(found, key=lambda one: list(cache.SHARES).index(one.filter)):
        table.add_row(
            one.engine,
            one.filter,
            f"{one.qps:,.0f}" if one.qps >= 10 else f"{one.qps:.2g}",
            f"{one.p50:.3g}",
            f"{one.p99:.3g}",
            f"{one.recall:.3f}",
            f"{one.short:.1%}",
            str(one.effort),
        )
    console = Console(width=110)
    console.print(table)
    for engine, reason in absent.items():
        console.print(f"{engine} is left out: {reason}")
    if options.out:
        with options.out.open("a") as file:
            file.writelines(compared.as_json(one) + "\n" for one in found)


def _costs(kept: World, options: argparse.Namespace) -> None:
    rows = costs.first_answer(kept, 2 * options.rounds - 1)
    report.show("From process start to first answer", rows, options.out)
    report.show("Answers without a database", costs.fallback(kept), options.out)


if __name__ == "__main__":
    main()
