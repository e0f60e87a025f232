"""What a version is worth until the next one: popularity as of several days.

A version is published with the popularity of its last day and serves from there on.
Read on the first day of the validation slice alone, the best popularity dimension is
that of one day: on another, when no film has just come out, another one is best. So it
is chosen as of several days of the slice, by what was chosen after each of them.

One fit serves all of them: its training part ends before the first. Only histories,
popularity and what is to be found move, so this costs a fit nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.config import TrainConfig
from recsys.popularity import HALF_LIVES_D, Trend
from recsys.training.blocks import by_user, marked
from recsys.training.dataset import Dataset
from recsys.training.evaluation import Judge, lean_of
from recsys.training.lean import Lean
from recsys.training.metrics import score_of
from recsys.training.model import Towers
from recsys.training.periods import counts_at
from recsys.training.rows import QueryRows, query_rows
from recsys.training.split import Split, judged
from recsys.training.trend import bias, blend

DAYS = 6
"""As of how many days popularity is tried."""
# A day ranks for so many at least; all together for so many at most.
_FEWEST_USERS = 200
_MOST_USERS = 3_000
# To tell a few per cent between lists of the same fit, so many are enough.
_RERANKED_USERS = 2_000
# Of so many times the users that are ranked in the end, the interactions are looked at.
_SPARE = 4


@dataclass(frozen=True, slots=True)
class _Day:
    """The users of one day.

    Attributes:
        judge: Ranks for them, with the histories they had by then.
        pop: Users with taste for each item by then, shape (T,).
        decayed: The same, older ones counting less, shape (H, T); None without times.
    """

    judge: Judge
    pop: Tensor
    decayed: Tensor | None

    def biases(self, trends: Sequence[Trend]) -> Tensor:
        """Return popularity dimensions as of the day, shape (G, T)."""
        return torch.stack([bias(trend, self.pop, self.decayed) for trend in trends])


class Ahead:
    """Chooses popularity and lean, and scores re-ranking, by what came after days.

    Args:
        dataset: All interactions.
        rows: The training part of the validation split.
        cut: The split.
        judge: Of the whole slice, as of its first day; the only one without times.
        config: Length of histories and seed.
        serves_s: How long a version is to serve, in seconds.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: QueryRows,
        cut: Split,
        judge: Judge,
        config: TrainConfig,
        serves_s: float,
    ) -> None:
        self._rows = rows
        self._seed = config.seed
        self.days = [_Day(judge, rows.pop, rows.decayed)]
        if cut.end is None:
            return
        last = float(np.nanmax(dataset.time))
        starts = start_times(cut.end, last, serves_s)
        users = max(_FEWEST_USERS, min(_MOST_USERS, judge.users) // DAYS)
        part = _part(dataset, rows, cut.end, _SPARE * DAYS * users, config.seed)
        decayed, pop = _counts(dataset, rows, starts)
        found: list[_Day] = []
        for place, start in enumerate(starts.tolist()):
            known = part.only(~(part.time > start + serves_s))
            before = ~(known.time >= start)
            day = judged(known, before, start, rows.items)
            if not len(day.users):
                continue
            then = query_rows(
                known, before, start, config.history, items=rows.items, counted=False
            )
            one = Judge(known, then, day, config.seed + place, users)
            found.append(_Day(one, pop[place], decayed[place]))
        self.days = found or self.days

    def __len__(self) -> int:
        return len(self.days)

    def trend(self, towers: Towers, trends: Sequence[Trend]) -> Trend:
        """Return the mean of popularity dimensions, each by how good it is."""
        mean: list[float] = np.mean(self.scores(towers, trends), axis=0).tolist()
        return blend(trends, mean)

    def scores(self, towers: Towers, trends: Sequence[Trend]) -> list[list[float]]:
        """Return Recall@20 plus NDCG@20 of popularity dimensions, by day."""
        return [
            [score_of(each) for each in day.judge.score(towers, day.biases(trends))]
            for day in self.days
        ]

    def lean(
        self, towers: Towers, trend: Trend, strengths: Sequence[float]
    ) -> tuple[float, Lean]:
        """Return the strength that is best, 0 if none is better, and its readout."""
        popularity = bias(trend, self._rows.pop, self._rows.decayed)
        every = (0.0, *strengths)
        leans = [
            lean_of(towers, self._rows, popularity, strength, self._seed)
            for strength in every
        ]
        scores = np.zeros(len(leans))
        for day in self.days:
            lists = day.judge.lean(towers, day.biases([trend])[0], leans)
            scores += [score_of(day.judge.metrics(each)) for each in lists]
        best = int(np.argmax(scores))
        return every[best], leans[best]

    def rerank(
        self, towers: Towers, trend: Trend, lean: Lean, temperatures: Sequence[float]
    ) -> list[float]:
        """Return Recall@20 plus NDCG@20 at temperatures of re-ranking; 0: without."""
        scores = np.zeros(len(temperatures))
        for day in self.days:
            judge = day.judge.some(_RERANKED_USERS)
            lists = judge.rerank(towers, day.biases([trend])[0], lean, temperatures)
            scores += [score_of(judge.metrics(each)) for each in lists]
        return (scores / len(self.days)).tolist()


def start_times(first: float, last: float, serves_s: float) -> NDArray[np.float64]:
    """Return as of when popularity is tried, ascending, shape (D,).

    What came after each of them is known for as long as a version serves, or for half
    of the slice where that is less.
    """
    length = last - first
    return first + np.linspace(0, length - min(length / 2, serves_s), DAYS)


def _part(
    dataset: Dataset, rows: QueryRows, first: float, most: int, seed: int
) -> Dataset:
    """Return the interactions, with trained items, of some users of the slice.

    Without values: what interactions are worth decides targets, and ranking has none.
    """
    trained = _trained(dataset, rows)
    late = trained & dataset.target & (dataset.time >= first)
    users = np.flatnonzero(marked(len(dataset.user_ids), dataset.user[late]))
    if len(users) > most:
        users = np.random.default_rng(seed).choice(users, most, replace=False)
    mine = marked(len(dataset.user_ids), users)
    return replace(dataset.only(trained & mine[dataset.user]), value=None)


def _trained(dataset: Dataset, rows: QueryRows) -> NDArray[np.bool_]:
    """Mark the interactions with trained items, shape (n,)."""
    return marked(len(dataset.item_ids), rows.items)[dataset.item]


def _counts(
    dataset: Dataset, rows: QueryRows, starts: NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """Return the counts before each time: (D, H, T) faded, and (D, T) of users."""
    taste = (dataset.kind_weight > 0)[dataset.kind] & _trained(dataset, rows)
    width = len(rows.items)
    decayed = np.zeros((len(starts), len(HALF_LIVES_D), width))
    pop = np.zeros((len(starts), width), np.int64)
    for _, places in by_user(dataset, taste):
        user = dataset.user[places].astype(np.int64)
        item = np.searchsorted(rows.items, dataset.item[places]).astype(np.int64)
        time = dataset.time[places]
        time = np.where(np.isfinite(time), time, -np.inf)
        decayed += counts_at(user, item, time, width, starts)
        pop += _users_at(user * width + item, time, width, starts)
    counts = decayed.astype(np.float32), pop.astype(np.float32)
    return torch.from_numpy(counts[0]), torch.from_numpy(counts[1])


def _users_at(
    pair: NDArray[np.int64],
    time: NDArray[np.float64],
    items: int,
    starts: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the users of each item before each time, shape (D, T)."""
    order = np.lexsort((time, pair))
    distinct, first = np.unique(pair[order], return_index=True)
    place, of = np.searchsorted(starts, time[order][first], "right"), distinct % items
    new = [np.bincount(of[place == day], minlength=items) for day in range(len(starts))]
    return np.cumsum(new, axis=0)
