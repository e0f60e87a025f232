"""What is wrong with the features, said before a long fit instead of after it.

Nothing here stops a training, but for tables that could not be published: a constant
column is useless, not wrong, and what looks like a leak may be meant.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.encoder.fit import FittedFeature
from recsys.encoder.graph import LARGEST_MODEL
from recsys.encoder.values import Side
from recsys.errors import TrainingError
from recsys.training.dataset import Dataset
from recsys.training.features import EncodedSide
from recsys.training.rows import QueryRows

logger = logging.getLogger(__name__)

_RARE = 0.9
# Rank correlation with the number of users from which on a number counts them.
_COUNTS = 0.95
# Share of the interactions whose item the value of a feature gives away.
_NAMES = 0.95
_LEAST = 50
_SAMPLE = 200_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One warning.

    Attributes:
        side: "item", "user" or "context".
        feature: Its name; "" is about all of them.
        problem: "constant", "missing", "identical", "rare", "full", "counts" or
            "names".
        message: One sentence, with what to do.
    """

    side: Side
    feature: str
    problem: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable copy."""
        return asdict(self)


def check(dataset: Dataset, rows: QueryRows) -> list[Finding]:
    """Return what is wrong with the features of a data set."""
    found: list[Finding] = []
    for side in (dataset.items, dataset.users, dataset.contexts):
        if side is not None and len(side) > 1:
            found += _useless(side)
    if dataset.items is not None:
        found += _counting(dataset.items, rows)
    if dataset.users is not None:
        found += _naming(dataset, dataset.users, dataset.user)
    if dataset.contexts is not None and dataset.context is not None:
        found += _naming(dataset, dataset.contexts, dataset.context)
    return found


def warn(
    dataset: Dataset, rows: QueryRows, leaks: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Log what is wrong with the features; returns it for the report.

    That a feature counts users is not said of ``leaks``, which were named already.
    """
    found = check(dataset, rows)
    findings = [f for f in found if f.problem != "counts" or f.feature not in leaks]
    for finding in findings:
        logger.warning("%s", finding.message)
    return [finding.to_dict() for finding in findings]


def check_size(dataset: Dataset, dim: int) -> None:
    """Refuse tables that no tower could hold.

    Raises:
        TrainingError: The tables of a side would take more than an artifact may.
    """
    side = too_large(dataset, dim)
    if side is None:
        return
    sizes = side.fitted.table_sizes
    widest = max(sizes, key=lambda name: sizes[name])
    raise TrainingError(
        f"the {side.side} features need {sum(sizes.values()):,} learned rows of"
        f" {dim} numbers, most of them {widest!r}: more than an artifact holds",
        hint=f"Lower max_size or buckets of {widest!r}, or train.dim.",
    )


def too_large(dataset: Dataset, dim: int) -> EncodedSide | None:
    """Return the side whose tables would take more than an artifact may, if any."""
    for side in (dataset.items, dataset.users, dataset.contexts):
        if side is not None:
            rows = sum(side.fitted.table_sizes.values())
            if 4 * dim * rows > LARGEST_MODEL:
                return side
    return None


def _useless(side: EncodedSide) -> Generator[Finding]:
    """Find features that tell no row from another."""
    constant: list[Finding] = []
    for feature in side.fitted.features:
        name, problem = feature.feature.name, ""
        values = _tokens(side, name) if feature.table_rows else _dense(side, feature)
        if not values.any():
            problem = "missing"
            message = f"{name!r} is missing in every row"
        elif (values == values[:1]).all():
            problem = "constant"
            message = f"{name!r} is the same in every row"
        else:
            yield from _vocabulary(side, feature)
            continue
        text = f"{side.side} feature {message}: it tells nothing; remove it"
        constant.append(Finding(side.side, name, problem, text))
    if len(constant) == len(side.fitted.features) and len(constant) > 1:
        text = f"all {side.side} features together are the same in every row"
        if side.side == "item":
            text += ": every new item will get the same vector"
        yield Finding(side.side, "", "identical", text)
    yield from constant


def _vocabulary(side: EncodedSide, feature: FittedFeature) -> Generator[Finding]:
    declared = feature.feature
    if declared.type not in ("category", "categories"):
        return
    name, index = declared.name, side.tokens[declared.name].index
    rare = float((index == 1).mean()) if len(index) else 0.0
    if rare > _RARE:
        yield Finding(
            side.side,
            name,
            "rare",
            f"{rare:.0%} of the values of {side.side} feature {name!r} occur less than"
            f" min_count = {declared.min_count} times and share one row: it names rows"
            " instead of describing them",
        )
    elif len(feature.vocabulary) >= declared.max_size:
        yield Finding(
            side.side,
            name,
            "full",
            f"{side.side} feature {name!r} has more values than"
            f" max_size = {declared.max_size:,}: the rarer ones share one row",
        )


