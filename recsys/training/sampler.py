"""Draws the steps of a fit: queries, shared negatives, and what is hidden."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from recsys.training.device import Device
from recsys.training.objectives.batch import LossBatch, log_share
from recsys.training.ragged import Selection
from recsys.training.rows import QueryRows
from recsys.training.settings import Settings
from recsys.training.step import Queries, RowSource, Step, Used

# Share of queries whose whole history is hidden, so that the default query, user
# features and contexts learn to stand alone.
HIDDEN = 0.02
_LEAST_SAMPLE = 1024


class UserRows:
    """One query per row: a user's history, and what the user has chosen.

    Without contexts a row is a user; with them it is a distinct (user, context).
    """

    def __init__(self, rows: QueryRows) -> None:
        self._rows = rows
        self._users = torch.from_numpy(rows.users).to(rows.user.device)

    def __len__(self) -> int:
        return len(self._rows.user)

    def take(self, chosen: Tensor) -> Queries:
        """Return the queries of some rows."""
        rows = self._rows
        user = rows.user[chosen]
        return Queries(
            user=self._users[user],
            context=None if rows.context is None else rows.context[chosen],
            history=rows.history.take(user),
            targets=rows.targets.take(chosen),
            seen=rows.seen.take(user),
        )


class Sampler:
    """Draws what one step sees.

    Args:
        source: Makes the queries.
        rows: The trained items: which they are, and their popularity.
        settings: Hyper-parameters.
        content: Whether items have features.
        device: Where everything is.
        generator: Of that device.
    """

    def __init__(
        self,
        source: RowSource,
        rows: QueryRows,
        settings: Settings,
        device: Device,
        generator: torch.Generator,
        *,
        content: bool,
    ) -> None:
        self._source = source
        self._settings = settings
        self._generator = generator
        self._where = device.where
        self._products = device.products(settings.tau)
        self._items = torch.from_numpy(rows.items).to(device.where)
        self._content = content
        self._sample = min(settings.negatives, len(rows.items))
        if content:
            # Content is computed for every sampled item, and costs more than its
            # column of the logits: a quarter of a small catalogue does as well.
            most = max(_LEAST_SAMPLE, len(rows.items) // 4)
            self._sample = min(self._sample, most)
        self._bias = settings.beta * log_popularity(rows.pop)
        # Place of each item in the sample, or among those of the step; else -1.
        self._place = torch.full((len(rows.items),), -1, device=device.where)

    def step(self, chosen: Tensor) -> Step:
        """Draw the step of some rows of the source."""
        queries = self._source.take(chosen)
        batch = self._compare(queries, self._negatives())
        history, places = self._hide(queries.history, queries.places)
        used = None
        if self._content:
            used = self._mark(batch.negatives, batch.positives, history.values)
            history = replace(history, values=self._place[history.values])
            batch = self._local(batch, used.rows)
            self._place[used.rows] = -1
        return Step(queries.user, queries.context, history, used, batch, places)

    def _compare(self, queries: Queries, negatives: Tensor) -> LossBatch:
        """Return the comparisons, with the negatives that a query has seen marked."""
        targets, seen = queries.targets, queries.seen
        self._place[negatives] = torch.arange(len(negatives), device=self._where)
        seen_place = self._place[seen.values]
        self._place[negatives] = -1
        met = seen_place >= 0
        return LossBatch(
            negatives=negatives,
            positives=targets.values,
            owner=targets.owner,
            start=targets.start,
            weight=targets.weights(self._bias),
            seen_query=seen.owner[met],
            seen_place=seen_place[met],
            bias=self._bias,
            log_share=log_share(len(self._items), len(negatives)),
            products=self._products,
        )

    def _negatives(self) -> Tensor:
        """Draw distinct items uniformly."""
        items, wanted = len(self._items), self._sample
        if items == wanted:
            return torch.arange(items, device=self._where)
        if items <= 16 * wanted:
            return self._permutation(items)[:wanted]
        # A permutation of millions would cost more than the few repeats it avoids.
        drawn = torch.randint(
            items, (wanted,), generator=self._generator, device=self._where
        )
        return cast(Tensor, torch.unique(drawn))

    def _permutation(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self._generator, device=self._where)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, device=self._where)

    def _hide(
        self, history: Selection, places: Tensor | None
    ) -> tuple[Selection, Tensor | None]:
        """Return what is left after some entries, and some whole histories, are out."""
        hidden = self._uniform(len(history.start)) < HIDDEN
        drawn = self._uniform(len(history.values))
        keep = (drawn >= self._settings.dropout) & ~hidden[history.owner]
        left = history.where(keep)
        if places is None:
            return left, None
        # The next older entry that is left, unless that is in another history.
        count = keep.long().cumsum(0)
        place = (count - keep.long())[places]
        owner = torch.nn.functional.pad(left.owner, (0, 1), value=-1)
        return left, torch.where(owner[place] == history.owner[places], place, -1)

    def _mark(self, *items: Tensor) -> Used:
        """Number the items of a step, and choose those without their ID row."""
        for some in items:
            self._place[some] = 0
        rows = torch.nonzero(self._place >= 0).squeeze(1)
        self._place[rows] = torch.arange(len(rows), device=self._where)
        drawn = self._uniform(len(rows), 1)
        known = (drawn >= self._settings.id_dropout).float()
        return Used(rows, self._items[rows], known)

    def _local(self, batch: LossBatch, used: Tensor) -> LossBatch:
        """Return the comparisons by place among the items of the step."""
        return replace(
            batch,
            negatives=self._place[batch.negatives],
            positives=self._place[batch.positives],
            bias=batch.bias[used],
        )


def log_popularity(pop: Tensor) -> Tensor:
    """Return log(pop / mean pop), with pop at least 1."""
    return (pop.clamp(min=1) / pop.mean().clamp(min=1)).log()
