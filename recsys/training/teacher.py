"""A larger model that a smaller one learns from, by the numbers of one fit."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.training.objectives.batch import Taught
from recsys.training.query import MeanQuery
from recsys.training.step import Queries

SAMPLE = 2_048
"""Items of a step whose order is learned: all would cost more than the objective."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """What a teacher holds of T trained items, and of the features of queries.

    Attributes:
        tau: Its temperature.
        history: History-side rows, shape (T, D), float32; 0 where it has none.
        served: Unit item vectors, likewise.
        known: Marks the items that it has, shape (T,), bool.
        user: What user features add to a query, one row for each user of the data, of
            D columns; None without features.
        context: The same of context features.
    """

    tau: float
    history: Tensor
    served: Tensor
    known: Tensor
    user: Tensor | None = None
    context: Tensor | None = None

    def to(self, where: torch.device) -> Teacher:
        """Return the same on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {
            name: value.to(where)
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def teach(
        self,
        queries: Queries,
        sample: Tensor,
        weight: float,
        generator: torch.Generator,
    ) -> Taught:
        """Return what it holds of some queries and of a part of a sample.

        Args:
            queries: B queries with whole histories.
            sample: Trained items, shape (S,), int64.
            weight: What that weighs in the loss.
            generator: Chooses the part.
        """
        known = torch.nonzero(self.known[sample]).squeeze(1)
        order = torch.randperm(len(known), generator=generator, device=sample.device)
        places = known[order[:SAMPLE]]
        query, knows = self.queries(queries)
        return Taught(
            query=query,
            places=places,
            vectors=self.served[sample[places]],
            knows=knows.float(),
            tau=self.tau,
            weight=weight,
        )

    def queries(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Return unit queries of B histories, (B, D), and whether it knows any item."""
        heard = queries.history.where(self.known[queries.history.values])
        out = MeanQuery()(self.history, heard)
        if self.user is not None:
            out = out + self.user[queries.user]
        if self.context is not None and queries.context is not None:
            out = out + self.context[queries.context]
        knows = heard.counts > 0
        return F.normalize(out, dim=1, eps=1e-12) * knows.unsqueeze(1), knows
