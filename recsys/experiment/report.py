"""Results of an experiment, read from SQL, and what they mean in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from psycopg.rows import class_row

from recsys._db import Connection, translated
from recsys.experiment import store
from recsys.experiment.stats import MINIMUM_USERS, sequence_factor
from recsys.experiment.store import Experiment


@dataclass(frozen=True, slots=True)
class Result:
    """One row of ``recsys.experiment_result_at``: an arm in a metric."""

    metric: str
    is_primary: bool
    arm: str
    is_control: bool
    users: int
    mean: float | None
    difference: float | None
    se: float | None
    low: float | None
    high: float | None
    sequence_low: float | None
    sequence_high: float | None
    lift: float | None
    lift_low: float | None
    lift_high: float | None
    lift_sequence_low: float | None
    lift_sequence_high: float | None
    p_value: float | None
    p_adjusted: float | None
    sequential_p: float | None
    sequential_p_adjusted: float | None
    variance_reduction: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Health:
    """One row of ``recsys.experiment_health_at``: the users of an arm."""

    arm: str
    share: Decimal
    users: int
    expected: float | None
    first_exposure_at: datetime | None
    last_exposure_at: datetime | None
    sample_ratio_p: float | None
    mismatch: bool | None
    note: str


@dataclass(frozen=True, slots=True)
class Report:
    """An experiment at one time.

    Attributes:
        experiment: What was planned.
        results: Per metric and arm, the primary metric and the control first.
        health: Per arm.
    """

    experiment: Experiment
    results: Sequence[Result]
    health: Sequence[Health]

    @property
    def mismatch(self) -> str:
        """The warning of a sample ratio mismatch; empty when there is none."""
        if not any(arm.mismatch for arm in self.health):
            return ""
        seen = ", ".join(
            f"{arm.arm} {arm.users:,} of {arm.expected or 0:,.0f} expected"
            for arm in self.health
        )
        p = self.health[0].sample_ratio_p or 0.0
        return (
            f"Sample ratio mismatch (p = {p:.1g}): {seen}. Something loses or adds"
            " users in one arm; trust no number before you know what."
        )

    @property
    def missing(self) -> str:
        """What of the data is not kept any more, in words; empty when all is there."""
        return next((arm.note for arm in self.health if arm.note), "")

    @property
    def verdict(self) -> str:
        """What the primary metric says, a sentence per treatment."""
        state = self.experiment.state
        if state == "draft":
            return "A draft: nobody is assigned before it starts."
        if self.mismatch:
            return "No verdict while the sample ratio is wrong."
        if not any(arm.users for arm in self.health):
            return (
                "Nobody was exposed yet: exposures come with impressions, so the"
                " application's Recommender must not have impressions='off'."
            )
        primary = [r for r in self.results if r.is_primary]
        control = next((r for r in primary if r.is_control), None)
        treatments = [r for r in primary if not r.is_control]
        if control is None:
            return ""
        words = [
            _sentence(r, control, self.experiment, len(treatments)) for r in treatments
        ]
        if len(treatments) > 1:
            words.append(
                f"The intervals of this verdict are widened for {len(treatments)}"
                " comparisons, so that all of them hold together."
            )
        return " ".join(words)


def _sentence(
    result: Result, control: Result, experiment: Experiment, comparisons: int
) -> str:
    """Return what one treatment's row says.

    The interval that is shown is what decides: the confidence sequence of the
    difference, each at its part of alpha (Bonferroni).
    """
    what = f"in {result.metric}"
    if result.difference is None or result.se is None:
        return f"Nothing can be said about {result.arm} {what}: {result.note}."
    if result.sequence_low is None:
        return (
            f"Too early to say anything about {result.arm} {what}: it takes"
            f" {MINIMUM_USERS} users in each arm."
        )
    reach = result.se * sequence_factor(
        result.users + control.users,
        experiment.alpha / comparisons,
        experiment.expected_users,
    )
    low, high = result.difference - reach, result.difference + reach
    between = f"between {signed(low, False)} and {signed(high, False)}"
    if low <= 0 <= high:
        return (
            f"No difference between {result.arm} and {control.arm} {what} is proven so"
            f" far: it lies {between}."
        )
    direction = "higher" if low > 0 else "lower"
    lift = "" if result.lift is None else f" ({signed(result.lift)})"
    return (
        f"{result.arm} is {direction} than {control.arm} {what}:"
        f" {signed(result.difference, False)}{lift}, {between}."
    )


def signed(value: float | None, relative: bool = True) -> str:
    """Return a lift as "+1.2 %" or a difference as "+0.0123"."""
    if value is None:
        return "-"
    if not relative:
        return f"{value:+.4g}"
    return f"{100 * value:+.1f} %" if abs(value) < 100 else f"{value:+.1g} x"


def report(conn: Connection, name: str, at: datetime | None = None) -> Report:
    """Return an experiment as it was at a time.

    Args:
        conn: A connection whose role may read results.
        name: Name of the experiment.
        at: Default: now.

    Raises:
        ConfigError: No experiment has that name.
    """
    experiment = store.get(conn, name)
    with conn.cursor(row_factory=class_row(Health)) as cur, translated():
        health = cur.execute(
            "select * from recsys.experiment_health_at("
            "%s, coalesce(%s::timestamptz, now()))",
            (name, at),
        ).fetchall()
    return Report(experiment, results(conn, name, at), health)


def results(conn: Connection, name: str, at: datetime | None = None) -> list[Result]:
    """Return the results of an experiment as they were at a time.

    Raises:
        ConfigError: No experiment has that name.
    """
    store.get(conn, name)  # an error in SQL would end the caller's transaction
    with conn.cursor(row_factory=class_row(Result)) as cur, translated():
        return cur.execute(
            "select * from recsys.experiment_result_at("
            "%s, coalesce(%s::timestamptz, now()))",
            (name, at),
        ).fetchall()


def course(
    conn: Connection, name: str, *, points: int = 30
) -> list[tuple[datetime, list[Result]]]:
    """Return the results after each day, or at that many times when it ran long.

    Args:
        conn: A connection whose role may read results.
        name: Name of the experiment.
        points: Times at most; each reads the impressions and outcomes again.

    Returns:
        Times and results, oldest first; empty for a draft.

    Raises:
        ConfigError: No experiment has that name.
    """
    experiment = store.get(conn, name)
    begin = experiment.started_at
    if begin is None:
        return []
    row = conn.execute("select clock_timestamp()").fetchone()
    end: datetime = experiment.stopped_at or (row[0] if row else begin)
    # An experiment of some hours deserves a curve as well.
    steps = min(points, max((end - begin) // timedelta(days=1), 12))
    times = [begin + (end - begin) * (i + 1) / steps for i in range(steps)]
    return [(time, results(conn, name, time)) for time in times]
