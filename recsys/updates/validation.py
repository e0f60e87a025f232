"""Full-catalogue ranking of interactions by rows that have not learned from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys._tower import QueryTower
from recsys.updates.histories import PlacedEvents, padded
from recsys.updates.learner import Catalogue
from recsys.updates.objective import Float32, Places

K = 20
_K_HIT = 10
_MOST_USERS = 1000
_USERS_AT_ONCE = 128
_ITEMS_AT_ONCE = 50_000
_GROUP = 50


@dataclass(frozen=True, slots=True)
class Quality:
    """What some rows reach on some interactions, one value per user.

    Attributes:
        recall: Recall@20, shape (U,).
        ndcg: NDCG@20, shape (U,).
        hit_rate: Whether one of the first ten is a hit, shape (U,).
    """

    recall: NDArray[np.float64]
    ndcg: NDArray[np.float64]
    hit_rate: NDArray[np.float64]

    @classmethod
    def none(cls) -> Quality:
        """Return what nobody could be ranked for."""
        nothing = np.zeros(0)
        return cls(nothing, nothing, nothing)

    @property
    def users(self) -> int:
        """How many users were ranked for."""
        return len(self.ndcg)

    def means(self) -> dict[str, float | int]:
        """Return the mean of each metric, and the number of users."""
        if not self.users:
            return {"users": 0}
        return {
            "users": self.users,
            "recall": float(self.recall.mean()),
            "ndcg": float(self.ndcg.mean()),
            "hit_rate": float(self.hit_rate.mean()),
        }


class Examiner:
    """Ranks every item for users of a slice, from what they did before it.

    Args:
        events: Everything the users did.
        hits: (user, item) of the interactions of the slice that count as hits, by
            place; -1 is an item that no list can hold.
        before: When the slice begins, in seconds since 1970.
        most: Longest history.
        seed: Of the choice of users, where there are many.
    """

    def __init__(
        self,
        events: PlacedEvents,
        hits: tuple[Places, Places],
        before: float,
        most: int,
        seed: int = 0,
    ) -> None:
        self._history = events.taste(before, most)
        self._seen = events.seen(before)
        user, place = self._unmet(*hits)
        self.users = np.unique(user)
        if len(self.users) > _MOST_USERS:
            rng = np.random.default_rng(seed)
            chosen = rng.choice(len(self.users), _MOST_USERS, replace=False)
            self.users = self.users[np.sort(chosen)]
        self._relevant = [place[user == u] for u in self.users.tolist()]

    def _unmet(self, user: Places, place: Places) -> tuple[Places, Places]:
        """Leave out items that their user had met before, and repeats."""
        pairs = np.unique(np.stack([user, place]), axis=1) if len(user) else None
        if pairs is None:
            return user, place
        owner, entry = self._seen.take(pairs[0])
        met = self._seen.place[entry] == pairs[1][owner]
        keep = np.ones(pairs.shape[1], np.bool_)
        keep[owner[met]] = False
        return pairs[0][keep], pairs[1][keep]

    def examine(
        self,
        tower: QueryTower,
        rows: Float32,
        catalogue: Catalogue,
        columns: tuple[dict[str, list[object]], dict[str, list[object]]],
    ) -> Quality:
        """Rank by the query tower.

        Args:
            tower: The query tower, as it is served.
            rows: History-side rows, shape (M, d).
            catalogue: Item vectors.
            columns: Raw user and context features, by user of the events.
        """
        found: list[tuple[float, float, float]] = []
        for first in range(0, len(self.users), _USERS_AT_ONCE):
            part = slice(first, first + _USERS_AT_ONCE)
            users = self.users[part]
            history, weight = padded(self._history, rows, users)
            of_user, of_context = (_some(side, users) for side in columns)
            query = tower.encode(history, weight, of_user, of_context)
            best = self._best(query, catalogue, users)
            found += [
                _metrics(row, relevant)
                for row, relevant in zip(best, self._relevant[part], strict=True)
            ]
        values = np.array(found, np.float64).reshape(-1, 3)
        return Quality(values[:, 0], values[:, 1], values[:, 2])

    def _best(self, query: Float32, catalogue: Catalogue, users: Places) -> Places:
        """Return the best unseen items of each query, best first, shape (B, <= K)."""
        dim = catalogue.vectors.shape[1]
        count = len(catalogue.bias)
        owner, entry = self._seen.take(users)
        seen = self._seen.place[entry]
        scores: list[Float32] = []
        places: list[Places] = []
        for first in range(0, count, _ITEMS_AT_ONCE):
            last = min(first + _ITEMS_AT_ONCE, count)
            # What popularity counts for a query is its last coordinate.
            bias = catalogue.bias[first:last]
            listed = np.isfinite(bias)
            rows = catalogue.vectors[first:last].T.astype(np.float32)
            score = query[..., :dim] @ rows + query[..., dim:] * np.where(
                listed, bias, np.float32(0)
            )
            if score.ndim > 2:
                score = score.max(1)  # of several interests the nearest
            score[:, ~listed] = -np.inf
            inside = (seen >= first) & (seen < last)
            score[owner[inside], seen[inside] - first] = -np.inf
            at = highest(score, min(K, last - first))
            scores.append(np.take_along_axis(score, at, 1))
            places.append(at + first)
        score, place = np.concatenate(scores, 1), np.concatenate(places, 1)
        order = np.argsort(-score, axis=1, kind="stable")[:, :K]
        best = np.take_along_axis(place, order, 1)
        best[np.take_along_axis(score, order, 1) == -np.inf] = -2
        return best


def highest(score: Float32, k: int) -> Places:
    """Return the columns of the k highest of each row, in no order.

    The k highest are in the k groups of columns with the highest maxima, and a maximum
    is found much faster than an order.

    Args:
        score: Shape (B, n), n at least k.
        k: How many.

    Returns:
        Shape (B, k).
    """
    width = int(score.shape[1])
    groups = width // _GROUP
    if groups <= 2 * k:
        return np.argpartition(-score, k - 1, axis=1)[:, :k]
    grouped = groups * _GROUP
    maxima = score[:, :grouped].reshape(len(score), groups, _GROUP).max(2)
    best = np.argpartition(-maxima, k - 1, axis=1)[:, :k]
    columns = (best[:, :, None] * _GROUP + np.arange(_GROUP)).reshape(len(score), -1)
    rest = np.arange(grouped, width)
    columns = np.concatenate([columns, np.tile(rest, (len(score), 1))], axis=1)
    found = np.take_along_axis(score, columns, 1)
    at = np.argpartition(-found, k - 1, axis=1)[:, :k]
    return np.take_along_axis(columns, at, 1)


def paired_difference(
    before: Quality, trials: Sequence[Quality]
) -> tuple[float, float]:
    """Return by how much the best trial changes NDCG@20, and the standard error.

    Each half of the users is judged by the trial that is best for the other half: the
    best of several on the users that chose it is partly luck.

    Args:
        before: The rows as they are.
        trials: What they may become, for the same users; at least one.

    Returns:
        Mean and its standard error, infinite for fewer than two users.
    """
    users = before.users
    if users < 2:
        return 0.0, float("inf")
    difference = np.zeros(users)
    for half in (0, 1):
        judged = np.arange(users) % 2 == half
        best = max(trials, key=lambda trial: float(trial.ndcg[~judged].mean()))
        difference[judged] = best.ndcg[judged] - before.ndcg[judged]
    error = float(difference.std(ddof=1)) / float(np.sqrt(users))
    return float(difference.mean()), error


def _metrics(best: Places, relevant: Places) -> tuple[float, float, float]:
    hit = np.isin(best, relevant[relevant >= 0])
    discount = 1 / np.log2(np.arange(2, K + 2))
    most = min(K, len(relevant))
    ndcg = (hit * discount[: len(hit)]).sum() / discount[:most].sum()
    return hit.sum() / most, float(ndcg), float(hit[:_K_HIT].any())


def _some(columns: dict[str, list[object]], rows: Places) -> dict[str, list[object]]:
    return {name: [cells[r] for r in rows] for name, cells in columns.items()}
