"""What a training process is asked, and what it measures and leaves."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import data
from benchmarks.peers.data import Pairs

_NUMBERS = {"dim": int, "seconds": float, "threads": int, "seed": int}
FACTORS, MEASURED = "factors.npz", "measured.json"


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        method: Which of the trainings of the module.
        data: Folder of the split.
        out: Folder for what is left; also for scratch files of the library.
        dim: Length of the factors.
        seconds: Time limit of the training.
        threads: Of the computation.
        seed: Of every random choice the library lets be seeded.
    """

    method: str
    data: Path
    out: Path
    dim: int
    seconds: float
    threads: int
    seed: int

    def arguments(self) -> list[str]:
        """Return the command line that ``run`` reads."""
        return [str(value) for value in asdict(self).values()]


@dataclass(frozen=True)
class Measured:
    """What a training took.

    Attributes:
        wall_s: Wall time of training alone: without imports, reading, and writing.
        cpu_s: CPU time of all threads in it.
        fit_s: The part of ``wall_s`` in which the interactions below were consumed.
        interactions: Training interactions consumed in ``fit_s``, repeats counted.
        epochs: The same, divided by those of the training part.
        peak_mb: Largest resident memory of the process until the end of training.
        note: Settings, versions, and how it ended.
    """

    wall_s: float
    cpu_s: float
    fit_s: float
    interactions: float
    epochs: float
    peak_mb: float
    note: str


class Clock:
    """Times one training; made when data and libraries are ready."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    @property
    def spent(self) -> float:
        """Wall time so far in seconds."""
        return time.perf_counter() - self._wall

    @property
    def over(self) -> bool:
        """Whether the time limit is reached."""
        return self.spent >= self._limit

    def stop(
        self, pairs: Pairs, interactions: float, note: str, fit_s: float | None = None
    ) -> Measured:
        """Return what was measured; the training has ended."""
        wall, cpu = self.spent, time.process_time() - self._cpu
        return Measured(
            wall_s=wall,
            cpu_s=cpu,
            fit_s=wall if fit_s is None else fit_s,
            interactions=interactions,
            epochs=interactions / len(pairs),
            peak_mb=_peak_mb(),
            note=note,
        )


# Measured, factors of users (U, f) and of items (N, f).
Trained = tuple[Measured, Any, Any]


def run(methods: dict[str, Callable[[Job, Pairs], Trained]]) -> None:
    """Do the job of the command line and leave the factors and the measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=sorted(methods))
    for name in ("data", "out"):  # a training may go to another folder
        parser.add_argument(name, type=lambda text: Path(text).resolve())
    for name, kind in _NUMBERS.items():
        parser.add_argument(name, type=kind)
    job = Job(**vars(parser.parse_args()))
    measured, users, items = methods[job.method](job, data.train(job.data))
    np.savez(job.out / FACTORS, users=users, items=items)
    (job.out / MEASURED).write_text(json.dumps(asdict(measured)))


def _peak_mb() -> float:
    # ru_maxrss would count the parent's memory at the fork.
    with open("/proc/self/status") as status:
        kb = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(kb) / 1024
