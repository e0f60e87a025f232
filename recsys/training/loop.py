"""The fit: steps of query rows, a warm-up and a cosine.

Run time: a step makes and drops a few (B, S) and (S, d) arrays of megabytes. glibc by
default maps and unmaps each of them, which can cost more than the arithmetic; the
process should start with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000
MALLOC_TOP_PAD_=200000000 in its environment (they are read before main, so a library
cannot set them; the command line starts itself again with them).

Same seed, machine, torch version and number of threads: same result.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recsys.errors import TrainingError
from recsys.training.checkpoint import Checkpoint, State, pack, unpack
from recsys.training.companions import Companions, closest
from recsys.training.dataset import Dataset
from recsys.training.device import Device, resolve
from recsys.training.diagnosis import broken, finite
from recsys.training.interests import nearest_interest
from recsys.training.matryoshka import nested
from recsys.training.model import Towers
from recsys.training.objectives import OBJECTIVES
from recsys.training.objectives.batch import LossBatch
from recsys.training.objectives.distilled import distilled
from recsys.training.part import part, share
from recsys.training.periods import PeriodRows
from recsys.training.query import taste_of
from recsys.training.row_adam import RowAdam, touched
from recsys.training.rows import QueryRows
from recsys.training.sampler import Sampler, UserRows, shared_negatives
from recsys.training.settings import Settings
from recsys.training.step import Batched, RowSource, Step
from recsys.training.teacher import Teacher
from recsys.training.team import Job, Team, current
from recsys.training.windows import SequenceRows, sequence_rows

WARM_UP_STEPS = 100
# A small data set in large batches would see too few steps per epoch.
STEPS_PER_EPOCH = 50
LEAST_BATCH = 16
# Share of the item rows that a step touches below which updating only those is faster.
SPARSE_BELOW = 0.08


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the query rows was.

    Attributes:
        number: Counted from 1.
        loss: Mean of the steps' losses.
        seconds: Time of its steps.
        last: Whether the fit ends here.
    """

    number: int
    loss: float
    seconds: float
    last: bool


After = Callable[[Epoch, Towers], bool]
# Called at the end of each step with its number (from 0), the towers, whose parameters
# still have the gradients, and the loss, not yet waited for. It costs what it does.
Observer = Callable[[int, Towers, Tensor], None]
# Makes the error for a loss: itself, epoch, number of the step, and the step.
Blame = Callable[[float, int, int, Step], TrainingError]


def fit(
    dataset: Dataset,
    rows: QueryRows,
    settings: Settings,
    epochs: int,
    seed: int,
    start: Tensor,
    after: After | None = None,
    limit_s: float = math.inf,
    *,
    observe: Observer | None = None,
    initial: Mapping[str, NDArray[np.float32]] | None = None,
    device: Device | None = None,
    source: RowSource | None = None,
    near: Companions | None = None,
    teacher: Teacher | None = None,
    checkpoint: Checkpoint | None = None,
    state: State | None = None,
) -> Towers:
    """Fit the towers to query rows, with all processes of a team where there is one.

    Args:
        dataset: Holds the features.
        rows: What to learn from.
        settings: Hyper-parameters.
        epochs: Passes over the rows; the learning rate falls to 0 at their end.
        seed: Every random choice follows from it.
        start: First item rows, from ``first_rows``.
        after: Called after each epoch; a true answer ends the fit.
        limit_s: Seconds after which the fit ends, with the learning rate at 0 as
            well: where the machine is slower than expected, the schedule hurries.
        observe: Called at the end of each step, with the gradients still there.
        initial: Weights to start from by the names of ``Towers.weights``, and the
            item rows as "served" and "history", shape (T, d); whatever is not among
            them starts as without it.
        device: Where to fit; None is what the settings name.
        source: Makes the queries; None is one per row of ``rows``, or one for each of
            its periods where ``recent_beta`` is set.
        near: Companions of the items, where they were found before.
        teacher: Whom to learn from besides, at the weight ``settings.distil``.
        checkpoint: Where the state is kept after epochs; what it holds is gone on with.
        state: What is gone on with, where another process keeps the checkpoint.

    Returns:
        The towers, on the processor.

    Raises:
        TrainingError: The loss is not finite, or an initial weight or the checkpoint
            does not fit.
    """
    if settings.companions > 0:
        near = near or closest(rows)
    if checkpoint is not None:
        state = checkpoint.state
    team = current()
    if team is not None and team.leads:
        team.send(
            Job(
                dataset, rows, settings, epochs, seed, start, initial, source, near,
                teacher, state,
            )
        )  # fmt: skip
    device = device or resolve(settings.device)
    generator = torch.Generator().manual_seed(seed)
    if source is None and settings.query.sequential:
        source = sequence_rows(dataset, rows.to(device.where), settings, seed)
    recency = math.inf
    if isinstance(source, SequenceRows):
        recency, settings = source.most_recency, source.paced(settings)
    taste = taste_of(settings.query, start.shape[1], recency, generator)
    sides = (dataset.items, dataset.users, dataset.contexts)
    towers = Towers(start, *sides, generator, settings.content, taste)
    if initial is not None:
        towers.set_weights(initial)
    towers.to(device.where)
    near = near and near.to(device.where)
    teacher = teacher and teacher.to(device.where)
    rows = rows.to(device.where)
    if device.where.type != "cpu":
        generator = device.generator(seed)
    source = source or _source(rows, settings)
    content = dataset.items is not None
    sparse = _sparse(rows, settings, source, content=content)
    sampler = Sampler(
        source,
        rows,
        settings,
        device,
        generator,
        content=content,
        narrow=sparse,
        near=near,
        teacher=teacher,
    )
    run = _Fit(towers, sampler, settings, generator, source, checkpoint, team, sparse)

    def blame(loss: float, epoch: int, number: int, step: Step) -> TrainingError:
        return broken(loss, epoch, number, step, towers, dataset, rows)

    return run.run(epochs, after, limit_s, observe, blame, state)


