"""Cutting a validation slice off the interactions without a look into the future."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.config import TrainConfig
from recsys.popularity import DAY_S
from recsys.training.blocks import by_user, marked, pair_keys, slices
from recsys.training.dataset import Dataset

# Share of the interactions that is held out for the sake of a long horizon.
_MOST = 1 / 3
# Times are counted in so many equal spans before those of one span are ordered.
_SPANS = 65_536


@dataclass(frozen=True, slots=True)
class Split:
    """A part to learn from and what its users chose next.

    Attributes:
        train: Marks the interactions to learn from, shape (n,), bool.
        end: The end of the training part in seconds since 1970, None without times.
        users: Users to evaluate: users that have taste in the training part and
            hits in the held-out part, shape (U,), int64.
        relevant: Items each of them chose, none of them seen before, U arrays.
        context: Context of the first hit of each user, shape (U,), int64; None
            without context features.
        by_time: Whether the held-out part is the latest one.
    """

    train: NDArray[np.bool_]
    end: float | None
    users: NDArray[np.int64]
    relevant: list[NDArray[np.int64]]
    context: NDArray[np.int64] | None
    by_time: bool


def split(dataset: Dataset, share: float, seed: int, serves_s: float = 0.0) -> Split:
    """Hold out the latest share of the interactions, or a random share per user.

    Args:
        dataset: The interactions.
        share: Share to hold out, in (0, 0.5).
        seed: Of the random choice, used only when times are unknown or all equal.
        serves_s: How long a version is to serve. Twice as long is held out, where
            that is no more than a third of the interactions, so that what came within
            that time is known of several days.

    Returns:
        The split; without anyone to evaluate, ``users`` is empty.
    """
    cut = _cut(dataset, share, serves_s)
    if cut is None:
        return judged(dataset, ~_random(dataset, share, seed), None)
    # Unknown times go to the past: they say nothing about what comes after the cut.
    late = np.isfinite(dataset.time) & (dataset.time >= cut)
    return judged(dataset, ~late, cut)


def held_out(dataset: Dataset, config: TrainConfig) -> Split:
    """Hold out what a training with these settings validates on."""
    serves_s = horizon_s(dataset, config.validation, config.horizon_days)
    return split(dataset, config.validation, config.seed, serves_s)


def begins_at(dataset: Dataset, config: TrainConfig) -> float | None:
    """Return from when on ``held_out`` holds out, None where that is a random share."""
    serves_s = horizon_s(dataset, config.validation, config.horizon_days)
    return _cut(dataset, config.validation, serves_s)


def _cut(dataset: Dataset, share: float, serves_s: float) -> float | None:
    """Return the time from which on interactions are held out, None when unusable."""
    known = Times(dataset.time)
    if known.count < 2 or known.count < len(dataset) / 2 or known.first == known.last:
        return None
    cut = known.at(min(int(known.count * (1 - share)), known.count - 1))
    if serves_s:
        earliest = known.at(int(known.count * (1 - max(share, _MOST))))
        cut = min(cut, max(earliest, known.last - 2 * serves_s))
    # Everything at one instant stays together; never the whole set.
    return cut if cut > known.first else known.after(cut)


class Times:
    """Known times in ascending order, without another array of them.

    Attributes:
        count: How many there are.
        first: The earliest.
        last: The latest.
    """

    def __init__(self, time: NDArray[np.float64]) -> None:
        self._time = time
        self.count, self.first, self.last = 0, np.inf, -np.inf
        for known in self._parts():
            self.count += len(known)
            self.first = min(self.first, float(known.min(initial=np.inf)))
            self.last = max(self.last, float(known.max(initial=-np.inf)))

    def at(self, rank: int) -> float:
        """Return the time that has ``rank`` others before it."""
        counts = np.zeros(_SPANS, np.int64)
        for known in self._parts():
            counts += np.bincount(self._span(known), minlength=_SPANS)
        ends = counts.cumsum()
        span = int(np.searchsorted(ends, rank, "right"))
        place = rank - int(ends[span] - counts[span])
        parts = [known[self._span(known) == span] for known in self._parts()]
        return float(np.partition(np.concatenate(parts), place)[place])

    def after(self, time: float) -> float:
        """Return the earliest time after one."""
        later = [known[known > time].min(initial=np.inf) for known in self._parts()]
        return float(min(later))

    def all_after(self, time: float) -> NDArray[np.float64]:
        """Return the times after one in ascending order."""
        return np.sort(np.concatenate([known[known > time] for known in self._parts()]))

    def longest_gap(self, end: float) -> float:
        """Return the longest time between two neighbours up to ``end``, in seconds.

        To a 65,536th of the time from the first to the last, and never too short.
        """
        filled = np.zeros(_SPANS, np.bool_)
        for known in self._parts():
            filled[self._span(known[known <= end])] = True
        spans = int(np.diff(np.flatnonzero(filled)).max(initial=0))
        return (spans + 1) * (self.last - self.first) / _SPANS

    def _span(self, known: NDArray[np.float64]) -> NDArray[np.int64]:
        share = (known - self.first) / (self.last - self.first)
        return np.minimum(share * _SPANS, _SPANS - 1).astype(np.int64)

    def _parts(self) -> Iterator[NDArray[np.float64]]:
        for part in slices(len(self._time)):
            some = self._time[part]
            yield some[np.isfinite(some)]


def horizon_s(dataset: Dataset, share: float, days: float) -> float:
    """Return for how long a version is chosen to serve, in seconds.

    Args:
        dataset: The interactions.
        share: Of the latest ones; it takes as long as they took where nothing is said.
        days: What is said; 0 is nothing.

    Returns:
        0 where times are unknown or all equal.
    """
    cut = _cut(dataset, share, 0.0)
    if cut is None:
        return 0.0
    return days * DAY_S or Times(dataset.time).last - cut


def _random(dataset: Dataset, share: float, seed: int) -> NDArray[np.bool_]:
    """Mark about the share of each user's pairs, at least one of them left out."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(dataset), np.bool_)
    for _, places in by_user(dataset, np.ones(len(dataset), np.bool_)):
        pairs = pair_keys(dataset, places)
        held[places] = _some(pairs, len(dataset.item_ids), share, rng)
    return held


