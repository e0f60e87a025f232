"""Full-catalogue ranking of the validation slice during training."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recsys.training.dataset import Dataset
from recsys.training.lean import Lean, fit_lean
from recsys.training.metrics import ranking_metrics
from recsys.training.model import Towers
from recsys.training.ragged import Selection
from recsys.training.rerank import CANDIDATES, closeness
from recsys.training.rows import QueryRows
from recsys.training.split import Split

K = 20
# One evaluation ranks at most this many (user, item) pairs: about a second.
_PAIRS = 250_000_000
_FEWEST_USERS = 500
_MOST_USERS = 6_000
_USERS_PER_STEP = 256
_ITEMS_PER_STEP = 8_192
# Of the vectors or the products of a step that ranks again: 64 MB each.
_RERANKED_VALUES = 2**24
_LEAN_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Vectors:
    """Tower outputs for the trained items.

    Attributes:
        served: Unit vectors, shape (T, d).
        history: History-side rows, shape (T, d).
    """

    served: Tensor
    history: Tensor


@torch.no_grad()
def item_vectors(towers: Towers, rows: QueryRows) -> Vectors:
    """Compute both vectors of every trained item."""
    served, history = towers.served.detach(), towers.history.detach()
    if towers.item is not None:
        items = torch.from_numpy(rows.items)
        content = [
            towers.item_rows(items[first : first + _ITEMS_PER_STEP])
            for first in range(0, len(items), _ITEMS_PER_STEP)
        ]
        served = served + torch.cat([part[0] for part in content])
        history = history + torch.cat([part[1] for part in content])
    return Vectors(F.normalize(served, dim=1, eps=1e-12), history)


@torch.no_grad()
def sample_vectors(towers: Towers, rows: QueryRows, most: int = 2048) -> Tensor:
    """Return item vectors as they are served, of items spread evenly, (n, d)."""
    count = len(rows.items)
    places = torch.linspace(0, count - 1, min(most, count)).long()
    out = towers.served.detach()[places]
    if towers.item is not None:
        out = out + towers.item_rows(torch.from_numpy(rows.items)[places])[0]
    return F.normalize(out, dim=1, eps=1e-12)


@torch.no_grad()
def queries(
    towers: Towers,
    rows: QueryRows,
    vectors: Vectors,
    user: Tensor,
    context: Tensor | None,
) -> Tensor:
    """Compute the queries of users (0 to U) from their full history; see ``Towers``."""
    history = rows.history.take(user)
    taste = towers.taste(vectors.history, history)
    features = torch.from_numpy(rows.users)[user]
    return towers.query(taste, history.counts == 0, features, context)


def lean_of(
    towers: Towers, rows: QueryRows, bias: Tensor, strength: float, seed: int
) -> Lean:
    """Fit how much popularity counts for a query, to some of the query rows.

    Args:
        towers: The fit.
        rows: What it was fitted to.
        bias: Popularity dimension of each trained item, shape (T,).
        strength: As the validation slice chose it; 0 is the same for everyone.
        seed: Of the choice of rows.
    """
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(rows.user), generator=generator)[:_LEAN_ROWS]
    user = rows.user[some]
    context = None if rows.context is None else rows.context[some]
    query = queries(towers, rows, item_vectors(towers, rows), user, context)
    return fit_lean(query, rows.history.take(user), bias, strength)


def nearest(query: Tensor, vectors: Tensor) -> Tensor:
    """Return inner products, shape (B, T); of several queries the greatest."""
    dot = query @ vectors.T
    return dot.amax(1) if dot.dim() == 3 else dot


class Judge:
    """Ranks the whole trained catalogue for the users of a split.

    Args:
        dataset: All the data.
        rows: The training part, with the histories to rank by.
        cut: The split.
        seed: Of the choice of users, where there are too many.
        most: How many are too many; by default what takes about a second.

    Attributes:
        users: Number of users that are evaluated.
        user: Their places among the users of the rows, shape (U,), int64.
        relevant: Places of what each chose among the trained items, U arrays.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: QueryRows,
        cut: Split,
        seed: int,
        most: int | None = None,
    ) -> None:
        if most is None:
            most = max(_FEWEST_USERS, min(_MOST_USERS, _PAIRS // len(rows.items)))
        chosen = np.arange(len(cut.users))
        if len(chosen) > most:
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(len(chosen), most, replace=False))
        self.users = len(chosen)
        self._rows = rows
        self.user = torch.from_numpy(np.searchsorted(rows.users, cut.users[chosen]))
        self.relevant = [np.searchsorted(rows.items, cut.relevant[i]) for i in chosen]
        self._context = (
            None if cut.context is None else torch.from_numpy(cut.context[chosen])
        )

    def score(self, towers: Towers, biases: Tensor) -> list[dict[str, float]]:
        """Return the metrics under each of G item biases, shape (G, T)."""
        return [self.metrics(ranked) for ranked in self.rank(towers, biases)]

    def rank(self, towers: Towers, biases: Tensor) -> NDArray[np.int64]:
        """Return the lists under each of G item biases, shape (G, U, K)."""
        vectors = item_vectors(towers, self._rows)
        query = queries(towers, self._rows, vectors, self.user, self._context)
        lists = [
            _best(
                nearest(query[part], vectors.served),
                biases,
                self._rows.seen.take(users),
            )
            for part, users in self._parts()
        ]
        return np.concatenate(lists, axis=1)

    def lean(
        self, towers: Towers, bias: Tensor, leans: Sequence[Lean]
    ) -> NDArray[np.int64]:
        """Return the lists when popularity counts more for those who lean to it.

        Args:
            towers: The fit.
            bias: Popularity dimension, shape (T,).
            leans: From ``lean_of``, S of them.

        Returns:
            Shape (S, U, K).
        """
        vectors = item_vectors(towers, self._rows)
        query = queries(towers, self._rows, vectors, self.user, self._context)
        found: list[NDArray[np.int64]] = []
        for lean in leans:
            lists = [
                _best(
                    _leaning(query[part], vectors.served, bias, lean),
                    torch.zeros_like(bias).unsqueeze(0),
                    self._rows.seen.take(users),
                )
                for part, users in self._parts()
            ]
            found.append(np.concatenate(lists, axis=1)[0])
        return np.stack(found)

    def some(self, most: int) -> Judge:
        """Return a judge of so many of the users at most, spread evenly."""
        step = -(-self.users // most)
        if step <= 1:
            return self
        other = copy(self)
        other.user, other.relevant = self.user[::step], self.relevant[::step]
        other.users = len(other.relevant)
        other._context = None if self._context is None else self._context[::step]
        return other

    @torch.no_grad()
    def rerank(
        self, towers: Towers, bias: Tensor, lean: Lean, temperatures: Sequence[float]
    ) -> NDArray[np.int64]:
        """Return the lists when the first are ranked again by single items.

        Args:
            towers: The fit; its queries are means of histories.
            bias: Popularity dimension, shape (T,).
            lean: From ``lean_of``.
            temperatures: See ``training.rerank``; 0 leaves the first as they are.

        Returns:
            Shape (S, U, K).
        """
        vectors = item_vectors(towers, self._rows)
        query = queries(towers, self._rows, vectors, self.user, self._context)
        found: list[list[NDArray[np.int64]]] = [[] for _ in temperatures]
        longest = int(self._rows.history.start.diff().max())
        each = max((longest + CANDIDATES) * query.shape[-1], 4 * CANDIDATES * longest)
        most = _RERANKED_VALUES // each
        for part, users in self._parts(max(1, min(most, _USERS_PER_STEP))):
            score = _leaning(query[part], vectors.served, bias, lean)
            seen = self._rows.seen.take(users)
            score[seen.owner, seen.values] = -torch.inf
            first = torch.topk(score, min(CANDIDATES, score.shape[1]), dim=1)
            history = self._rows.history.take(users)
            close = closeness(vectors.history, history, vectors.served, first.indices)
            for lists, temperature in zip(found, temperatures, strict=True):
                again = first.values
                if temperature:
                    again = again + close.bonus(temperature)
                best = torch.topk(again, min(K, again.shape[1]), dim=1)
                place = first.indices.gather(1, best.indices)
                lists.append(torch.where(best.values == -torch.inf, -1, place).numpy())
        return np.stack([np.concatenate(lists) for lists in found])

    def floor(self, popularity: Tensor) -> NDArray[np.int64]:
        """Return lists by one ranking for everyone, (U, K); popularity is (T,)."""
        lists = [
            _best(
                torch.zeros(len(users), len(popularity)),
                popularity.unsqueeze(0),
                self._rows.seen.take(users),
            )
            for _, users in self._parts()
        ]
        return np.concatenate(lists, axis=1)[0]

    def metrics(self, ranked: NDArray[np.int64]) -> dict[str, float]:
        """Return the metrics of lists, shape (U, K)."""
        return ranking_metrics(ranked, self.relevant, K)

    def _parts(self, most: int = _USERS_PER_STEP) -> list[tuple[slice, Tensor]]:
        parts = [slice(first, first + most) for first in range(0, self.users, most)]
        return [(part, self.user[part]) for part in parts]


def _leaning(query: Tensor, served: Tensor, bias: Tensor, lean: Lean) -> Tensor:
    """Return scores where popularity counts as the direction says, shape (B, T)."""
    last = lean.coordinate(query)
    last = last.amax(1) if last.dim() > 1 else last  # of interests all are 1
    return nearest(query, served) + last.unsqueeze(1) * bias


def _best(dot: Tensor, biases: Tensor, seen: Selection) -> NDArray[np.int64]:
    """Return the best unseen items under each bias, -1 behind the last; (G, B, K)."""
    dot[seen.owner, seen.values] = -torch.inf
    out: list[Tensor] = []
    for bias in biases:
        score, place = torch.topk(dot + bias, min(K, dot.shape[1]), dim=1)
        out.append(torch.where(score == -torch.inf, -1, place))
    return torch.stack(out).numpy()
