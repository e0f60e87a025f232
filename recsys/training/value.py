"""The weight that the value of an interaction gives it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CAP_QUANTILE = 0.99


def value_weights(
    values: NDArray[np.float64], scale: str, cap: float
) -> NDArray[np.float32]:
    """Turn values, such as seconds watched or money spent, into weights of mean 1.

    Args:
        values: NaN where unknown, shape (n,).
        scale: "linear", or "log" for log(1 + value / median value).
        cap: Values above it count as it; 0 takes the 99th percentile.

    Returns:
        Shape (n,): 0 for values of 0 and below, and for an unknown value 1, the mean of
        the others.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    weight = np.ones(len(values), np.float32)
    if positive.size:
        limit = cap or float(np.quantile(positive, _CAP_QUANTILE))
        capped = np.clip(values, 0, limit)
        if scale == "log":
            middle = float(np.median(np.minimum(positive, limit)))
            capped = np.log1p(capped / middle)
        mean = float(capped[capped > 0].mean())
        weight = (capped / mean).astype(np.float32)
    weight[np.isnan(values)] = 1
    weight[values <= 0] = 0
    return weight
