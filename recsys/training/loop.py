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

from recsys.errors import TrainingError
from recsys.training.checkpoint import Checkpoint, State, pack, unpack
from recsys.training.companions import Companions, closest
from recsys.training.dataset import Dataset
from recsys.training.descent import Descent
from recsys.training.device import Device, resolve
from recsys.training.diagnosis import broken, finite
from recsys.training.model import Towers
from recsys.training.periods import PeriodRows
from recsys.training.query import taste_of
from recsys.training.row_adam import touched
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
        source = sequence_rows(dataset, rows.to(device.where), settings)
    recency = math.inf
    if isinstance(source, SequenceRows):
        recency, settings = source.most_recency, source.paced(settings)
    towers = _towers(dataset, start, settings, recency, generator)
    if initial is not None:
        towers.set_weights(initial)
    towers.to(device.where)
    if device.where.type != "cpu":
        generator = device.generator(seed)
    rows = rows.to(device.where)
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
        near=near and near.to(device.where),
        teacher=teacher and teacher.to(device.where),
        masks=(towers.taste.masks, start.shape[1]),
    )
    descent = Descent(towers, settings, team, sparse=sparse)
    run = _Fit(
        dataset, rows, towers, sampler, descent, source, _batch(settings, source),
        generator, checkpoint, team,
    )  # fmt: skip
    return run.run(epochs, after, limit_s, observe, state)


def _towers(
    dataset: Dataset,
    start: Tensor,
    settings: Settings,
    recency: float,
    generator: torch.Generator,
) -> Towers:
    """Return towers that have learned nothing yet but their first rows."""
    taste = taste_of(settings.query, start.shape[1], recency, generator)
    sides = (dataset.items, dataset.users, dataset.contexts)
    return Towers(start, *sides, generator, settings.content, taste)


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


@dataclass(slots=True)
class _Way:
    """How far a fit has come.

    Attributes:
        epoch: Epochs done.
        step: Steps done.
        total: Steps of the whole fit; 0 before its first epoch.
        began: When it would have begun if nothing had interrupted it.
        limit_s: Seconds after which it ends.
        done: Share of the way, by steps or by time, as all processes know it.
    """

    epoch: int
    step: int
    total: int
    began: float
    limit_s: float
    done: float = 0.0

    @property
    def spent_s(self) -> float:
        return time.perf_counter() - self.began

    @property
    def share(self) -> float:
        """Share of the way, as this process knows it."""
        return max(self.step / self.total, self.spent_s / self.limit_s)

    @property
    def over(self) -> bool:
        return self.done >= 1


class _Fit:
    """One run over the epochs, until the rows or the time are over."""

    def __init__(
        self,
        dataset: Dataset,
        rows: QueryRows,
        towers: Towers,
        sampler: Sampler,
        descent: Descent,
        source: RowSource,
        batch: int,
        generator: torch.Generator,
        checkpoint: Checkpoint | None,
        team: Team | None,
    ) -> None:
        self.dataset = dataset
        self.rows = rows
        self.towers = towers
        self.sampler = sampler
        self.descent = descent
        self.source = source
        self.batch = batch
        self.generator = generator
        self.checkpoint = checkpoint
        self.team = team
        self.on_processor = generator.device.type == "cpu"

    def run(
        self,
        epochs: int,
        after: After | None,
        limit_s: float,
        observe: Observer | None,
        state: State | None,
    ) -> Towers:
        way = self._resumed(state, limit_s)
        way.done = self._agreed(way.share if way.total else 0.0)
        while not way.over and way.epoch < epochs:
            started = time.perf_counter()
            loss = self._epoch(way, epochs, observe)
            way.epoch += 1
            seconds = time.perf_counter() - started
            epoch = Epoch(way.epoch, loss, seconds, way.over)
            stop = after is not None and after(epoch, self._seen())
            self._keep(way)
            if epoch.last or self._agreed(float(stop)):
                break
        return self.towers.to("cpu")

    def _epoch(self, way: _Way, epochs: int, observe: Observer | None) -> float:
        """Take the steps of an epoch; returns their mean loss."""
        losses: list[Tensor] = []
        step: Step | None = None
        batches = self._batches()
        way.total = way.total or epochs * len(batches)
        for chosen in batches:
            step = self.sampler.step(chosen)
            losses.append(self._step(step, way, len(losses) + 1))
            if observe is not None:
                observe(way.step, self.towers, losses[-1])
            way.step += 1
            way.done = self._agreed(way.share)
            if way.over:
                break
        self.descent.settle()
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean) or not finite(self.towers):
            assert step is not None
            raise self._broken(mean, way, len(losses), step)
        return mean

    def _step(self, step: Step, way: _Way, number: int) -> Tensor:
        """Take one step; returns its loss, which may not have been waited for."""
        mine = self.descent.loss(step)
        loss = mine.detach() if self.team is None else self.team.total(mine)
        # Reading the number waits for a device, but not for a processor.
        if self.on_processor and not math.isfinite(value := loss.item()):
            raise self._broken(value, way, number, step)
        self.descent.take(mine, _schedule(way.step, way.total, way.done))
        return loss

    def _broken(self, loss: float, way: _Way, number: int, step: Step) -> TrainingError:
        epoch = way.epoch + 1
        return broken(loss, epoch, number, step, self.towers, self.dataset, self.rows)

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

    def _resumed(self, state: State | None, limit_s: float) -> _Way:
        """Return where the fit begins, or goes on from a state."""
        now = time.perf_counter()
        if state is None:
            return _Way(0, 0, 0, now, limit_s)
        weights = dict(self.towers.named_parameters())
        unpack(state.tensors, weights, self.descent.optimiser, self.generator)
        began = now - state.seconds
        return _Way(state.epoch, state.step, state.total, began, limit_s)

    def _keep(self, way: _Way) -> None:
        if self.checkpoint is not None and (self.checkpoint.due or way.over):
            weights = dict(self.towers.named_parameters())
            tensors = pack(weights, self.descent.optimiser, self.generator)
            self.checkpoint.save(
                State(way.epoch, way.step, way.total, way.spent_s, tensors)
            )


def _schedule(step: int, total: int, done: float) -> float:
    """Return the share of the peak learning rate, ``done`` in [0, 1) of the way."""
    warm_up = min(WARM_UP_STEPS, max(1, total // 5))
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * done))
