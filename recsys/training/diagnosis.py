"""Why a loss is not a number: the batch, the items and the feature to look at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import TrainingError
from recsys.training.dataset import Dataset
from recsys.training.features import EncodedSide
from recsys.training.model import Towers
from recsys.training.rows import QueryRows
from recsys.training.step import Step

_NAMED = 5
_HINT = "Lower train.lr, or raise train.tau."


def broken(
    loss: float,
    epoch: int,
    number: int,
    step: Step,
    towers: Towers,
    dataset: Dataset,
    rows: QueryRows,
) -> TrainingError:
    """Return the error that names a step whose numbers are not finite, and the culprit.

    Args:
        loss: What it is.
        epoch: Counted from 1.
        number: Of the step in the epoch, counted from 1.
        step: What the step compared.
        towers: As the step found them.
        dataset: Names users, items and features.
        rows: Names the trained items.
    """
    users = [dataset.user_ids[u] for u in _distinct(step.user)]
    places = step.batch.positives
    if step.used is not None:
        places = step.used.rows[places]
    items = [dataset.item_ids[int(rows.items[place])] for place in _distinct(places)]
    causes = [*_inputs(step, dataset, rows), *_weights(towers, dataset, rows)]
    because = f": {causes[0]}" if causes else ""
    what = "the weights broke" if math.isfinite(loss) else f"the loss is {loss}"
    return TrainingError(
        f"{what} in epoch {epoch}, step {number}{because}; "
        f"the batch has users {_some(users)} and items {_some(items)}",
        hint="Look at that value in the source." if _from_data(causes) else _HINT,
    )


def _from_data(causes: Sequence[str]) -> bool:
    return bool(causes) and "weights" not in causes[0]


def _inputs(step: Step, dataset: Dataset, rows: QueryRows) -> Iterator[str]:
    """Name the inputs of the step that are not finite."""
    if not bool(torch.isfinite(step.batch.bias).all()):
        yield "the popularity of an item is not finite"
    used = step.used
    if dataset.items is not None and used is not None and used.content is not None:
        content = used.content.rows.cpu().numpy()
        yield from _features(dataset.items, content, dataset.item_ids)
    if dataset.users is not None:
        yield from _features(dataset.users, step.user.cpu().numpy(), dataset.user_ids)
    if dataset.contexts is not None and step.context is not None:
        yield from _features(dataset.contexts, step.context.cpu().numpy(), None)


def _features(
    side: EncodedSide, chosen: NDArray[np.int64], ids: Sequence[object] | None
) -> Iterator[str]:
    """Name the features of some rows that are not finite."""
    for name, first, width in _columns(side):
        values = side.dense[chosen, first : first + width]
        odd = chosen[~np.isfinite(values).all(1)]
        if odd.size:
            whose = "" if ids is None else f" of {side.side} {ids[int(odd[0])]!r}"
            yield f"the feature {name!r}{whose} is not finite"


def _columns(side: EncodedSide) -> Iterator[tuple[str, int, int]]:
    """Return name, first column and width of each dense feature."""
    first = 0
    # Vectors come behind everything else.
    for vectors in (False, True):
        for feature in side.fitted.features:
            if feature.dense_width and feature.feature.is_vector is vectors:
                yield feature.feature.name, first, feature.dense_width
                first += feature.dense_width


def _weights(towers: Towers, dataset: Dataset, rows: QueryRows) -> Iterator[str]:
    """Name the learned weights that are not finite."""
    for table, what in ((towers.served, "served"), (towers.history, "history-side")):
        sound = torch.isfinite(table.detach().square().sum(1))
        odd = np.flatnonzero(~sound.cpu().numpy()).tolist()
        if odd:
            ids = [dataset.item_ids[int(rows.items[place])] for place in odd]
            yield f"the {what} weights of items {_some(ids)} are not finite"
    for name, value in towers.named().items():
        if not _sound(value):
            side, _, part = name.partition(".")
            feature = part.removesuffix(".table")
            of = f"{side} feature {feature!r}" if part.endswith(".table") else name
            yield f"the weights of {of} are not finite"


def finite(towers: Towers) -> bool:
    """Say whether every weight is a number whose square is one, too."""
    return all(_sound(value) for value in towers.parameters())


def _sound(value: Tensor) -> bool:
    # Vectors are normalised, so a length that overflows is as bad as NaN.
    return bool(torch.isfinite(value.detach().square().sum()))


def _distinct(values: Tensor) -> list[int]:
    return np.unique(values.cpu().numpy()).tolist()


def _some(ids: Sequence[object]) -> str:
    shown = ", ".join(repr(one) for one in ids[:_NAMED])
    more = len(ids) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
