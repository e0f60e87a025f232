"""The fit: users in batches, shared negatives, a warm-up and a cosine.

Run time: a step makes and drops a few (B, S) and (S, d) arrays of megabytes. glibc by
default maps and unmaps each of them, which can cost more than the arithmetic; the
process should start with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000
MALLOC_TOP_PAD_=200000000 in its environment (they are read before main, so a library
cannot set them; the command line starts itself again with them).

Same seed, machine, torch version and number of threads: same result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.errors import TrainingError
from recsys.training.dataset import Dataset
from recsys.training.loss import LossBatch, log_share, matmul_dtype, ranking_loss
from recsys.training.model import Towers
from recsys.training.ragged import Ragged, Selection
from recsys.training.rows import QueryRows
from recsys.training.svd import warm_start

# Share of queries whose whole history is hidden, so that the default query, user
# features and contexts learn to stand alone.
HIDDEN = 0.02
WARM_UP_STEPS = 100
# A small data set in large batches would see too few steps per epoch.
STEPS_PER_EPOCH = 50
LEAST_BATCH = 16
_LEAST_SAMPLE = 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """Hyper-parameters of one fit; see ``TrainConfig``."""

    dim: int
    tau: float
    dropout: float
    beta: float
    lr: float
    batch: int
    negatives: int
    id_dropout: float


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


def fit(
    dataset: Dataset,
    rows: QueryRows,
    settings: Settings,
    epochs: int,
    seed: int,
    start: Tensor,
    after: Callable[[Epoch, Towers], bool] | None = None,
    limit_s: float = math.inf,
) -> Towers:
    """Fit the towers to query rows.

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

    Raises:
        TrainingError: The loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    towers = Towers(start, dataset.items, dataset.users, dataset.contexts, generator)
    sampler = _Sampler(dataset, rows, settings, generator)
    dtype = matmul_dtype(settings.tau)
    optimiser = torch.optim.Adam(towers.parameters(), lr=settings.lr, fused=True)
    count = len(rows.user)
    batch = min(settings.batch, max(LEAST_BATCH, math.ceil(count / STEPS_PER_EPOCH)))
    total = epochs * math.ceil(count / batch)
    began = time.perf_counter()
    step, done = 0, 0.0
    for number in range(1, epochs + 1):
        started = time.perf_counter()
        losses: list[Tensor] = []
        order = torch.randperm(count, generator=generator)
        for first in range(0, count, batch):
            chosen = order[first : first + batch]
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * _schedule(step, total, done)
            query, item_rows, comparisons = sampler.step(towers, chosen)
            loss = ranking_loss(query, item_rows, comparisons, settings.tau, dtype)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
            step += 1
            done = max(step / total, (time.perf_counter() - began) / limit_s)
            if done >= 1:
                break
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss is {mean} in epoch {number}",
                hint="Lower train.lr, or raise train.tau.",
            )
        epoch = Epoch(number, mean, time.perf_counter() - started, done >= 1)
        if (after is not None and after(epoch, towers)) or epoch.last:
            break
    return towers


def _schedule(step: int, total: int, done: float) -> float:
    """Return the share of the peak learning rate, ``done`` in [0, 1) of the way."""
    warm_up = min(WARM_UP_STEPS, max(1, total // 5))
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * done))


def first_rows(rows: QueryRows, dim: int, seed: int) -> Tensor:
    """Return the warm start of the item rows, shape (T, dim)."""
    pairs = rows.targets
    owner = torch.repeat_interleave(pairs.start.diff())
    weight = pairs.weight if pairs.weight is not None else torch.ones(len(owner))
    shape = (len(pairs), len(rows.items))
    generator = torch.Generator().manual_seed(seed)
    return warm_start(owner, pairs.values, weight, shape, dim, generator)


