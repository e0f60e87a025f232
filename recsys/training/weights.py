"""How much each interaction counts as a target: by kind, value and age."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.training.dataset import Dataset

# However old, a target stays one.
_LEAST_DECAY = 1e-4


def target_weights(
    dataset: Dataset,
    places: NDArray[np.int64],
    end: float | None,
    half_life_s: float,
    unknown: float | None = None,
) -> NDArray[np.float32] | None:
    """Return the weight of some interactions as targets; None: the weight of taste.

    The history keeps the weight by kind, which is all that a request knows.

    Args:
        dataset: All the data.
        places: Which interactions, shape (m,).
        end: The time that ages count from; None without times.
        half_life_s: Age at which an interaction weighs half; 0: no decay.
        unknown: What one of unknown age weighs; None: the mean of these.

    Returns:
        Shape (m,); 0 where the value is 0 or negative. An unknown time counts as one
        of the mean weight.
    """
    if dataset.value is None and (not half_life_s or end is None):
        return None
    weight = dataset.weight[places]
    if dataset.value is not None:
        weight = weight * dataset.value[places]
    if half_life_s and end is not None:
        decay = decay_at(dataset.time[places], end, half_life_s)
        known = np.isfinite(decay)
        if unknown is None:
            unknown = float(decay[known].mean()) if known.any() else 1.0
        decay[~known] = unknown
        weight = weight * decay
    return weight.astype(np.float32)


def decay_at(
    time: NDArray[np.float64], end: float, half_life_s: float
) -> NDArray[np.float64]:
    """Return what interactions weigh by their age, NaN where it is unknown."""
    age = np.maximum(end - time, 0)
    decay = np.maximum(np.exp2(-age / half_life_s), _LEAST_DECAY)
    return np.where(np.isfinite(age), decay, np.nan)
