"""Cutting a validation slice off the interactions without a look into the future."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.popularity import DAY_S
from recsys.training.dataset import Dataset

# Share of the interactions that is held out for the sake of a long horizon.
_MOST = 1 / 3


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
    return judged(dataset, ~(dataset.time >= cut), cut)


def _cut(dataset: Dataset, share: float, serves_s: float) -> float | None:
    """Return the time from which on interactions are held out, None when unusable."""
    time = np.sort(dataset.time[np.isfinite(dataset.time)])
    if time.size < 2 or time.size < len(dataset) / 2 or time[0] == time[-1]:
        return None
    cut = time[min(int(time.size * (1 - share)), time.size - 1)]
    if serves_s:
        earliest = time[int(time.size * (1 - max(share, _MOST)))]
        cut = min(cut, max(earliest, time[-1] - 2 * serves_s))
    # Everything at one instant stays together; never the whole set.
    return float(cut if cut > time[0] else time[np.searchsorted(time, cut, "right")])


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
    return days * DAY_S or float(np.nanmax(dataset.time)) - cut


def _random(dataset: Dataset, share: float, seed: int) -> NDArray[np.bool_]:
    """Mark about the share of each user's pairs, at least one of them left out."""
    pair = pair_keys(dataset)
    distinct, place = np.unique(pair, return_inverse=True)
    user = distinct // max(len(dataset.item_ids), 1)
    rng = np.random.default_rng(seed)
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
    pair = pair_keys(dataset)
    width = max(len(dataset.item_ids), 1)
    taste = train & (dataset.weight > 0)
    hit = ~train & dataset.target
    hit &= ~np.isin(pair, pair[train])
    hit &= np.isin(dataset.item, dataset.item[taste] if items is None else items)
    hit &= np.isin(dataset.user, dataset.user[taste])
    places = np.flatnonzero(hit)
    places = places[np.lexsort((dataset.time[places], pair[places]))]
    _, first = np.unique(pair[places], return_index=True)
    places = places[first]  # ordered by user, one per pair: its first time
    users, start = np.unique(pair[places] // width, return_index=True)
    relevant = np.split(dataset.item[places].astype(np.int64), start[1:])
    context = None
    if dataset.context is not None:
        by_time = places[np.lexsort((dataset.time[places], dataset.user[places]))]
        context = dataset.context[by_time[start]].astype(np.int64)
    return Split(
        train=train,
        end=end,
        users=users,
        relevant=relevant if len(users) else [],
        context=context,
        by_time=end is not None,
    )


def pair_keys(dataset: Dataset) -> NDArray[np.int64]:
    """Return one integer per (user, item), shape (n,)."""
    return dataset.user.astype(np.int64) * max(len(dataset.item_ids), 1) + dataset.item