class _Sampler:
    """Draws what one step sees."""

    def __init__(
        self,
        dataset: Dataset,
        rows: QueryRows,
        settings: Settings,
        generator: torch.Generator,
    ) -> None:
        self.rows = rows
        self.settings = settings
        self.generator = generator
        self.items = torch.from_numpy(rows.items)
        self.users = torch.from_numpy(rows.users)
        self.content = dataset.items is not None
        self.sample = min(settings.negatives, len(rows.items))
        if self.content:
            # Content is computed for every sampled item, and costs more than its
            # column of the logits: a quarter of a small catalogue does as well.
            most = max(_LEAST_SAMPLE, len(rows.items) // 4)
            self.sample = min(self.sample, most)
        self.bias = settings.beta * log_popularity(rows.pop)
        # Place of each item in the sample, or among the rows of the step; -1 elsewhere.
        self.place = torch.full((len(rows.items),), -1)

    def step(self, towers: Towers, chosen: Tensor) -> tuple[Tensor, Tensor, LossBatch]:
        """Return queries, item rows and comparisons of some query rows."""
        rows = self.rows
        user = rows.user[chosen]
        targets = rows.targets.take(chosen)
        negatives = self._negatives()
        seen = rows.seen.take(user)
        self.place[negatives] = torch.arange(len(negatives))
        seen_place = self.place[seen.values]
        self.place[negatives] = -1
        met = seen_place >= 0
        history, share = self._history(rows.history, user)
        comparisons = LossBatch(
            negatives=negatives,
            positives=targets.values,
            owner=targets.owner,
            start=targets.start,
            weight=_weights(targets.weight, len(targets.values)),
            seen_query=seen.owner[met],
            seen_place=seen_place[met],
            bias=self.bias,
            log_share=log_share(len(rows.items), len(negatives)),
        )
        item_rows, history_rows, entries = towers.served, towers.history, history.values
        if self.content:
            used = self._mark(negatives, targets.values, history.values)
            item_rows, history_rows = self._with_content(towers, used)
            entries = self.place[history.values]
            comparisons = self._local(comparisons, used)
            self.place[used] = -1
        taste = F.embedding_bag(
            entries, history_rows, history.start, mode="sum", per_sample_weights=share
        )
        context = None if rows.context is None else rows.context[chosen]
        query = towers.query(taste, history.counts == 0, self.users[user], context)
        return query, item_rows, comparisons

    def _negatives(self) -> Tensor:
        """Draw distinct items uniformly."""
        items, wanted = len(self.rows.items), self.sample
        if items == wanted:
            return torch.arange(items)
        if items <= 16 * wanted:
            return torch.randperm(items, generator=self.generator)[:wanted]
        # A permutation of millions would cost more than the few repeats it avoids.
        drawn = torch.randint(items, (wanted,), generator=self.generator)
        return cast(Tensor, torch.unique(drawn))

    def _history(self, history: Ragged, user: Tensor) -> tuple[Selection, Tensor]:
        every = history.take(user)
        hidden = torch.rand(len(user), generator=self.generator) < HIDDEN
        drawn = torch.rand(len(every.values), generator=self.generator)
        kept = every.where((drawn >= self.settings.dropout) & ~hidden[every.owner])
        weight = _weights(kept.weight, len(kept.values))
        total = torch.zeros(len(user)).index_add_(0, kept.owner, weight)
        return kept, weight / total[kept.owner]

    def _mark(self, *items: Tensor) -> Tensor:
        """Number the items of a step; returns them, ascending."""
        for some in items:
            self.place[some] = 0
        used = torch.nonzero(self.place >= 0).squeeze(1)
        self.place[used] = torch.arange(len(used))
        return used

    def _with_content(self, towers: Towers, used: Tensor) -> tuple[Tensor, Tensor]:
        """Return served and history-side rows of some items, some by content alone."""
        served, history = towers.item_rows(self.items[used])
        drawn = torch.rand(len(used), 1, generator=self.generator)
        known = (drawn >= self.settings.id_dropout).float()
        served = served + F.embedding(used, towers.served) * known
        return served, history + F.embedding(used, towers.history) * known

    def _local(self, batch: LossBatch, used: Tensor) -> LossBatch:
        """Return the comparisons by place among the items of the step."""
        return LossBatch(
            negatives=self.place[batch.negatives],
            positives=self.place[batch.positives],
            owner=batch.owner,
            start=batch.start,
            weight=batch.weight,
            seen_query=batch.seen_query,
            seen_place=batch.seen_place,
            bias=batch.bias[used],
            log_share=batch.log_share,
        )


def log_popularity(pop: Tensor) -> Tensor:
    """Return log(pop / mean pop), with pop at least 1."""
    return (pop.clamp(min=1) / pop.mean().clamp(min=1)).log()


def _weights(weight: Tensor | None, count: int) -> Tensor:
    return torch.ones(count) if weight is None else weight
