"""What lists are worth, how alike two are, and how sure a difference is; numpy only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from recsys.training.metrics import HIT_DEPTH, user_metrics
from recsys.types import ItemId

Float64Array = NDArray[np.float64]

RBO_P = 0.9
"""The first ten places carry 86 % of the weight."""
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Paired:
    """A value of two versions on the same users.

    Attributes:
        base: Mean (or quantile) of the base; None where it has none.
        candidate: The same of the candidate.
        difference: candidate - base.
        low: Lower end of the 95 % interval, of the difference where there is one,
            else of the candidate's value; None: unknown.
        high: Its upper end.
        popular: The better of the popularity floors, where floors have the metric.
    """

    base: float | None
    candidate: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    popular: float | None = None


def worth(
    lists: Sequence[Sequence[ItemId]], relevant: Sequence[Collection[ItemId]], k: int
) -> dict[str, Float64Array]:
    """Return recall@k, ndcg@k and hr@10 of each user's list.

    Args:
        lists: Item ids, best first, one list per user.
        relevant: What counts as a hit: at least one item per user.
        k: List length of recall and NDCG.
    """
    index: dict[ItemId, int] = {}
    wanted = [
        np.array([index.setdefault(i, len(index)) for i in items], np.int64)
        for items in relevant
    ]
    depth = max(k, HIT_DEPTH)
    found = np.full((len(lists), depth), -1, np.int64)
    for row, items in zip(found, lists, strict=True):
        for place, item in enumerate(items[:depth]):
            row[place] = index.setdefault(item, len(index))
    return user_metrics(found, wanted, k)


def mean_worth(
    lists: Mapping[str, Sequence[Sequence[ItemId]]],
    relevant: Sequence[Collection[ItemId]],
    k: int,
) -> dict[str, dict[str, float]]:
    """Return the mean of each metric over the users, by method; see ``worth``."""
    return {
        method: {name: float(x.mean()) for name, x in worth(each, relevant, k).items()}
        for method, each in lists.items()
    }


def overlap(a: Sequence[ItemId], b: Sequence[ItemId]) -> float:
    """Return the share of items that two lists have in common, in [0, 1].

    Lists of different lengths are compared with the longer; two empty ones are alike.
    """
    longest = max(len(a), len(b))
    return len(set(a) & set(b)) / longest if longest else 1.0


def rank_biased_overlap(
    a: Sequence[ItemId], b: Sequence[ItemId], p: float = RBO_P
) -> float:
    """Return how alike two rankings are, places in front counting more.

    Args:
        a: Items without repeats, best first.
        b: The same; the lengths may differ.
        p: Persistence in (0, 1): chance that a reader goes on to the next place.

    Returns:
        RBO_ext in [0, 1], 1 for equal lists: agreement is extrapolated beyond the end
        of the lists. Two empty lists are alike.

    Source:
        Webber, Moffat, Zobel, "A similarity measure for indefinite rankings", ACM
        TOIS 28(4), 2010, equation 32.
    """
    short, long = sorted((list(a), list(b)), key=len)
    s, n = len(short), len(long)
    if not n:
        return 1.0
    if not s:
        return 0.0
    common = _common(short, long)  # X_d for d = 1..n
    depth = np.arange(1, n + 1)
    weight = p**depth
    total = float((common / depth) @ weight)
    beyond = depth[s:]
    total += float((common[s - 1] * (beyond - s) / (s * beyond)) @ weight[s:])
    rest = (common[-1] - common[s - 1]) / n + common[s - 1] / s
    return float((1 - p) / p * total + rest * p**n)


def _common(short: Sequence[ItemId], long: Sequence[ItemId]) -> Float64Array:
    """Return for each depth of the longer list how many items are in both so far."""
    seen: set[ItemId] = set()
    out: list[int] = []
    found = 0
    for place, item in enumerate(long):
        for new in {item, *short[place : place + 1]}:
            if new in seen:
                found += 1
            seen.add(new)
        # The same item in the same place of both is added once, and is in both.
        if place < len(short) and short[place] == item:
            found += 1
        out.append(found)
    return np.array(out, np.float64)


def paired_mean(base: Float64Array, candidate: Float64Array) -> Paired:
    """Compare two values per user by a paired t interval.

    Args:
        base: One value per user.
        candidate: The same users in the same order.

    Returns:
        Means and the 95 % interval of the mean difference; without an interval for
        fewer than two users.

    Source:
        Smucker, Allan, Carterette, "A comparison of statistical significance tests for
        information retrieval evaluation", CIKM 2007: for means over queries the
        paired t, bootstrap and randomisation agree.
    """
    low, high = mean_interval(candidate - base)
    return Paired(
        base=float(base.mean()),
        candidate=float(candidate.mean()),
        difference=float((candidate - base).mean()),
        low=low,
        high=high,
    )


def mean_interval(values: Float64Array) -> tuple[float | None, float | None]:
    """Return the 95 % t interval of a mean; nothing for fewer than two values."""
    n = len(values)
    if n < 2:
        return None, None
    mean = float(values.mean())
    half = t_quantile(0.975, n - 1) * float(values.std(ddof=1)) / n**0.5
    return mean - half, mean + half


def t_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t.

    Exact for one and two degrees of freedom, else right to three digits.

    Source:
        Abramowitz, Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    x = 2 * probability - 1
    if degrees == 1:
        return float(np.tan(np.pi * x / 2))
    if degrees == 2:
        return x * (2 / (1 - x * x)) ** 0.5
    z = NormalDist().inv_cdf(probability)
    v = float(degrees)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z)
        / (92160 * v**4)
    )


def paired_quantile(
    base: Float64Array, candidate: Float64Array, q: float, *, seed: int = 0
) -> Paired:
    """Compare a quantile of two samples taken together by a paired bootstrap.

    Args:
        base: Values in the order they were taken.
        candidate: Taken next to them, in the same order.
        q: Which quantile, in [0, 1].
        seed: Of the resampling.
    """
    values = np.stack([base, candidate])
    rng = np.random.default_rng(seed)
    drawn = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        first, second = np.quantile(
            values[:, rng.integers(values.shape[1], size=values.shape[1])], q, axis=1
        )
        drawn[i] = second - first
    first, second = np.quantile(values, q, axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Paired(
        base=float(first),
        candidate=float(second),
        difference=float(second - first),
        low=float(low),
        high=float(high),
    )
