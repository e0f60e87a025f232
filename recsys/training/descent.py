"""The optimiser of a fit: loss and gradients of a step, and what they move."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.training.interests import nearest_interest
from recsys.training.matryoshka import nested
from recsys.training.model import Towers
from recsys.training.objectives import OBJECTIVES
from recsys.training.objectives.batch import LossBatch
from recsys.training.objectives.distilled import distilled
from recsys.training.part import part, share
from recsys.training.row_adam import RowAdam
from recsys.training.settings import Settings
from recsys.training.step import Step
from recsys.training.team import Team


class Descent:
    """Adam over the towers; in a team each process computes a part of a step.

    Args:
        towers: What learns.
        settings: Hyper-parameters.
        team: The other processes; None: there are none.
        sparse: Whether a step updates only the item rows that it touches.

    Attributes:
        optimiser: Its state is that of all parameters between epochs.
    """

    def __init__(
        self, towers: Towers, settings: Settings, team: Team | None, *, sparse: bool
    ) -> None:
        self._towers = towers
        self._settings = settings
        self._team = team
        self._tables = (towers.served, towers.history)
        self.optimiser = torch.optim.Adam(
            towers.parameters(), lr=settings.lr, fused=True
        )
        self._rows = RowAdam(self.optimiser, self._tables) if sparse else None
        self._taken: list[Tensor] | None = None

    def loss(self, step: Step) -> Tensor:
        """Return the loss of a step, or what this process adds to it."""
        if self._rows is not None and step.used is not None:
            self._taken = self._rows.take(step.used.rows)
        if self._team is None:
            return self.loss_of(step, self._taken)
        mine = part(step, self._team.rank, self._team.size)
        if not len(mine.user):
            return 0.0 * self._towers.default_query.sum()
        return self.loss_of(mine, self._mine(mine, step)) * share(mine, step)

    def loss_of(self, step: Step, rows: list[Tensor] | None = None) -> Tensor:
        """Return the loss of a step or a part of one.

        Args:
            step: What is compared.
            rows: Served and history-side rows of its items; None: those of the towers.
        """
        query, items = self._towers(step, rows)
        batch = step.batch
        if query.dim() == 3:
            query, batch = nearest_interest(query, items, batch)
        return nested(_objective, query, items, batch, self._settings)

    def take(self, loss: Tensor, share: float) -> None:
        """Take a step, at a share of the peak learning rate."""
        lr = self._settings.lr * share
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self._team is not None:
            self._team.add_gradients(self._learned())
        self.optimiser.step()
        if self._rows is not None:
            self._rows.step(lr)

    def settle(self) -> None:
        """Bring item rows to where they are, if steps leave any behind."""
        if self._rows is not None:
            self._rows.settle()

    def _mine(self, mine: Step, whole: Step) -> list[Tensor] | None:
        """Return those of the rows taken that a part of the step uses."""
        if self._taken is None or mine.used is None or whole.used is None:
            return None
        if len(mine.used.rows) == len(whole.used.rows):
            return self._taken
        place = torch.searchsorted(whole.used.rows, mine.used.rows)
        return [F.embedding(place, rows) for rows in self._taken]

    def _learned(self) -> list[Tensor]:
        """Return what a step has gradients of: rows taken stand for their tables."""
        every: list[Tensor] = [*self._towers.parameters()]
        if self._taken is None:
            return every
        tables = self._tables
        rest = [value for value in every if all(value is not one for one in tables)]
        return [*self._taken, *rest]


def _objective(
    query: Tensor, items: Tensor, batch: LossBatch, settings: Settings
) -> Tensor:
    """Return the loss of the objective, and of what a teacher says where one does."""
    loss = OBJECTIVES[settings.objective](query, items, batch, settings)
    if batch.taught is None:
        return loss
    return loss + batch.taught.weight * distilled(query, items, batch, settings.tau)