def _counting(side: EncodedSide, rows: QueryRows) -> Generator[Finding]:
    """Find numbers of an item that count its users, also those still to come."""
    popularity = rows.pop.cpu().numpy()
    if len(popularity) < _LEAST:
        return
    numbers = [f for f in side.fitted.features if f.feature.type == "number"]
    for place, feature in enumerate(numbers):
        value = side.dense[rows.items, place]
        if abs(_rank_correlation(value, popularity)) >= _COUNTS:
            name = feature.feature.name
            yield Finding(
                "item",
                name,
                "counts",
                f"item feature {name!r} orders the items as the number of their users"
                " does: if it is counted over all time it knows the future of the"
                " validation slice, and of new items it says nothing",
            )


def _naming(
    dataset: Dataset, side: EncodedSide, row: NDArray[np.int32]
) -> Generator[Finding]:
    """Find features whose value gives away which item is chosen."""
    places = np.flatnonzero(dataset.weight > 0)
    if len(places) > _SAMPLE:
        places = np.random.default_rng(0).choice(places, _SAMPLE, replace=False)
    if len(places) < _LEAST:
        return
    item, numbers = dataset.item[places], 0
    for feature in side.fitted.features:
        declared = feature.feature
        if declared.type == "category":
            values = _tokens(side, declared.name)[:, 0].astype(np.float64)
        elif declared.type == "number":
            values = side.dense[:, numbers].astype(np.float64)
            numbers += 1
        else:
            continue
        # Whoever has a row of their own is told apart by anything.
        _, group = np.unique(values, return_inverse=True)
        if _purity(group.reshape(-1)[row[places]], item) >= _NAMES:
            yield Finding(
                side.side,
                declared.name,
                "names",
                f"the value of {side.side} feature {declared.name!r} says which item is"
                " chosen: if it is known only afterwards, it is the answer itself",
            )


def _purity(group: NDArray[np.int64], item: NDArray[np.int32]) -> float:
    """Return the share that the most frequent item of each group has.

    Groups of one interaction are left out; 0 when little is left, or one item alone.
    """
    sizes = np.bincount(group)
    kept = sizes[group] > 1
    group, item = group[kept], item[kept]
    if len(group) < _LEAST or len(np.unique(item)) < 2 or len(np.unique(group)) < 2:
        return 0.0
    width = int(item.max()) + 1
    pair, count = np.unique(group.astype(np.int64) * width + item, return_counts=True)
    most = np.zeros(len(sizes), np.int64)
    np.maximum.at(most, pair // width, count)
    return float(most.sum() / len(group))


def _rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return Spearman's coefficient, with mean ranks of ties; 0 for a constant."""
    x, y = _ranks(a), _ranks(b)
    if not x.std() or not y.std():
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place.reshape(-1)]


def _tokens(side: EncodedSide, name: str) -> NDArray[np.int64]:
    """Return one number per row and token place, 0 behind the last; shape (N, T)."""
    tokens = side.tokens[name]
    counts = np.diff(tokens.start)
    # Beyond the first few places rows that differ differ there, too, or nearly never.
    most = min(8, int(counts.max(initial=0)))
    out = np.zeros((len(counts), most + 1), np.int64)
    for place in range(most):
        has = counts > place
        out[has, place] = tokens.index[tokens.start[:-1][has] + place]
    out[:, most] = np.where(counts > most, counts, 0)
    return out


def _dense(side: EncodedSide, feature: FittedFeature) -> NDArray[np.float32]:
    """Return the columns that a feature fills, 0 where it is missing; shape (N, w)."""
    name, fitted = feature.feature.name, side.fitted
    if feature.feature.is_vector:
        return side.dense[:, fitted.vector_columns[name]]
    numbers = [f.feature.name for f in fitted.features if f.feature.type == "number"]
    if name in numbers:
        place = numbers.index(name)
        missing = side.dense[:, len(numbers) + place]
        return np.stack([side.dense[:, place], 1 - missing], 1)
    first = 2 * len(numbers)
    for other in (f for f in fitted.features if f.feature.type == "time"):
        if other.feature.name == name:
            break
        first += other.dense_width
    part = side.dense[:, first : first + feature.dense_width]
    return np.concatenate([part[:, :-1], 1 - part[:, -1:]], 1)
