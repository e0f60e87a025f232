"""Quality of the default trainer: ``make bench-quality``.

Each data set goes the whole way: import, ``recsys train`` with the settings of its
preset, backfill, HNSW index, and evaluation by asking the version as a request does.
Beside the model stand its exact scan, the floors, wall time and peak memory. Settings
are chosen on a validation slice of the training part, never on what is scored here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import floor, server
from recsys import _db, _preset, _toml_edit, artifacts, evaluate, schema, versions
from recsys import config as configuration
from recsys.backfill import backfill
from recsys.cli.bars import Bars
from recsys.config import ProjectConfig
from recsys.evaluate import Holdout
from recsys.training.data import read

DATABASE = "recsys_quality"
METRICS = ("recall@20", "ndcg@20", "hr@10")


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        data_set: Name of the model of its preset.
        method: "model" is what is served; "exact" the same without the index.
        seed: Of the training; None for floors and means.
        metrics: By name.
        command_s: Wall time of ``recsys train``: start, reading, training, storing.
        train_s: Wall time of choosing, fitting and exporting within it.
        peak_mb: Largest resident memory of that process.
        note: The index, and what was chosen.
    """

    data_set: str
    method: str
    metrics: Mapping[str, float]
    seed: int | None = None
    command_s: float | None = None
    train_s: float | None = None
    peak_mb: float | None = None
    note: str = ""


