"""Means and covariances of per-user sums: all that the statistics need of the data.

A metric is the ratio of two sums over users, such as clicks / impressions; a mean per
user has the denominator 1. Users are independent of each other, events of one user are
not, so every variance is taken over users (the delta method).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.errors import ConfigError

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What one arm's users did, summed up.

    Attributes:
        users: Number of users.
        mean: Shape (4,): numerator, denominator, and both of the covariate.
        cov: Shape (4, 4): their sample covariance (divided by users - 1).
    """

    users: int
    mean: Vector
    cov: Vector

    @property
    def ratio(self) -> float | None:
        """The metric: sum of numerators over sum of denominators."""
        return _ratio(self.mean[0], self.mean[1])

    @property
    def covariate(self) -> float | None:
        """The metric before the experiment."""
        return _ratio(self.mean[2], self.mean[3])


def _ratio(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator > 0 else None


def from_users(
    numerator: ArrayLike,
    denominator: ArrayLike | None = None,
    covariate: ArrayLike | None = None,
    covariate_denominator: ArrayLike | None = None,
) -> Moments:
    """Sum up one value per user.

    Args:
        numerator: Shape (U,), such as clicks of each user.
        denominator: Shape (U,), such as impressions of each user; None: a mean per
            user.
        covariate: Shape (U,), the numerator in the time before the experiment.
        covariate_denominator: Shape (U,), the denominator in that time; None: 1.

    Returns:
        The moments of these users.

    Raises:
        ConfigError: The arrays differ in length or hold values that are not finite.

    Example:
        >>> from_users([1, 0, 2], [10, 5, 5]).ratio
        0.15
    """
    first = np.asarray(numerator, dtype=np.float64)
    ones = np.ones_like(first)
    rows = [
        first,
        *(
            fallback if values is None else np.asarray(values, dtype=np.float64)
            for values, fallback in (
                (denominator, ones),
                (covariate, ones * 0),
                (covariate_denominator, ones),
            )
        ),
    ]
    if any(row.shape != first.shape or row.ndim != 1 for row in rows):
        raise ConfigError(
            "the values of the users differ in number", hint="Pass one per user."
        )
    table = np.stack(rows)  # (4, U)
    if not np.isfinite(table).all():
        raise ConfigError(
            "a user's value is not a finite number", hint="Leave out NaN and infinity."
        )
    users = int(first.size)
    return Moments(
        users,
        table.mean(axis=1) if users else np.zeros(4),
        np.cov(table) if users > 1 else np.zeros((4, 4)),
    )


def pooled(arms: Sequence[Moments]) -> Moments:
    """Return the moments of the users of all arms together."""
    users = sum(arm.users for arm in arms)
    if not users:
        return Moments(0, np.zeros(4), np.zeros((4, 4)))
    mean = sum((arm.users * arm.mean for arm in arms), np.zeros(4)) / users
    scatter = np.zeros((4, 4))
    for arm in arms:
        shift = arm.mean - mean
        scatter += max(arm.users - 1, 0) * arm.cov + arm.users * np.outer(shift, shift)
    return Moments(users, mean, scatter / max(users - 1, 1))


def gradients(moments: Moments) -> tuple[Vector, Vector]:
    """Return how metric and covariate change with the four means.

    Returns:
        Two vectors, shape (4,). That of the covariate is zero where nobody has a past.
    """
    metric, covariate = np.zeros(4), np.zeros(4)
    mean = moments.mean
    if mean[1] > 0:
        metric[:2] = 1 / mean[1], -mean[0] / mean[1] ** 2
    if mean[3] > 0:
        covariate[2:] = 1 / mean[3], -mean[2] / mean[3] ** 2
    return metric, covariate


def cuped_coefficient(total: Moments) -> float:
    """Return by how much the covariate explains the metric, over all arms.

    Args:
        total: All arms together: a coefficient per arm would be biased.

    Returns:
        The coefficient; 0 where the covariate says nothing.

    Source: Deng et al., "Improving the Sensitivity of Online Controlled Experiments by
        Utilizing Pre-Experiment Data", WSDM 2013.
    """
    metric, covariate = gradients(total)
    variance = float(covariate @ total.cov @ covariate)
    shared = float(metric @ total.cov @ covariate)
    # Rounding leaves a constant covariate a variance of about 1e-30.
    scale = (total.covariate or 0.0) ** 2
    return shared / variance if variance > 1e-24 * scale and variance > 0 else 0.0
