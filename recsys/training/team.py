"""Several processes that fit together, as ``torchrun`` starts them.

Process 0 leads: it alone knows the database, the files and the clock. For each fit it
sends the others a job, and all take the steps of the fit together; every decision that
depends on time is the leader's. A process that ends takes its connections with it, and
the others end with an error instead of waiting.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import TrainingError
from recsys.training.checkpoint import State
from recsys.training.companions import Companions
from recsys.training.dataset import Dataset
from recsys.training.rows import QueryRows
from recsys.training.settings import Settings
from recsys.training.step import RowSource
from recsys.training.teacher import Teacher

# A process that ends is noticed at once; these are for a machine that goes silent. The
# leader may read, validate and export for long, but is never long within an epoch.
_IDLE = timedelta(days=1)
_STEP = timedelta(minutes=15)
# Gradients of up to this many numbers travel together.
_SMALL = 1_000_000


class ApartError(TrainingError):
    """The processes have lost each other."""


@dataclass(frozen=True, slots=True)
class Job:
    """One fit, as ``recsys.training.loop.fit`` is asked for it.

    Attributes:
        dataset: None where it is that of the job before; ``rows`` likewise.
        state: What the leader's checkpoint holds.
    """

    dataset: Dataset | None
    rows: QueryRows | None
    settings: Settings
    epochs: int
    seed: int
    start: Tensor
    initial: Mapping[str, NDArray[np.float32]] | None
    source: RowSource | None
    near: Companions | None
    teacher: Teacher | None
    state: State | None


class Team:
    """This process among the others.

    Args:
        rank: Its number, from 0.
        size: How many there are.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._steps: Any = None
        self._dataset: Dataset | None = None
        self._rows: QueryRows | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that all others follow."""
        return self.rank == 0

    def send(self, job: Job | None) -> None:
        """Have the others join a fit; None lets them go."""
        if job is not None:
            dataset = None if job.dataset is self._dataset else job.dataset
            rows = None if job.rows is self._rows else job.rows
            self._dataset, self._rows = job.dataset, job.rows
            job = replace(job, dataset=dataset, rows=rows)
        with _in_step():
            dist.broadcast_object_list([job], src=0)
        self._ready(job)

    def receive(self) -> Job | None:
        """Wait for what to do next."""
        box: list[Any] = [None]
        with _in_step():
            dist.broadcast_object_list(box, src=0)
        job = cast("Job | None", box[0])
        self._ready(job)
        if job is not None:
            self._dataset = job.dataset or self._dataset
            self._rows = job.rows or self._rows
            job = replace(job, dataset=self._dataset, rows=self._rows)
        return job

    def agreed(self, value: float, where: torch.device) -> float:
        """Return the leader's value."""
        box = torch.tensor(value, dtype=torch.float64, device=where)
        with _in_step():
            dist.broadcast(box, src=0, group=self._steps)
        return box.item()

    def total(self, mine: Tensor) -> Tensor:
        """Return the sum over the processes, the same for all."""
        out = mine.detach().clone()
        with _in_step():
            dist.all_reduce(out, group=self._steps)
        return out

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their sums over the processes."""
        small: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad.numel() > _SMALL:
                with _in_step():
                    dist.all_reduce(parameter.grad, group=self._steps)
            else:
                small.append(parameter.grad)
        # One message costs less than many.
        whole = self.total(torch.cat([gradient.flatten() for gradient in small]))
        place = 0
        for gradient in small:
            value = whole[place : place + gradient.numel()]
            gradient.copy_(value.view_as(gradient))
            place += gradient.numel()

    def _ready(self, job: Job | None) -> None:
        """Open the connections that steps use, at the first fit."""
        if job is None or self._steps is not None:
            return
        fast = job.settings.device != "cpu" and torch.cuda.is_available()
        with _in_step():
            self._steps = dist.new_group(
                backend="nccl" if fast else "gloo", timeout=_STEP
            )


_current: list[Team] = []


def current() -> Team | None:
    """Return the team that this process is in, None where it is alone."""
    return _current[-1] if _current else None


@contextmanager
def joined(local: int) -> Generator[Team]:
    """Find the other processes, by the variables that ``torchrun`` sets.

    Args:
        local: Number of the process on its machine: of the GPU that it uses.

    Raises:
        TrainingError: They cannot be found, or one of them has ended.
    """
    with _in_step():
        dist.init_process_group("gloo", timeout=_IDLE)
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    team = Team(dist.get_rank(), dist.get_world_size())
    _current.append(team)
    try:
        yield team
        if team.leads:
            team.send(None)
    finally:
        _current.remove(team)
        dist.destroy_process_group()


@contextmanager
def _in_step() -> Generator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as exc:
        if "CUDA out of memory" in str(exc):
            raise
        raise ApartError(
            "another process of the training has ended or cannot be reached: "
            f"{str(exc).splitlines()[0]}",
            hint="See what it said; start all processes again with torchrun.",
        ) from exc
