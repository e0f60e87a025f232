"""What query rows are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.training.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Past:
    """Some of the interactions, and how they are looked at.

    Attributes:
        dataset: All interactions.
        keep: Marks the interactions to learn from, shape (n,).
        end: The end of that part in seconds since 1970, None without times.
        history: Most items of a user that make the query.
        half_life_s: Age at which an interaction weighs half as a target; 0: no decay.
    """

    dataset: Dataset
    keep: NDArray[np.bool_]
    end: float | None
    history: int
    half_life_s: float
