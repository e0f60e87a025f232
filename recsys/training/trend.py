"""The popularity dimension: what the counts of an item, old and fresh, are worth.

A count that halves every few days forgets without a window's edge. Several half-lives
together say how an item's popularity moves: what is falling has a smaller count under
the short ones. All of it is one number per item, so it is one more dimension of its
vector, and costs a search nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DAY_S = 86_400.0
HALF_LIVES_D = (1.0, 3.0, 10.0, 30.0)
"""Days after which what somebody chose counts half."""
PRIOR = 0.5
"""Added to every count: an item nobody chose lately is not infinitely bad."""

# How the weight is shared: the users of all time, then the half-lives.
_SHAPES = (
    (1.0, (0.0, 0.0, 0.0, 0.0)),
    (0.4, (0.0, 0.0, 0.6, 0.0)),
    (0.0, (0.0, 0.0, 0.0, 1.0)),
    (0.0, (0.0, 0.0, 1.0, 0.0)),
    (0.0, (0.0, 1.0, 0.0, 0.0)),
    (0.0, (0.0, 0.5, 0.0, 0.5)),
    (0.0, (0.25, 0.25, 0.25, 0.25)),
)
# The whole weight, as multiples of tau: scores are cosines, and tau says how much of a
# cosine one unit of log popularity is worth inside the loss.
_SCALES = (0.3, 0.6, 1.0, 1.5, 2.2, 3.2)
_DEFAULT = (0.0, 0.5, 0.0, 0.5)


@dataclass(frozen=True, slots=True)
class Trend:
    """Popularity dimension: a ln(pop) + sum over h of b_h ln(count_h + 1/2).

    Attributes:
        long_run: a, the weight of the users of all time.
        recent: b, one weight per half-life; empty without times.
    """

    long_run: float
    recent: tuple[float, ...] = ()

    def bias(self, pop: Tensor, decayed: Tensor | None) -> Tensor:
        """Return the popularity dimension of T items, shape (T,).

        Args:
            pop: Users with taste for each, shape (T,).
            decayed: From ``decayed_counts``, shape (H, T); None without times.
        """
        out = self.long_run * pop.clamp(min=1).log()
        if decayed is None or not self.recent:
            return out
        weight = torch.tensor(self.recent, dtype=out.dtype, device=out.device)
        return out + weight @ (decayed + PRIOR).log()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable copy; ``from_dict`` reads it back."""
        return {
            "long_run": self.long_run,
            "recent": list(self.recent),
            "half_lives_d": list(HALF_LIVES_D[: len(self.recent)]),
        }


def grid(tau: float, beta: float, *, timed: bool) -> list[Trend]:
    """Return the popularity dimensions to try; the last one is the default.

    Args:
        tau: Temperature of the fit.
        beta: Weight of log popularity inside its loss.
        timed: Whether the interactions have times.
    """
    if not timed:
        return [Trend((beta + 0.1) * tau)]
    tried = [
        Trend(scale * tau * long_run, tuple(scale * tau * part for part in recent))
        for long_run, recent in _SHAPES
        for scale in _SCALES
    ]
    return [Trend(0.0), *tried, Trend(0.0, tuple(tau * part for part in _DEFAULT))]


def decayed_counts(
    item: NDArray[np.int64], time: NDArray[np.float64], items: int, end: float
) -> NDArray[np.float32]:
    """Count events, each the less the older it is.

    Args:
        item: Item of each event, below ``items``.
        time: Its seconds since 1970; far in the past where unknown.
        items: Number of items, T.
        end: Ages count from here; what is later has none.

    Returns:
        One count per half-life and item, shape (H, T).
    """
    age = np.maximum(end - time, 0.0) / DAY_S
    return np.stack(
        [
            np.bincount(item, np.exp2(-age / half_life), minlength=items)
            for half_life in HALF_LIVES_D
        ]
    ).astype(np.float32)
