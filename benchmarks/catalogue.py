"""A step of the fit on large catalogues: all item rows updated, and those it touches.

Each catalogue is made anew: 25,600 users of 30 items or more, the popularity of the
items falls like one over their rank, and each has one interaction at least. Every fit
is a process of its own, with one thread, and ends after some steps; times are those of
the processor, so that other processes do not count. Left out: reading, the warm start
(rows start at random), validation and export.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Row

SIZES = (100_000, 1_000_000)
_USERS = 25_600
_PER_USER = 30
_DIM = 64


def run(steps: int = 8, sizes: tuple[int, ...] = SIZES) -> list[Row]:
    """Measure steps at several sizes of the catalogue."""
    out: list[Row] = []
    for items in sizes:
        dense, sparse = (measured(items, way, steps) for way in ("dense", "sparse"))
        name = f"{items:,} items: "
        note = f"{100 * sparse['touched'] / items:.1f} % of the rows, median of {steps}"
        ratio = dense["s"] / sparse["s"]
        memory = f"dense {dense['mb']:.0f} MB; beyond the data"
        out += [
            Row(name + "step, dense", 1000 * dense["s"], "ms"),
            Row(name + "step, sparse", 1000 * sparse["s"], "ms", note=note),
            Row(name + "dense / sparse", ratio, "x"),
            Row(name + "catching up, once an epoch", 1000 * sparse["settle"], "ms"),
            Row(name + "peak of a sparse fit", sparse["mb"], "MB", note=memory),
        ]
    return out


def measured(items: int, way: str, steps: int) -> dict[str, float]:
    """Return what one fit took, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.catalogue", str(items), way, str(steps)],
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


class _EnoughError(Exception):
    pass


def _fit(items: int, way: str, steps: int) -> dict[str, float]:
    """Return seconds per step, rows touched and megabytes of a fit."""
    import torch

    from recsys.training import loop, row_adam
    from recsys.training.rows import query_rows
    from recsys.training.settings import Settings

    torch.set_num_threads(1)
    dataset = _dataset(items)
    rows = query_rows(dataset, np.ones(len(dataset), bool), None, 256)
    settings = Settings(
        _DIM, 0.1, 0.5, 0.5, 6e-3, 512, 8192, 0.0, item_updates=way
    )  # fmt: skip
    start = 0.1 * torch.randn(items, _DIM, generator=torch.Generator().manual_seed(0))
    ends: list[float] = [time.process_time()]
    touched: list[int] = []

    def observe(step: int, towers: Any, loss: Any) -> None:
        del step, loss
        ends.append(time.process_time())
        grad = towers.served.grad
        touched.append(grad.indices().shape[1] if grad.is_sparse else len(grad))
        if len(ends) > steps + 2:
            raise _EnoughError

    ctypes.CDLL(None).malloc_trim(0)
    before = _peak_mb(reset=True)
    ends[:] = [time.process_time()]
    with contextlib.suppress(_EnoughError):
        loop.fit(dataset, rows, settings, 1, 0, start, observe=observe)
    found = {
        # The first steps make the moments.
        "s": statistics.median(np.diff(ends[2:]).tolist()),
        "touched": statistics.median(touched),
        "mb": _peak_mb() - before,
        "settle": 0.0,
    }
    if way == "sparse":
        tables = [torch.nn.Parameter(start.clone()) for _ in range(2)]
        optimiser = row_adam.RowAdam(torch.optim.Adam(tables), tables)
        optimiser.settle()
        began = time.process_time()
        optimiser.settle()
        found["settle"] = time.process_time() - began
    return found


def _dataset(items: int) -> Any:
    rng = np.random.default_rng(0)
    weight = 1 / np.arange(1, items + 1)
    n = max(_USERS * _PER_USER, items)
    item = rng.choice(items, n, p=weight / weight.sum()).astype(np.int32)
    item[:items] = np.arange(items)  # every item is trained
    return _arrays(rng.integers(0, _USERS, n), item, items, _USERS)


def _arrays(user: Any, item: Any, items: int, users: int) -> Any:
    from recsys.training.dataset import Dataset

    return Dataset(
        item_ids=range(items),
        user_ids=range(users),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        time=np.full(len(user), np.nan),
        kind=np.zeros(len(user), np.int16),
        kinds=("",),
        kind_weight=np.ones(1, np.float32),
        kind_target=np.ones(1, bool),
    )


def quality(epochs: int = 8) -> list[Row]:
    """Compare what fits reach: all rows, rows caught up, rows left behind (lazy).

    20,000 items in 200 groups; 5,000 users choose 22 items of three groups, two of
    which are held out. Few epochs, from random rows: recall@20, among all items but
    those of the history, says how far each has come.
    """
    from recsys.training.row_adam import RowAdam

    caught_up = RowAdam._forward
    out: list[Row] = []
    for name, way in (("all", "dense"), ("caught up", "sparse"), ("lazy", "sparse")):
        # torch.optim.SparseAdam: moments stay as the last gradient left them.
        lazy = name == "lazy"
        RowAdam._forward = (lambda *_: None) if lazy else caught_up
        try:
            found = [_recall(way, seed, epochs) for seed in range(2)]
        finally:
            RowAdam._forward = caught_up
        spread = f"{min(found):.4f} to {max(found):.4f}, two seeds"
        out.append(
            Row(f"recall@20, rows {name}", float(np.mean(found)), "", note=spread)
        )
    return out


def _recall(way: str, seed: int, epochs: int) -> float:
    import torch
    from torch.nn import functional as F

    from recsys.training import loop
    from recsys.training.rows import query_rows
    from recsys.training.settings import Settings

    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    users, items, groups, many = 5_000, 20_000, 200, 22
    group = rng.integers(0, groups, (users, 3, 1)).repeat(many, 2).reshape(users, -1)
    member = rng.integers(0, items // groups, group.shape)
    picked = rng.permuted(group * (items // groups) + member, axis=1)[:, :many]
    kept = np.concatenate([picked[:, 2:].flatten(), np.arange(items)])
    who = np.concatenate(
        [np.repeat(np.arange(users), many - 2), rng.integers(0, users, items)]
    )
    dataset = _arrays(who, kept, items, users)
    rows = query_rows(dataset, np.ones(len(dataset), bool), None, 256)
    settings = Settings(32, 0.1, 0.3, 0.5, 6e-3, 512, 1024, 0.0, item_updates=way)
    start = 0.1 * torch.randn(items, 32, generator=torch.Generator().manual_seed(seed))
    towers = loop.fit(dataset, rows, settings, epochs, seed, start)
    with torch.no_grad():
        every = torch.arange(users)
        history = rows.history.take(every)
        query = F.normalize(towers.taste(towers.history, history), dim=1)
        score = query @ F.normalize(towers.served, dim=1).T
        score[history.owner, history.values] = -torch.inf
        top = score.topk(20).indices
    wanted = torch.from_numpy(picked[:, :2])
    return float((top.unsqueeze(2) == wanted.unsqueeze(1)).any(1).float().mean())


def _peak_mb(*, reset: bool = False) -> float:
    """Return the peak of resident memory, from now on where it is reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    json.dump(_fit(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])), sys.stdout)