def main() -> None:
    """Measure and print one table per data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--data-set", action="append", help="folder; default all")
    parser.add_argument(
        "--set", action="append", type=setting, default=[], metavar="NAME=VALUE",
        help="a setting of [model.NAME.train], or one like query.rerank, as TOML,"
        " instead of the preset's",
    )  # fmt: skip
    parser.add_argument("--budget", type=float, help="seconds, likewise")
    parser.add_argument("--seeds", type=int, default=1, help="trainings: seeds 0, 1...")
    parser.add_argument("--out", type=Path, help="append the rows as JSON lines")
    options = parser.parse_args()
    names = options.data_set or sorted(p.name for p in options.data.glob("*/"))
    for name in names:
        lines: list[Line] = []
        with (
            server.server() as dsn,
            server.database(dsn, DATABASE) as fresh,
            tempfile.TemporaryDirectory(prefix="recsys-quality-") as folder,
        ):
            data, changes = options.data / name, list(options.set)
            bench = Bench(fresh, data, Path(folder), changes)
            for seed in range(options.seeds):
                lines += bench.version(seed, options.budget)
            lines += bench.floors()
        lines = [*means(lines), *lines]
        show(name, lines)
        if options.out:
            with options.out.open("a") as file:
                file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)


def setting(text: str) -> tuple[str, str, Any]:
    """Read NAME=VALUE of the command line, as a line of TOML; returns the table first.

    A name without a table, such as dim, is one of "train".
    """
    try:
        ((name, value),) = tomllib.loads(text).items()
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE: {exc}") from exc
    table = "train"
    if isinstance(value, dict) and len(value) == 1:
        table, ((name, value),) = name, value.items()
    if isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE but a table")
    return table, name, value


class Bench:
    """One data set in one database.

    Args:
        dsn: An empty database.
        data: Folder of the data set; it has a preset.
        folder: Where recsys.toml may be written.
        changes: Settings instead of those of the preset: table, name and value.
    """

    def __init__(
        self,
        dsn: str,
        data: Path,
        folder: Path,
        changes: Sequence[tuple[str, str, Any]],
    ) -> None:
        self.dsn = dsn
        self.preset = _preset.find(data)
        self.model = self.preset.model
        self.project = self._project(folder, changes)
        schema.upgrade(dsn)
        with _db.connect(dsn) as conn:
            _preset.load(conn, self.preset, Bars())
            conn.commit()
        self.popular: dict[str, Mapping[str, float]] = {}
        self.holdout: Holdout | None = None

    def _project(
        self, folder: Path, changes: Sequence[tuple[str, str, Any]]
    ) -> ProjectConfig:
        """Write the preset's recsys.toml, with other settings, and read it."""
        text = (self.preset.folder / "recsys.toml").read_text("utf-8")
        for table, name, value in changes:
            where = f"model.{self.model}.{table}"
            text = _toml_edit.edited(text, where, {name: value})
        path = folder / "recsys.toml"
        path.write_text(text, "utf-8")
        return configuration.load(path)

    def version(self, seed: int, budget: float | None) -> Iterator[Line]:
        """Train, fill and score one version."""
        wall, peak = self.train(seed, budget)
        with _db.connect(self.dsn) as conn:
            number = versions.newest(conn, self.model)
        backfill(self.dsn, self.model, number, progress=Bars())
        with _db.connect(self.dsn) as conn:
            version = versions.get(conn, self.model, number)
            report = json.loads(artifacts.get(conn, version.artifacts["report"]))
            holdout = self.held_out(conn, number)
            found = evaluate.evaluate(
                conn, self.model, number, holdout, exact=True, progress=Bars()
            )
        timing = report["timing"]
        train_s = sum(timing[name] for name in ("choose_s", "fit_s", "export_s"))
        chosen = {k: v for k, v in report["settings"].items() if k != "trend"}
        note = f"ef_search {version.ef_search}; " + ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in chosen.items()
        )
        self.popular = {
            name: values
            for name, values in found.metrics.items()
            if name not in ("model", "exact")
        }
        for method in ("model", "exact"):
            yield Line(
                self.model, method, found.metrics[method], seed, wall, train_s, peak,
                note if method == "model" else "",
            )  # fmt: skip
        yield from self._cold(number, seed, report.get("cold", {}))

    def _cold(
        self, number: int, seed: int, chosen: Mapping[str, Any]
    ) -> Iterator[Line]:
        """Score the items that the version has no learned row of."""
        until, config = self.preset.until, self.project.model(self.model)
        if until is None or not config.items.features:
            return
        with _db.connect(self.dsn) as conn:
            holdout = evaluate.after(conn, self.model, number, until, cold=True)
            found = evaluate.evaluate(
                conn, self.model, number, holdout, cold=True, progress=Bars()
            )
        note = f"{found.users} users, {found.hits} hits; level {chosen.get('quantile')}"
        for method, name in (
            ("model", "new items, in all"),
            ("model_among_new", "new items, among new"),
            ("random_among_new", "new items, at random"),
        ):
            yield Line(self.model, name, found.metrics[method], seed, note=note)

    def floors(self) -> Iterator[Line]:
        """Score what needs no training on the same users."""
        for name, metrics in self.popular.items():
            yield Line(self.model, name, metrics)
        config = self.project.model(self.model)
        with _db.connect(self.dsn) as conn:
            dataset = read(conn, config, until=self.preset.until)
        assert self.holdout is not None
        found = floor.linear_filter(dataset, self.holdout, config.train.history)
        yield Line(self.model, "linear item filter", found)

    def held_out(self, conn: _db.Connection, number: int) -> Holdout:
        """Return what the versions are scored by."""
        preset = self.preset
        if self.holdout is None and preset.until is not None:
            self.holdout = evaluate.after(conn, self.model, number, preset.until)
        elif self.holdout is None:
            config = self.project.model(self.model)
            self.holdout = evaluate.from_csv(preset.data / preset.holdout, config)
        return self.holdout

    def train(self, seed: int, budget: float | None) -> tuple[float, float]:
        """Run ``recsys train``; return its wall time in seconds and peak in MB."""
        path = self.project.path
        assert path is not None
        command = [sys.executable, "-m", "recsys", "--dsn", self.dsn]
        command += ["--config", str(path), "train", self.model, "--no-revision"]
        command += ["--seed", str(seed)]
        if budget is not None:
            command += ["--budget", str(budget)]
        if self.preset.until is not None:
            command += ["--until", self.preset.until.isoformat()]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        return wall, usage.ru_maxrss / 1024


def means(lines: Sequence[Line]) -> Iterator[Line]:
    """Return the mean over seeds of what was trained with several."""
    for method in ("model", "exact"):
        some = [line for line in lines if line.method == method]
        if len(some) > 1:
            metrics = {
                name: float(np.mean([line.metrics[name] for line in some]))
                for name in some[0].metrics
            }
            note = f"mean of {len(some)} seeds"
            yield Line(some[0].data_set, method, metrics, note=note)


def show(name: str, lines: Sequence[Line]) -> None:
    """Print the table of one data set."""
    table = Table(title=name, box=box.SIMPLE_HEAD, title_justify="left")
    for title in ("method", "seed", *METRICS, "command", "training", "peak", "note"):
        table.add_column(
            title, justify="left" if title in ("method", "note") else "right"
        )
    for line in lines:
        table.add_row(
            line.method,
            _text(line.seed, "d", ""),
            *(_text(line.metrics.get(metric), ".4f", "") for metric in METRICS),
            _text(line.command_s, ".0f", " s"),
            _text(line.train_s, ".0f", " s"),
            _text(line.peak_mb, ".0f", " MB"),
            line.note,
        )
    Console(width=180).print(table)


def _text(value: float | None, form: str, unit: str) -> str:
    return "" if value is None else f"{value:{form}}{unit}"


if __name__ == "__main__":
    main()
