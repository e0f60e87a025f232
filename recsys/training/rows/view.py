"""Query rows as a fit has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.training.periods import Periods
from recsys.training.ragged import Ragged


@dataclass(frozen=True, slots=True)
class QueryRows:
    """Training data of one fit. Items are counted among the trained ones: 0 to T.

    Attributes:
        items: Dataset index of each trained item, ascending, shape (T,).
        users: Dataset index of each user with taste, ascending, shape (U,).
        user: User (0 to U) of each query row, shape (R,), int64.
        context: Dataset context of each query row, shape (R,); None without contexts.
        targets: Positives of each query row, with weights.
        history: Positives of each user, with weights: latest first, then by item id,
            as ``recsys._state_<version>`` has them; capped.
        seen: Every trained item each user has met, also with weight 0.
        pop: Users with taste for each item, at least 1, shape (T,), float32.
        decayed: The same, older ones counting less: one row per half-life of
            ``popularity.HALF_LIVES_D``, shape (H, T), float32; None without times.
        shown: Items each user was shown, for negatives; None where not wanted.
        disliked: Items each user has refused and not liked, likewise.
        neighbours: Items an earlier version holds for similar to each trained item,
            -1 where there is none, shape (T, k), int64; None where not wanted.
        periods: The query rows, cut by time; None without times.
        keep: Marks the interactions that the rows are made of; None: not known.
    """

    items: NDArray[np.int64]
    users: NDArray[np.int64]
    user: Tensor
    context: Tensor | None
    targets: Ragged
    history: Ragged
    seen: Ragged
    pop: Tensor
    decayed: Tensor | None
    shown: Ragged | None = None
    disliked: Ragged | None = None
    neighbours: Tensor | None = None
    periods: Periods | None = None
    keep: NDArray[np.bool_] | None = None

    @property
    def pairs(self) -> int:
        """Positives of all rows together."""
        return len(self.targets.values)

    def to(self, where: torch.device) -> QueryRows:
        """Return the same rows with every tensor on a device."""
        if where == self.pop.device:
            return self
        return QueryRows(
            items=self.items,
            users=self.users,
            user=self.user.to(where),
            context=None if self.context is None else self.context.to(where),
            targets=self.targets.to(where),
            history=self.history.to(where),
            seen=self.seen.to(where),
            pop=self.pop.to(where),
            decayed=None if self.decayed is None else self.decayed.to(where),
            shown=None if self.shown is None else self.shown.to(where),
            disliked=None if self.disliked is None else self.disliked.to(where),
            neighbours=None if self.neighbours is None else self.neighbours.to(where),
            periods=None if self.periods is None else self.periods.to(where),
            keep=self.keep,
        )
