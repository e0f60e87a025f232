"""Towers of eight bits beside the same towers of thirty-two, as they are served.

Both versions are trained with the same seed and settings, so they are the same fit; the
second one is quantised when it is exported. Each is filled, indexed and asked as a
request asks. Settings are given, not searched: a search would see the clock. Left out:
the network, several requests at once.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import server
from benchmarks.quality import Bench
from recsys import _db, artifacts, evaluate, versions
from recsys._served import Served
from recsys.backfill import backfill
from recsys.cli.bars import Bars

DATABASE = "recsys_eight_bits"
FIT: Mapping[str, float] = {"epochs": 8, "tau": 0.15, "dropout": 0.5, "companions": 0}
K = 20


@dataclass(frozen=True)
class Line:
    """One version.

    Attributes:
        towers: How their weights are stored.
        recall: Recall@20 of the held-out items through the served path.
        ndcg: NDCG@20 likewise.
        p50_ms: Of an answer: history, query tower and search.
        item_bytes: Of the item tower's file.
        query_bytes: Of the query tower's file.
    """

    towers: str
    recall: float
    ndcg: float
    p50_ms: float
    item_bytes: int
    query_bytes: int


def run(data: Path, requests: int, fit: Mapping[str, float] = FIT) -> list[Line]:
    """Measure both, each in a database of its own."""
    return [
        _measure(data, requests, {**fit, "int8": small}, name)
        for name, small in (("float32", False), ("int8", True))
    ]


def _measure(
    data: Path, requests: int, changes: Mapping[str, float], name: str
) -> Line:
    with (
        server.server() as dsn,
        server.database(dsn, DATABASE) as fresh,
        tempfile.TemporaryDirectory(prefix="recsys-eight-bits-") as folder,
    ):
        settings = [("train", name, value) for name, value in changes.items()]
        bench = Bench(fresh, data, Path(folder), settings)
        bench.train(0, None)
        with _db.connect(fresh) as conn:
            number = versions.newest(conn, bench.model)
        backfill(fresh, bench.model, number, progress=Bars())
        with _db.connect(fresh) as conn:
            version = versions.get(conn, bench.model, number)
            found = evaluate.evaluate(
                conn,
                bench.model,
                number,
                bench.held_out(conn, number),
                progress=Bars(),
            )
            p50_ms = _p50_ms(conn, version, requests)
            size = {
                tower: len(artifacts.get(conn, version.artifacts[tower]))
                for tower in ("item_tower", "query_tower")
            }
    metrics = found.metrics["model"]
    return Line(
        name,
        metrics["recall@20"],
        metrics["ndcg@20"],
        p50_ms,
        size["item_tower"],
        size["query_tower"],
    )


def _p50_ms(
    conn: _db.Connection, version: versions.ModelVersion, requests: int
) -> float:
    """Return the median time of an answer, after some that warm up."""
    served = Served(conn, version, K, None)
    users = conn.execute(
        "select user_id from (select distinct user_id from "
        f"({version.config.interactions.sql}) as one) as every"
        " order by md5(user_id::text) limit %s".encode(),
        (requests,),
    ).fetchall()
    seconds = [served.ask(user).seconds for (user,) in users]
    return 1e3 * float(np.median(seconds[len(seconds) // 10 :]))


def show(lines: list[Line]) -> None:
    """Print the table."""
    table = Table(title="Towers of eight bits", box=box.SIMPLE_HEAD)
    for name in Line.__dataclass_fields__:
        table.add_column(name, justify="left" if name == "towers" else "right")
    for line in lines:
        table.add_row(
            line.towers,
            f"{line.recall:.4f}",
            f"{line.ndcg:.4f}",
            f"{line.p50_ms:.2f}",
            f"{line.item_bytes:,}",
            f"{line.query_bytes:,}",
        )
    Console(width=120).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/online_retail")
    )
    parser.add_argument("--requests", type=int, default=2_000)
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: there is no folder {options.data}; pass --data")
        return
    show(run(options.data, options.requests))


if __name__ == "__main__":
    main()
