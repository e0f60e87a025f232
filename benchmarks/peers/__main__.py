"""Train all, score all, print one table: ``python -m benchmarks.peers``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.peers import data, job, score, venvs
from benchmarks.peers.job import Job, Measured
from recsys.cli import _malloc

METRICS = ("recall@20", "ndcg@20")
_PEERS_DIM = 64


@dataclass(frozen=True)
class Method:
    """One training.

    Attributes:
        peer: Of ``venvs.PEERS``, or "" where recsys is installed.
        module: Of this package.
        name: Of the training within it.
    """

    peer: str
    module: str
    name: str


METHODS = {
    "most popular": Method("", "train_recsys", "most_popular"),
    "recsys": Method("", "train_recsys", "default"),
    "implicit ALS": Method("implicit", "train_implicit", "als"),
    "implicit BPR": Method("implicit", "train_implicit", "bpr"),
    "TFRS two-tower": Method("tfrs", "train_tfrs", "two_tower"),
    "RecBole BPR": Method("recbole", "train_recbole", "bpr"),
    "RecBole LightGCN": Method("recbole", "train_recbole", "light_gcn"),
}


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        method: Of ``METHODS``.
        measured: None when the training failed.
        metrics: By name.
        error: Why there are no numbers.
    """

    method: str
    measured: Measured | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def speed(self) -> float | None:
        """Training interactions per second; None without a training."""
        if self.measured is None or self.method == "most popular":
            return None
        return self.measured.interactions / self.measured.fit_s


def main() -> None:
    """Measure and print the table; exit 1 when a training failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/gowalla"))
    parser.add_argument("--shop", type=int, help="users of a made-up shop instead")
    parser.add_argument(
        "--validation", action="store_true", help="score a slice of train instead"
    )
    parser.add_argument("--method", action="append", choices=METHODS, help="all")
    parser.add_argument("--installed", action="store_true", help="install nothing")
    parser.add_argument("--venvs", type=Path, default=venvs.FOLDER)
    parser.add_argument("--seconds", type=float, default=180, help="per training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=_PEERS_DIM, help="0: recsys chooses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append the rows as JSON lines")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder, title = _data(options, stack)
        lines = []
        for line in measure(folder, options):
            print(f"{line.method}: {line.error or line.metrics}", file=sys.stderr)
            lines.append(line)
            if options.out:
                with options.out.open("a") as file:
                    row = {"data": title, **asdict(line), "speed": line.speed}
                    file.write(json.dumps(row) + "\n")
    show(
        f"{title}, d = {options.dim}, {options.threads} threads, at most "
        f"{options.seconds:g} s each",
        lines,
    )
    if any(line.error for line in lines):
        raise SystemExit(1)


def _data(options: argparse.Namespace, stack: ExitStack) -> tuple[Path, str]:
    """Return the folder of the split, and its name."""

    def scratch() -> Path:
        made = tempfile.TemporaryDirectory(prefix="recsys-peers-data-")
        return Path(stack.enter_context(made))

    folder, title = options.data, options.data.name
    if options.shop:
        folder, title = scratch(), f"a shop of {options.shop:,} users"
        data.shop(folder, options.shop, max(200, options.shop // 2), options.seed)
    if not (folder / data.TRAIN).exists():
        raise SystemExit(f"no {data.TRAIN} in {folder}: give --data or --shop")
    if options.validation:
        into = scratch()
        data.cut(folder, into, seed=options.seed)
        folder, title = into, f"{title}, validation"
    return folder.resolve(), title


def measure(folder: Path, options: argparse.Namespace) -> Iterator[Line]:
    """Train and score one after the other."""
    train, test = data.train(folder), data.read(folder / data.TEST)
    for name in options.method or METHODS:
        peer = METHODS[name].peer
        if peer and options.installed and not venvs.installed(peer, options.venvs):
            continue
        with tempfile.TemporaryDirectory(prefix="recsys-peers-") as out:
            dim = (options.dim or _PEERS_DIM) if peer else options.dim
            asked = Job(
                METHODS[name].name, folder, Path(out), dim, options.seconds,
                options.threads, options.seed,
            )  # fmt: skip
            try:
                if peer:
                    venvs.install(peer, options.venvs)
                measured = _train(METHODS[name], asked, options.venvs)
                with np.load(asked.out / job.FACTORS) as factors:
                    found = score.score(factors["users"], factors["items"], train, test)
            except (SystemExit, ValueError, subprocess.TimeoutExpired) as error:
                yield Line(name, error=str(error))
            else:
                yield Line(name, measured, found)


def _train(method: Method, asked: Job, folder: Path) -> Measured:
    """Run one training in a process of its own."""
    python = venvs.python(method.peer, folder) if method.peer else sys.executable
    module = f"benchmarks.peers.{method.module}"
    done = subprocess.run(
        [str(python), "-m", module, *asked.arguments()],
        cwd=venvs.ROOT,
        env=environment(asked.threads),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Reading, compiling, exporting, and an epoch that ends after the limit.
        timeout=600 + 3 * asked.seconds,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise SystemExit(f"{module} ended with {done.returncode}: {last}")
    return Measured(**json.loads((asked.out / job.MEASURED).read_text()))


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a training, the same for all."""
    return {
        **os.environ,
        **_malloc.SETTINGS,
        "PYTHONPATH": str(venvs.ROOT),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # implicit asks for it: its own threads call BLAS.
        "OPENBLAS_NUM_THREADS": "1",
    }


def show(title: str, lines: list[Line]) -> None:
    """Print the table."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in (
        "method", "interactions/s", "epochs", "training", "CPU", "peak", *METRICS,
        "note",
    ):  # fmt: skip
        table.add_column(
            name, justify="left" if name in ("method", "note") else "right"
        )
    for line in lines:
        if line.measured is None:
            table.add_row(line.method, *[""] * 7, line.error)
            continue
        it = line.measured
        table.add_row(
            line.method,
            "" if line.speed is None else f"{line.speed:,.0f}",
            "" if line.speed is None else f"{it.epochs:.1f}",
            f"{it.wall_s:.0f} s",
            f"{it.cpu_s:.0f} s",
            f"{it.peak_mb:.0f} MB",
            *(f"{line.metrics[metric]:.4f}" for metric in METRICS),
            it.note,
        )
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
