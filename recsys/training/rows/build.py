"""From interactions to query rows, some users at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recsys.config import TrainConfig
from recsys.popularity import DAY_S
from recsys.training.blocks import by_user
from recsys.training.dataset import Dataset
from recsys.training.own import neighbours_of
from recsys.training.rows.block import block_rows
from recsys.training.rows.collector import Collector
from recsys.training.rows.past import Past
from recsys.training.rows.trained import Trained
from recsys.training.rows.view import QueryRows


def fit_rows(
    dataset: Dataset, keep: NDArray[np.bool_], end: float | None, config: TrainConfig
) -> QueryRows:
    """Build the training view of some of the interactions, as the settings say.

    Args:
        dataset: All interactions.
        keep: Marks the interactions to learn from, shape (n,).
        end: The end of that part in seconds since 1970, None without times.
        config: Length of the histories, and how targets fade.

    Raises:
        TrainingError: No interaction of positive weight is among them.
    """
    half_life_s = config.half_life_days * DAY_S
    return query_rows(dataset, keep, end, config.history, half_life_s)


def query_rows(
    dataset: Dataset,
    keep: NDArray[np.bool_],
    end: float | None,
    history: int,
    half_life_s: float = 0.0,
    items: NDArray[np.int64] | None = None,
    *,
    counted: bool = True,
) -> QueryRows:
    """Build the training view of some of the interactions.

    Args:
        dataset: All interactions.
        keep: Marks the interactions to learn from, shape (n,).
        end: The end of that part in seconds since 1970, None without times.
        history: Most items of a user that make the query.
        half_life_s: Age at which an interaction weighs half as a target; 0: no decay.
        items: The trained items, ascending; by default those of positive weight.
        counted: Whether to count by time; otherwise ``decayed`` and ``periods`` are
            None, which only a fit and popularity need.

    Raises:
        TrainingError: No interaction of positive weight is among them.
    """
    past = Past(dataset, keep, end, history, half_life_s)
    trained = Trained.of(past, items)
    if not counted:
        trained = replace(trained, first=None)
    made = Collector(trained, end)
    for users, places in by_user(dataset, keep, trained.users):
        made.add(block_rows(past, trained, users, places))
    # Those of items, not of users: once is enough.
    return replace(made.rows(keep), neighbours=neighbours_of(dataset, trained.items))
