"""Distinct pairs of users, or query rows, and items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.training.ragged import Ragged, group
from recsys.training.rows.history import UNKNOWN


@dataclass(frozen=True, slots=True)
class Pairs:
    """Distinct (user, item) pairs: greatest weight, latest time."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    weight: NDArray[np.float32]
    time: NDArray[np.float64]

    @classmethod
    def merge(
        cls,
        user: NDArray[np.int64],
        item: NDArray[np.int64],
        weight: NDArray[np.float32],
        time: NDArray[np.float64],
        width: int,
    ) -> Pairs:
        """Return the pairs of some events, by user and item; items are below width."""
        key = user * width + item
        order = np.argsort(key, kind="stable")
        distinct, start = np.unique(key[order], return_index=True)
        # An unknown time is older than any known one.
        known = np.where(np.isfinite(time), time, UNKNOWN)[order]
        return cls(
            user=distinct // width,
            item=distinct % width,
            weight=np.maximum.reduceat(weight[order], start),
            time=np.maximum.reduceat(known, start),
        )

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Pairs:
        """Return some of the pairs, marked or in an order."""
        return Pairs(
            self.user[chosen], self.item[chosen], self.weight[chosen], self.time[chosen]
        )

    def ragged(self, lists: int) -> Ragged:
        """Return the items of each user as lists; users must ascend."""
        return group(
            torch.from_numpy(self.user),
            torch.from_numpy(self.item),
            lists,
            torch.from_numpy(self.weight),
        )
