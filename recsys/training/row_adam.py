"""Adam over the item rows that a step touches, which ends where Adam over all would.

Adam moves a row at every step, also where its gradient is 0: on what its moments still
hold. With moments m, v of step t0 and no gradient since, step t0 + k adds

    -lr_s / (1 - b1^s) * b1^k m / (sqrt(b2^k v / (1 - b2^s)) + eps),     s = t0 + k

which is m / (sqrt(v) + eps') times a number that depends on t0 and k alone, with an
eps' that hardly does: that of the mean step, each weighed by how far it goes. Those
numbers are added up as the steps go by (``_reach``), so a row that is touched again is
first brought to where it would be by one product, whatever happened in between: the
schedule of the learning rate included. What a step costs depends on the rows it
touches, not on how many there are; ``settle`` brings all of them up to date.

The lazy Adam of ``torch.optim.SparseAdam`` leaves that out: rows then move a fraction
of what they should, the less the rarer their item is (ADR 26).

Source:
    Kingma and Ba: Adam: A Method for Stochastic Optimization (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

# After so many steps without a gradient a row has stopped: (b1 / sqrt(b2))^512 < 1e-23.
_MEMORY = 512
# Rows that are settled at once.
_BLOCK = 65_536
_FIRST_STEPS = 1024


@dataclass(frozen=True, slots=True)
class _Taken:
    """Some rows of a table and their moments; each of shape (R, d)."""

    rows: Tensor
    mean: Tensor
    square: Tensor


class RowAdam:
    """Steps of Adam over some rows of tables of T rows.

    Args:
        optimiser: Adam of all parameters. It keeps the moments of the tables as well,
            so that its state is what it would be without this; it is never shown their
            gradients.
        tables: Parameters of shape (T, d) that are always touched together.
    """

    def __init__(
        self, optimiser: torch.optim.Adam, tables: Sequence[nn.Parameter]
    ) -> None:
        self._tables = tables
        self._optimiser = optimiser
        group = optimiser.param_groups[0]
        self._betas = cast(tuple[float, float], group["betas"])
        self._eps = cast(float, group["eps"])
        first, second = self._betas
        where = tables[0].device
        place = torch.arange(_MEMORY, 0, -1, device=where, dtype=torch.float64)
        ratio = first / second**0.5
        self._ratios = (ratio**place).float()  # oldest first
        # After so many steps the place of the mean one, each weighed by its length.
        count = place.flip(0)
        gone = 1 / (1 - ratio) - count * ratio**count / (1 - ratio**count)
        self._middle = torch.cat([gone[:1], gone]).float()
        # As of which step each row is, counted from when all were settled.
        self._last = torch.zeros(len(tables[0]), dtype=torch.int32, device=where)
        # How far a row that was touched last in each step has to go, in m / sqrt(v).
        self._reach = torch.zeros(_FIRST_STEPS, device=where)
        self._now = self._steps = 0
        self._taken: list[_Taken] = []
        self._places: Tensor | None = None
        for table in tables:
            self._moments(table)

    @torch.no_grad()
    def take(self, places: Tensor) -> list[Tensor]:
        """Return some rows of each table as of now, to be differentiated.

        Args:
            places: Distinct, ascending, shape (R,), int64.

        Returns:
            One tensor of shape (R, d) per table.
        """
        self._places = places
        last = self._last[places]
        self._taken = []
        for table in self._tables:
            mean, square, _ = self._moments(table)
            taken = _Taken(
                *(whole.index_select(0, places) for whole in (table, mean, square))
            )
            self._forward(taken, last)
            self._taken.append(taken)
        return [taken.rows.requires_grad_() for taken in self._taken]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Take a step with the gradients of the rows that were taken.

        The tables are left with them, as sparse tensors, for whoever wants to look.
        """
        places = self._places
        assert places is not None
        steps = [self._moments(table)[2] for table in self._tables]
        gradients = [
            torch.zeros_like(taken.rows) if taken.rows.grad is None else taken.rows.grad
            for taken in self._taken
        ]
        adam(
            [taken.rows for taken in self._taken],
            gradients,
            [taken.mean for taken in self._taken],
            [taken.square for taken in self._taken],
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=lr,
            weight_decay=0.0,
            eps=self._eps,
            maximize=False,
        )
        for table, taken, gradient in zip(
            self._tables, self._taken, gradients, strict=True
        ):
            mean, square, _ = self._moments(table)
            table.index_copy_(0, places, taken.rows)
            mean.index_copy_(0, places, taken.mean)
            square.index_copy_(0, places, taken.square)
            table.grad = torch.sparse_coo_tensor(
                places.unsqueeze(0),
                gradient,
                table.shape,
                is_coalesced=True,
                check_invariants=False,
            )
        # Read once: it would wait for a device.
        self._steps = self._steps + 1 if self._now else int(steps[0].item())
        self._passed(lr)
        self._last[places] = self._now
        self._taken, self._places = [], None

    @torch.no_grad()
    def settle(self) -> None:
        """Bring every row to where it would be by now."""
        for first in range(0, len(self._last), _BLOCK):
            part = slice(first, first + _BLOCK)
            for table in self._tables:
                mean, square, _ = self._moments(table)
                block = _Taken(table.detach()[part], mean[part], square[part])
                self._forward(block, self._last[part])
        self._last.zero_()
        self._reach.zero_()
        self._now = 0

    def _moments(self, table: nn.Parameter) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, square and steps of a table; a checkpoint replaces them."""
        state = self._optimiser.state[table]
        if not state:
            state["step"] = torch.zeros((), device=table.device)
            state["exp_avg"] = torch.zeros_like(table, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(table, requires_grad=False)
        return state["exp_avg"], state["exp_avg_sq"], state["step"]

    def _forward(self, taken: _Taken, last: Tensor) -> None:
        """Take the steps without a gradient since ``last``, shape (R,), in place."""
        first, second = self._betas
        last = last.unsqueeze(1)
        since = self._now - last
        begun = self._moments(self._tables[0])[2] - since  # steps until then
        middle = self._middle[since.clamp(max=_MEMORY)]
        # What eps is beside the sqrt(v) of the last step with a gradient.
        eps = self._eps * ((1 - second ** (begun + middle)) / second**middle).sqrt()
        moved = taken.mean / taken.square.sqrt().add_(eps)
        taken.rows.sub_(moved.mul_(self._reach[last]))
        taken.mean.mul_(torch.pow(first, since))
        taken.square.mul_(torch.pow(second, since))

    def _passed(self, lr: float) -> None:
        """Note how far a step takes rows that it does not touch."""
        step, (first, second) = self._steps, self._betas
        if self._now + 1 >= len(self._reach):
            more = torch.zeros_like(self._reach)
            self._reach = torch.cat([self._reach, more])
        length = lr * (1 - second**step) ** 0.5 / (1 - first**step)
        oldest = max(0, self._now + 1 - _MEMORY)
        count = self._now + 1 - oldest
        self._reach[oldest : self._now + 1] += length * self._ratios[-count:]
        self._now += 1


def touched(popularity: Tensor, uniform: int, entries: float) -> float:
    """Return the share of rows that a step is expected to touch.

    Args:
        popularity: Of each row, shape (T,).
        uniform: Rows drawn evenly, distinct ones.
        entries: Rows drawn by popularity, repeats included.
    """
    missed = (-entries * popularity.double() / popularity.sum()).exp()
    return 1 - (1 - min(1.0, uniform / len(popularity))) * float(missed.mean())
