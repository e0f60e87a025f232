"""How newcomers do: items without a learned row, placed by their content alone.

A newcomer has no popularity of its own. The level that stands in for it decides whether
lists have newcomers at all: the median of the others keeps them out of every list, a
high one fills lists with them. It is a quantile of the others' popularity dimension,
chosen on the validation slice, where every item first chosen after the cut is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recsys.training.blocks import marked
from recsys.training.dataset import Dataset
from recsys.training.evaluation import K, item_vectors, queries
from recsys.training.metrics import ranking_metrics
from recsys.training.model import Towers
from recsys.training.rows import QueryRows
from recsys.training.split import Split, new_hits

MEDIAN = 0.5
QUANTILES = (MEDIAN, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# A level must be better than the median by this share, or noise would choose it.
_LEAD = 0.005
_PAIRS = 100_000_000
_FEWEST_USERS = 200
_MOST_USERS = 2_000
_USERS_PER_STEP = 256
_ITEMS_PER_STEP = 8_192


@dataclass(frozen=True, slots=True)
class Placed:
    """What a fit does with newcomers.

    Attributes:
        quantile: Of the trained items' popularity dimension; stands in for theirs.
        report: JSON-serialisable: "users" and "items" counted, and metrics of
            "new_in_all": hits on newcomers in lists of the whole catalogue;
            "new_among_new": the same where only newcomers are ranked;
            "random_among_new": expected of any order of them;
            "all": every hit, in lists of the whole catalogue.
    """

    quantile: float
    report: dict[str, Any]


class Newcomers:
    """The newcomers of a split, and the users to judge by.

    Args:
        dataset: All interactions, and the features.
        rows: The training part.
        cut: The split.
        seed: Of the choice of users, where there are too many.
    """

    def __init__(
        self, dataset: Dataset, rows: QueryRows, cut: Split, seed: int
    ) -> None:
        width = len(dataset.item_ids)
        self._rows = rows
        new = np.ones(width, np.bool_)
        new[rows.items] = False
        self.items = np.flatnonzero(new)
        # Trained items first, then newcomers, as scores are laid out below.
        place = np.empty(width, np.int64)
        place[rows.items] = np.arange(len(rows.items))
        place[self.items] = len(rows.items) + np.arange(len(self.items))
        hit = ~cut.train & dataset.target
        hit &= marked(len(dataset.user_ids), rows.users)[dataset.user]
        users = np.zeros(0, np.int64)
        relevant: list[NDArray[np.int64]] = []
        for places in new_hits(dataset, cut.train, hit):
            some, start = np.unique(dataset.user[places], return_index=True)
            users = np.concatenate([users, some.astype(np.int64)])
            relevant += np.split(place[dataset.item[places]], start[1:])
        most = max(_FEWEST_USERS, min(_MOST_USERS, _PAIRS // max(width, 1)))
        chosen = np.arange(len(users))
        if len(users) > most:
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(len(users), most, replace=False))
        self._relevant = [relevant[i] for i in chosen]
        self._user = torch.from_numpy(np.searchsorted(rows.users, users[chosen]))
        self._context = _contexts(dataset, cut, users[chosen])

    @property
    def asked(self) -> bool:
        """Whether anybody chose a newcomer."""
        trained = len(self._rows.items)
        return any((some >= trained).any() for some in self._relevant)

    @torch.no_grad()
    def place(self, towers: Towers, bias: Tensor) -> Placed | None:
        """Choose the level, and measure.

        Args:
            towers: The fit to the training part.
            bias: Popularity dimension of its items, shape (T,).

        Returns:
            None where items have no content, or nobody chose a newcomer.
        """
        if towers.item is None or not self.asked:
            return None
        known, new = self._ranked(towers, bias)
        levels = torch.quantile(bias, torch.tensor(QUANTILES, device=bias.device))
        metrics = [
            ranking_metrics(_merged(known, new, float(level)), self._relevant, K)
            for level in levels
        ]
        scores = [each["recall@20"] + each["ndcg@20"] for each in metrics]
        best = int(np.argmax(scores))
        if scores[best] <= scores[0] * (1 + _LEAD):
            best = 0
        lists = _merged(known, new, float(levels[best]))
        return Placed(QUANTILES[best], self._report(lists, new[1], metrics[best]))

    def _report(
        self,
        lists: NDArray[np.int64],
        among_new: NDArray[np.int64],
        every: dict[str, float],
    ) -> dict[str, Any]:
        trained = len(self._rows.items)
        wanted = [some[some >= trained] for some in self._relevant]
        asked = [row for row, some in enumerate(wanted) if len(some)]
        wanted = [wanted[row] for row in asked]
        return {
            "users": len(asked),
            "items": len(self.items),
            "new_in_all": ranking_metrics(lists[asked], wanted, K),
            "new_among_new": ranking_metrics(among_new[asked], wanted, K),
            "random_among_new": {"recall@20": min(1.0, K / len(self.items))},
            "all": every,
        }

    def _ranked(self, towers: Towers, bias: Tensor) -> tuple[_Ranked, _Ranked]:
        """Return the best trained items of each user, and the best newcomers."""
        vectors = item_vectors(towers, self._rows)
        items = torch.from_numpy(self.items)
        new = [
            F.normalize(towers.item_rows(part)[0], dim=1, eps=1e-12)
            for part in torch.split(items, _ITEMS_PER_STEP)
        ]
        query = queries(towers, self._rows, vectors, self._user, self._context)
        found: list[tuple[_Ranked, _Ranked]] = []
        for part in torch.split(torch.arange(len(self._user)), _USERS_PER_STEP):
            seen = self._rows.seen.take(self._user[part])
            dot = query[part] @ vectors.served.T + bias
            dot[seen.owner, seen.values] = -torch.inf
            fresh = query[part] @ torch.cat(new).T
            found.append((_top(dot, 0), _top(fresh, len(self._rows.items))))
        known, fresh = zip(*found, strict=True)
        return _stacked(known), _stacked(fresh)


_Ranked = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and places of each user's best items, each of shape (U, K or fewer)."""


def _top(scores: Tensor, first: int) -> _Ranked:
    best, place = torch.topk(scores, min(K, scores.shape[1]), dim=1)
    return best.cpu().numpy(), place.cpu().numpy() + first


def _stacked(parts: tuple[_Ranked, ...]) -> _Ranked:
    scores, places = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(places)


def _merged(known: _Ranked, new: _Ranked, level: float) -> NDArray[np.int64]:
    """Return the best of both, shape (U, K), -1 behind the last."""
    scores = np.concatenate([known[0], new[0] + np.float32(level)], axis=1)
    places = np.concatenate([known[1], new[1]], axis=1)
    places = np.where(np.isfinite(scores), places, -1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(places, order, axis=1)


def _contexts(dataset: Dataset, cut: Split, users: NDArray[np.int64]) -> Tensor | None:
    """Return the context of the first held-out interaction of each user."""
    if dataset.context is None:
        return None
    mine = marked(len(dataset.user_ids), users)
    later = np.flatnonzero(~cut.train & mine[dataset.user])
    later = later[np.lexsort((dataset.time[later], dataset.user[later]))]
    _, first = np.unique(dataset.user[later], return_index=True)
    return torch.from_numpy(dataset.context[later[first]].astype(np.int64))
