"""The negatives of a step: a shared sample, and some of single queries.

The shared sample joins uniform draws, draws by popularity ^ alpha and positives of the
step itself. With pi_j the probability that item j is in it,

    pi_j = 1 - (1 - uniform_j) (1 - popular_j) (1 - in_batch_j),

a negative stands for 1 / pi_j items of the catalogue, whichever draw it came from, so
the sum over the sample estimates the sum over the catalogue without bias (Horvitz and
Thompson). A uniform sample alone has pi_j = |S| / |items|, the same for all.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from recsys.training.objectives.batch import log_share
from recsys.training.ragged import Selection
from recsys.training.settings import Settings


class SharedSample:
    """Draws the negatives that the queries of a step share.

    Args:
        pop: Users with taste for each trained item, at least 1, shape (T,).
        settings: Says how many, and in which shares.
        size: Items to draw.
        generator: Of the device that everything is on.
    """

    def __init__(
        self, pop: Tensor, settings: Settings, size: int, generator: torch.Generator
    ) -> None:
        self._items = len(pop)
        self._size = min(size, self._items)
        self._generator = generator
        self._where = pop.device
        mix = settings.sources
        parts = size / (mix.uniform + mix.popular + mix.in_batch)
        self._popular = round(parts * mix.popular)
        self._in_batch = round(parts * mix.in_batch)
        self._uniform = max(0, size - self._popular - self._in_batch)
        self._logq = mix.logq
        weight = pop.double() ** mix.alpha
        self._reach = (weight / weight.sum()).cumsum(0)
        self._missed = (-weight / weight.sum()).log1p()  # log(1 - p_j)
        self._missed_in_batch = (-(pop / pop.sum()).double()).log1p()

    def draw(self, positives: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return distinct items, and what corrects the probability of each.

        Args:
            positives: Positives of the step, repeats included.

        Returns:
            Items, shape (S,), and -log pi - log(|items| / S), shape (S,); None where
            that is 0 for all, or is not wanted.
        """
        if self._size == self._items:
            return torch.arange(self._items, device=self._where), None
        if not self._popular and not self._in_batch:
            return self._evenly(self._size), None
        drawn, share = [self._evenly(self._uniform)], 1.0
        if self._popular:
            drawn.append(self._by_popularity())
        if self._in_batch:
            found, share = self._from_batch(positives)
            drawn.append(found)
        items = cast(Tensor, torch.unique(torch.cat(drawn)))
        if not self._logq:
            return items, None
        absent = self._popular * self._missed[items]  # log(1 - the probability)
        if self._in_batch:
            # Each positive of the step was one draw by popularity.
            met = -(len(positives) * self._missed_in_batch[items]).expm1()
            absent = absent + (-met * share).log1p()
        absent = absent + _log(1 - self._uniform / self._items)
        present = -absent.expm1()  # pi
        shift = log_share(self._items, len(items))
        return items, (-present.clamp_min(1e-12).log() - shift).float()

    def _evenly(self, wanted: int) -> Tensor:
        """Draw items uniformly, distinct ones."""
        if self._items <= 16 * wanted:
            order = torch.randperm(
                self._items, generator=self._generator, device=self._where
            )
            return order[:wanted]
        # A permutation of millions would cost more than the few repeats it avoids.
        drawn = torch.randint(
            self._items, (wanted,), generator=self._generator, device=self._where
        )
        return cast(Tensor, torch.unique(drawn))

    def _by_popularity(self) -> Tensor:
        at = torch.rand(
            self._popular,
            generator=self._generator,
            device=self._where,
            dtype=torch.float64,
        )
        return torch.searchsorted(self._reach, at).clamp_max(self._items - 1)

    def _from_batch(self, positives: Tensor) -> tuple[Tensor, float]:
        """Return some of the distinct positives, and their share of all of them."""
        found = cast(Tensor, torch.unique(positives))
        if len(found) <= self._in_batch:
            return found, 1.0
        order = torch.randperm(
            len(found), generator=self._generator, device=self._where
        )
        return found[order[: self._in_batch]], self._in_batch / len(found)


class Neighbours:
    """Negatives that an earlier version holds for similar to a positive.

    Args:
        table: Neighbours of each trained item, nearest first, -1 where there is none,
            shape (T, k), int64.
        most: Most negatives of a query.
        generator: Of the device that everything is on.
    """

    def __init__(self, table: Tensor, most: int, generator: torch.Generator) -> None:
        self._table = table
        self._most = most
        self._generator = generator

    def draw(self, targets: Selection) -> tuple[Tensor, Tensor]:
        """Return items and the query of each, ascending."""
        some = targets.sample(self._most, self._generator)
        column = torch.randint(
            self._table.shape[1],
            (len(some.values),),
            generator=self._generator,
            device=self._table.device,
        )
        found = self._table[some.values, column]
        known = found >= 0
        return found[known], some.owner[known]


def _log(value: float) -> float:
    return cast(float, torch.tensor(value, dtype=torch.float64).log().item())