def _source(rows: QueryRows, settings: Settings) -> RowSource:
    """Return what makes the queries where nothing else is given."""
    source = UserRows(rows)
    if rows.periods is None or not settings.recent_beta:
        return source
    return PeriodRows(source, rows.periods, settings.recent_beta)


def _batch(settings: Settings, source: RowSource) -> int:
    """Return how many rows of the source a step takes."""
    few = math.ceil(len(source) / STEPS_PER_EPOCH)
    return min(settings.batch, max(LEAST_BATCH, few))


def _sparse(
    rows: QueryRows, settings: Settings, source: RowSource, *, content: bool
) -> bool:
    """Say whether steps update only the item rows that they touch."""
    if settings.item_updates != "auto":
        return settings.item_updates == "sparse"
    mix, queries = settings.sources, len(source)
    own = mix.shown + mix.neighbours + mix.disliked
    met = len(rows.history.values) / len(rows.history)
    found = rows.pairs * (2 if settings.companions > 0 else 1) / queries
    entries = _batch(settings, source) * (met + found + own)
    sample = shared_negatives(settings, len(rows.items), content=content)
    return touched(rows.pop, sample, entries) < SPARSE_BELOW


class _Fit:
    """One run of the optimiser."""

    def __init__(
        self,
        towers: Towers,
        sampler: Sampler,
        settings: Settings,
        generator: torch.Generator,
        source: RowSource,
        checkpoint: Checkpoint | None,
        team: Team | None,
        sparse: bool,
    ) -> None:
        self.checkpoint = checkpoint
        self.team = team
        self.towers = towers
        self.sampler = sampler
        self.settings = settings
        self.generator = generator
        self.source = source
        self.on_processor = generator.device.type == "cpu"
        self.batch = _batch(settings, source)
        self.optimiser = torch.optim.Adam(
            towers.parameters(), lr=settings.lr, fused=True
        )
        tables = (towers.served, towers.history)
        self.rows = RowAdam(self.optimiser, tables) if sparse else None
        self.taken: list[Tensor] | None = None

    def run(
        self,
        epochs: int,
        after: After | None,
        limit_s: float,
        observe: Observer | None,
        blame: Blame,
        state: State | None,
    ) -> Towers:
        before, step, total, spent = self._resume(state)
        began = time.perf_counter() - spent
        done = self._agreed(max(step / total, spent / limit_s) if total else 0.0)
        if done >= 1:
            return self.towers.to("cpu")
        for number in range(before + 1, epochs + 1):
            started = time.perf_counter()
            losses: list[Tensor] = []
            drawn: Step | None = None
            batches = self._batches()
            total = total or epochs * len(batches)
            for place, chosen in enumerate(batches):
                drawn = self.sampler.step(chosen)
                mine = self._loss(drawn)
                loss = mine.detach() if self.team is None else self.team.total(mine)
                # Reading the number waits for a device, but not for a processor.
                if self.on_processor and not math.isfinite(value := loss.item()):
                    raise blame(value, number, place + 1, drawn)
                self._descend(mine, _schedule(step, total, done))
                losses.append(loss)
                if observe is not None:
                    observe(step, self.towers, loss)
                step += 1
                spent = time.perf_counter() - began
                done = self._agreed(max(step / total, spent / limit_s))
                if done >= 1:
                    break
            if self.rows is not None:
                self.rows.settle()
            mean = float(torch.stack(losses).mean())
            if not math.isfinite(mean) or not finite(self.towers):
                assert drawn is not None
                raise blame(mean, number, len(losses), drawn)
            epoch = Epoch(number, mean, time.perf_counter() - started, done >= 1)
            stop = after is not None and after(epoch, self._seen())
            self._keep(number, step, total, time.perf_counter() - began, done >= 1)
            if epoch.last or self._agreed(float(stop)):
                break
        return self.towers.to("cpu")

    def _agreed(self, value: float) -> float:
        """Return the leader's value: clocks and validations differ."""
        if self.team is None:
            return value
        return self.team.agreed(value, self.generator.device)

    def _seen(self) -> Towers:
        """Return the towers on the processor, where everything else is."""
        if self.on_processor:
            return self.towers
        return copy.deepcopy(self.towers).to("cpu")

    def _batches(self) -> Sequence[Tensor]:
        """Return the rows of the steps of an epoch, in random order."""
        if isinstance(self.source, Batched):
            return self.source.batches(self.batch, self.generator)
        where, count = self.generator.device, len(self.source)
        order = torch.randperm(count, generator=self.generator, device=where)
        return torch.split(order, self.batch)

    def _resume(self, state: State | None) -> tuple[int, int, int, float]:
        """Take up a state; return epochs, steps, all steps and seconds."""
        if state is None:
            return 0, 0, 0, 0.0
        weights = dict(self.towers.named_parameters())
        unpack(state.tensors, weights, self.optimiser, self.generator)
        return state.epoch, state.step, state.total, state.seconds

    def _keep(
        self, epoch: int, step: int, total: int, seconds: float, last: bool
    ) -> None:
        if self.checkpoint is not None and (self.checkpoint.due or last):
            weights = dict(self.towers.named_parameters())
            tensors = pack(weights, self.optimiser, self.generator)
            self.checkpoint.save(State(epoch, step, total, seconds, tensors))

    def _loss(self, step: Step) -> Tensor:
        """Return the loss of a step, or what this process adds to it."""
        if self.rows is not None and step.used is not None:
            self.taken = self.rows.take(step.used.rows)
        if self.team is None:
            return self._loss_of(step, self.taken)
        mine = part(step, self.team.rank, self.team.size)
        if not len(mine.user):
            return 0.0 * self.towers.default_query.sum()
        return self._loss_of(mine, self._mine(mine, step)) * share(mine, step)

    def _mine(self, mine: Step, whole: Step) -> list[Tensor] | None:
        """Return those of the rows taken that a part of the step uses."""
        if self.taken is None or mine.used is None or whole.used is None:
            return None
        if len(mine.used.rows) == len(whole.used.rows):
            return self.taken
        place = torch.searchsorted(whole.used.rows, mine.used.rows)
        return [F.embedding(place, rows) for rows in self.taken]

    def _loss_of(self, step: Step, rows: list[Tensor] | None = None) -> Tensor:
        query, items = self.towers(step, rows)
        batch = step.batch
        if query.dim() == 3:
            query, batch = nearest_interest(query, items, batch)
        return nested(_objective, query, items, batch, self.settings)

    def _descend(self, loss: Tensor, share: float) -> None:
        """Take a step, at a share of the peak learning rate."""
        lr = self.settings.lr * share
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.team is not None:
            self.team.add_gradients(self._learned())
        self.optimiser.step()
        if self.rows is not None:
            self.rows.step(lr)

    def _learned(self) -> list[Tensor]:
        """Return what a step has gradients of: rows taken stand for their tables."""
        if self.taken is None:
            return list(self.towers.parameters())
        tables = (self.towers.served, self.towers.history)
        others = self.towers.parameters()
        rest = [value for value in others if all(value is not one for one in tables)]
        return [*self.taken, *rest]


def _objective(
    query: Tensor, items: Tensor, batch: LossBatch, settings: Settings
) -> Tensor:
    """Return the loss of the objective, and of what a teacher says where one does."""
    loss = OBJECTIVES[settings.objective](query, items, batch, settings)
    if batch.taught is None:
        return loss
    return loss + batch.taught.weight * distilled(query, items, batch, settings.tau)


def _schedule(step: int, total: int, done: float) -> float:
    """Return the share of the peak learning rate, ``done`` in [0, 1) of the way."""
    warm_up = min(WARM_UP_STEPS, max(1, total // 5))
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * done))