def _some(
    pairs: NDArray[np.int64], items: int, share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Mark about a share of the pairs of each user; those of one pair are together."""
    distinct, place = np.unique(pairs, return_inverse=True)
    user = distinct // max(items, 1)
    order = np.lexsort((rng.random(len(distinct)), user))
    _, first, counts = np.unique(user, return_index=True, return_counts=True)
    rank = np.arange(len(distinct)) - np.repeat(first, counts)
    wanted = np.floor(counts * share + rng.random(len(counts))).astype(np.int64)
    wanted = np.minimum(wanted, counts - 1)
    held = np.zeros(len(distinct), np.bool_)
    held[order] = rank < np.repeat(wanted, counts)
    return held[place.reshape(-1)]


def judged(
    dataset: Dataset,
    train: NDArray[np.bool_],
    end: float | None,
    items: NDArray[np.int64] | None = None,
) -> Split:
    """Find who can be evaluated, and on what: the hits among what is not ``train``.

    Args:
        dataset: The interactions.
        train: Marks those to learn from, shape (n,).
        end: Their end in seconds since 1970, None without times.
        items: Those that can be found; by default those somebody has taste for in the
            training part.
    """
    taste = train & (dataset.kind_weight > 0)[dataset.kind]
    found = dataset.item[taste] if items is None else items
    hit = ~train & dataset.target
    hit &= marked(len(dataset.item_ids), found)[dataset.item]
    hit &= marked(len(dataset.user_ids), dataset.user[taste])[dataset.user]
    users: list[NDArray[np.int64]] = []
    relevant: list[NDArray[np.int64]] = []
    context: list[NDArray[np.int64]] = []
    for places in new_hits(dataset, train, hit):
        some, start = np.unique(dataset.user[places], return_index=True)
        users.append(some.astype(np.int64))
        relevant += np.split(dataset.item[places].astype(np.int64), start[1:])
        if dataset.context is not None:
            by_time = places[np.lexsort((dataset.time[places], dataset.user[places]))]
            context.append(dataset.context[by_time[start]].astype(np.int64))
    nobody = np.zeros(0, np.int64)
    return Split(
        train=train,
        end=end,
        users=np.concatenate([nobody, *users]),
        relevant=relevant,
        context=(
            None if dataset.context is None else np.concatenate([nobody, *context])
        ),
        by_time=end is not None,
    )


def new_hits(
    dataset: Dataset, train: NDArray[np.bool_], hit: NDArray[np.bool_]
) -> Iterator[NDArray[np.int64]]:
    """Yield where users first chose what they did not have, some users at a time.

    Args:
        dataset: The interactions.
        train: Marks what users had, shape (n,).
        hit: Marks what they chose later, likewise.

    Yields:
        Places by user and item, one per pair, never none.
    """
    asked = np.flatnonzero(marked(len(dataset.user_ids), dataset.user[hit]))
    for _, places in by_user(dataset, train | hit, asked):
        had = np.unique(pair_keys(dataset, places[train[places]]))
        later = places[hit[places]]
        later = later[~np.isin(pair_keys(dataset, later), had)]
        pair = pair_keys(dataset, later)
        order = np.lexsort((dataset.time[later], pair))
        _, first = np.unique(pair[order], return_index=True)
        if len(first):
            yield later[order][first]
