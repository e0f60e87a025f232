"""Item features that know the future.

A column such as "sold in total" or "last sold at" is read as it is today, also for the
training part of a split, and so tells the model what will be chosen after the cut. No
validation notices: the slice is as well informed. What gives such a column away is what
it is made of: the counts until the end of the data explain it, and those until the cut
do not.

    rest(Z) = what is left of the column's variance when Z explains it linearly
    known   = 1 - rest(counts until the cut and until the end) / rest(until the cut)

Counts are users, events, the decayed counts of the popularity dimension and the time of
the last event. A price or a brand may foretell demand, but counts do not explain it; a
count of the past is explained as well without the future. The check sees numbers, times
and categories of few values: not words, not vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.config import TrainConfig
from recsys.popularity import DAY_S, HALF_LIVES_D, PRIOR, decayed_counts
from recsys.training.blocks import slices, users_per_item
from recsys.training.dataset import Dataset
from recsys.training.features import EncodedSide, Tokens
from recsys.training.split import Split, held_out

logger = logging.getLogger(__name__)

# A column is suspicious when later counts halve what earlier ones leave unexplained,
# and counts explain most of it: it is made of them.
_KNOWN = 0.5
_MADE_OF = 0.6
_FEWEST_ITEMS = 100
_FEWEST_CHANGED = 30
_MOST_VALUES = 50

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leak:
    """A feature that knows the future.

    Attributes:
        feature: Its name.
        known: Share of what the past leaves open that the future explains, in [0, 1].
    """

    feature: str
    known: float

    def __str__(self) -> str:
        return (
            f"feature {self.feature} knows the future: what came after the cut of the"
            f" validation slice explains {self.known:.0%} of what the past does not."
            " Leave it out, or select it as of a fixed time"
        )


def find_leaks(dataset: Dataset, cut: Split) -> list[Leak]:
    """Return the item features that know what comes after the cut, worst first.

    Args:
        dataset: All the data.
        cut: Where the validation slice begins; without a time nothing can be said.
    """
    if cut.end is None or dataset.items is None or dataset.until is None:
        return []
    positive = (dataset.kind_weight > 0)[dataset.kind]
    past = _counts(dataset, cut.train & positive, cut.end)
    items = np.flatnonzero(past[:, 0])
    changed = np.unique(dataset.item[~cut.train & positive])
    if len(items) < _FEWEST_ITEMS or np.isin(items, changed).sum() < _FEWEST_CHANGED:
        return []
    every = np.concatenate([past, _counts(dataset, positive, dataset.until)], 1)
    before, after = _basis(past[items]), _basis(every[items])
    found: dict[str, float] = {}
    for name, column in _columns(dataset.items, items):
        spread = float(((column - column.mean()) ** 2).sum())
        if spread <= 1e-6 * len(column):
            continue
        earlier, later = _rest(column, before), _rest(column, after)
        if later <= (1 - _MADE_OF) * spread:
            found[name] = max(found.get(name, 0.0), 1 - later / max(earlier, 1e-12))
    leaks = [Leak(name, known) for name, known in found.items() if known >= _KNOWN]
    return sorted(leaks, key=lambda leak: -leak.known)


def warn_of_leaks(dataset: Dataset, config: TrainConfig) -> list[Leak]:
    """Find features that know what a training is validated on; log each by name."""
    if dataset.items is None or dataset.until is None:
        return []
    leaks = find_leaks(dataset, held_out(dataset, config))
    for leak in leaks:
        logger.warning("%s", leak, extra={"action": "leak", "feature": leak.feature})
    return leaks


def _counts(dataset: Dataset, chosen: NDArray[np.bool_], end: float) -> Float64Array:
    """Return what some events say of each item, shape (N, 3 + H)."""
    count = len(dataset.item_ids)
    events, last = np.zeros(count), np.full(count, -np.inf)
    faded = np.zeros((len(HALF_LIVES_D), count))
    for part in slices(len(dataset)):
        item = dataset.item[part][chosen[part]].astype(np.int64)
        time = dataset.time[part][chosen[part]]
        time = np.where(np.isfinite(time), time, -1e18)
        events += np.bincount(item, minlength=count)
        np.maximum.at(last, item, time)
        faded += decayed_counts(item, time, count, end)
    age = np.log1p(np.clip((end - last) / DAY_S, 0, 1e4))
    users = users_per_item(dataset, chosen)
    return np.stack([np.log1p(users), np.log1p(events), age, *np.log(faded + PRIOR)], 1)


def _basis(counts: Float64Array) -> Float64Array:
    """Return an orthonormal basis of 1, counts, their squares and ranks; (n, m)."""
    columns = (counts - counts.mean(0)) / np.maximum(counts.std(0), 1e-9)
    ranks = np.stack([_rank(column) for column in columns.T], 1)
    full = np.concatenate(
        [np.ones((len(counts), 1)), columns, columns**2, ranks - 0.5], 1
    )
    left, size, _ = np.linalg.svd(full, full_matrices=False)
    return left[:, size > 1e-9 * size[0]]


def _rest(column: Float64Array, basis: Float64Array) -> float:
    """Return the squares that a basis leaves of a column."""
    rest = column - basis @ (basis.T @ column)
    return float(rest @ rest)


def _columns(
    side: EncodedSide, items: NDArray[np.int64]
) -> Iterator[tuple[str, Float64Array]]:
    """Yield each feature as columns of numbers; a feature may have several."""
    features = side.fitted.features
    numbers = [fitted for fitted in features if fitted.feature.type == "number"]
    for place, fitted in enumerate(numbers):
        column = side.dense[items, place].astype(np.float64)
        # The order of a count says less than the count.
        yield fitted.feature.name, _rank(column)
        if fitted.feature.scale != "log":
            column = column * fitted.std + fitted.mean
            column = np.sign(column) * np.log1p(np.abs(column))
        yield fitted.feature.name, column
    first = 2 * len(numbers)  # values, then which are missing
    for fitted in features:
        name, width = fitted.feature.name, fitted.dense_width
        if fitted.feature.type == "time":
            for place in range(first, first + width):
                yield name, _rank(side.dense[items, place].astype(np.float64))
        elif fitted.feature.type == "category" and fitted.table_rows <= _MOST_VALUES:
            yield from ((name, column) for column in _values(side.tokens[name], items))
        first += width if fitted.feature.type == "time" else 0


def _values(tokens: Tokens, items: NDArray[np.int64]) -> Iterator[Float64Array]:
    """Yield for each value of a category which items have it."""
    tokens = tokens.rows(items)
    value = np.zeros(len(items), np.int64)
    has = np.diff(tokens.start) > 0
    value[has] = tokens.index[tokens.start[:-1][has]]
    for one in np.unique(value):
        yield (value == one).astype(np.float64)


def _rank(values: Float64Array) -> Float64Array:
    """Return places in ascending order, ties in the middle, as shares of 1."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2
    return middle[place.reshape(-1)] / len(values)
