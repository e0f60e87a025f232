"""A/A experiments with a look every day: how often each method raises a false alarm.

Both arms are the same. Users arrive over the days and come back; a user's clicks, and
what they spend, hang together. An alarm at any of the daily looks counts: that is what
people do who look.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Row
from recsys.experiment.moments import from_users
from recsys.experiment.stats import Comparison, compare

DAYS = 30
DAILY_USERS = 200
METRICS = ("ctr", "conversion", "revenue", "ctr, CUPED")
Sums = NDArray[np.float64]


def run(experiments: int, *, seed: int = 0, lift: float = 0.0) -> list[Row]:
    """Return the share of experiments with an alarm, per metric and method.

    Args:
        experiments: How many to simulate.
        seed: Seed of every random choice.
        lift: True relative change of the treatment's click rate; 0 is an A/A test.
    """
    begin = time.perf_counter()
    alarms = {(m, how): 0 for m in METRICS for how in ("sequence", "peeked", "once")}
    for number in range(experiments):
        rng = np.random.default_rng((seed, number))
        for metric, looks in _experiment(rng, lift).items():
            alarms[metric, "sequence"] += any(
                look.sequence is not None and look.sequence.low * look.sequence.high > 0
                for look in looks
            )
            fixed = [(look.p_value or 1) < 0.05 for look in looks]
            alarms[metric, "peeked"] += any(fixed)
            alarms[metric, "once"] += fixed[-1]
    names = {
        "sequence": "confidence sequence, looked at daily",
        "peeked": "fixed interval, looked at daily",
        "once": "fixed interval, looked at on the last day",
    }
    rows = [
        Row(
            f"{metric}: {names[how]}",
            100 * count / experiments,
            "%",
            5.0 if how == "sequence" and not lift else None,
        )
        for (metric, how), count in alarms.items()
    ]
    seconds = time.perf_counter() - begin
    users = DAYS * DAILY_USERS
    note = f"{users:,} users each, {DAYS} looks"
    return [*rows, Row("experiments", experiments, "", note=note),
            Row("time", seconds, "s")]  # fmt: skip


def _experiment(rng: np.random.Generator, lift: float) -> dict[str, list[Comparison]]:
    """Simulate one experiment and compare the arms after every day."""
    users = DAYS * DAILY_USERS
    arrival = np.sort(rng.integers(0, DAYS, users))
    treated = rng.random(users) < 0.5
    activity = rng.gamma(1.0, 1.0, users) * 0.6  # visits per day
    taste = rng.beta(1.5, 12, users)
    before = rng.poisson(activity * 14) + 0.0
    clicked_before = rng.binomial(before.astype(int), taste) + 0.0
    rate = np.minimum(taste * np.where(treated, 1 + lift, 1.0), 1.0)
    shown, clicks, spent = np.zeros((3, users))
    looks: dict[str, list[Comparison]] = {metric: [] for metric in METRICS}
    for day in range(DAYS):
        here = int(np.searchsorted(arrival, day, side="right"))
        new = arrival[:here] == day
        visits = rng.poisson(activity[:here]) + new  # the first visit exposes
        today = rng.binomial(visits, rate[:here])
        shown[:here] += visits
        clicks[:here] += today
        spent[:here] += rng.binomial(today, 0.1) * rng.lognormal(3, 1, here)
        arms = [treated[:here] == side for side in (False, True)]
        for metric, columns in (
            ("ctr", (clicks, shown)),
            ("conversion", ((spent > 0) + 0.0,)),
            ("revenue", (spent,)),
            ("ctr, CUPED", (clicks, shown, clicked_before, before)),
        ):
            looks[metric].append(_look(columns, arms, here))
    return looks


def _look(
    columns: tuple[Sums, ...], arms: list[NDArray[np.bool_]], here: int
) -> Comparison:
    a, b = (from_users(*(c[:here][arm] for c in columns)) for arm in arms)
    return compare(a, b)
