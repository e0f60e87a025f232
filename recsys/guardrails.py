"""Guardrails: bounds that a candidate must stay within while its share of users grows.

``check`` compares the candidate with the base in the impressions since a time, and says
what left its bound. The ramp calls it before each step, so every conclusion must hold
however often one looks: rates and means are judged by always-valid confidence sequences
over units (recsys/experiment/stats.py), never by the bare number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from psycopg.rows import tuple_row

from recsys._db import Connection
from recsys._guardrail import (
    DEFAULTS,
    METRICS,
    Action,
    Guardrail,
    Metric,
    check_guardrail,
    check_metric,
)
from recsys._wording import counted
from recsys.errors import UnknownModel
from recsys.experiment.moments import Moments
from recsys.experiment.stats import MINIMUM_USERS, Estimate, estimate, sequence_factor

ALPHA = 0.01
"""Chance that one guardrail ever fires on a version that keeps within its bound."""
_EXPECTED_USERS = 1_000  # where the sequences are narrowest: ramps must see harm early
_SLOW = 0.01  # the share of answers beyond a p99
_LEAST_UNITS = 10  # one user in trouble is no verdict on a version


@dataclass(frozen=True, slots=True)
class Breach:
    """A guardrail that the candidate broke.

    Attributes:
        metric: What left its bound.
        base: The base's number, None when it has no answers.
        candidate: The candidate's number.
        bound: The bound, in the unit of its kind.
        action: What the ramp must do.
        reason: One sentence, for the audit log.
    """

    metric: Metric
    base: float | None
    candidate: float
    bound: float
    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One guardrail with the numbers of the moment.

    Attributes:
        guardrail: The bound.
        base: The base's number, None without answers.
        candidate: The candidate's number, None without answers.
        answers: Answers of the candidate that were looked at.
        verdict: "ok", "breach", or "too few" answers to conclude anything.
        breach: What was broken, when something was.
    """

    guardrail: Guardrail
    base: float | None
    candidate: float | None
    answers: int
    verdict: Literal["ok", "breach", "too few"]
    breach: Breach | None = None

    @property
    def enough(self) -> bool:
        """Whether there were answers enough, of both versions where two are compared.

        Returns:
            False also where nothing at all was logged.
        """
        return self.verdict != "too few"


@dataclass(frozen=True, slots=True)
class _Sample:
    """One metric of one version.

    Attributes:
        answers: Answers of all units.
        estimate: Its mean and the variance of that.
        shown: The number as people read it: the p99 for latency, else the mean.
    """

    answers: int
    estimate: Estimate
    shown: float


# what is bounded -------------------------------------------------------------------


def guardrails(conn: Connection, model: str) -> list[Guardrail]:
    """Return the guardrails of a model: what was set, and defaults for the rest.

    Raises:
        UnknownModel: No model of that name is registered.
    """
    _check_model(conn, model)
    rows = _rows(
        conn,
        "select metric, kind, bound, min_sample, action from recsys.guardrail"
        " where model = %s",
        (model,),
    )
    found = {rail.metric: rail for rail in DEFAULTS}
    found.update({row[0]: Guardrail(*row) for row in rows})
    return [found[metric] for metric in METRICS if metric in found]


def put(conn: Connection, model: str, guardrail: Guardrail) -> None:
    """Set a bound, in place of the default or of an earlier one; the caller commits.

    Raises:
        ConfigError: Kind, bound, sample or action do not fit the metric.
        UnknownModel: No model of that name is registered.
    """
    check_guardrail(guardrail)
    _check_model(conn, model)
    conn.execute(
        "insert into recsys.guardrail (model, metric, kind, bound, min_sample, action)"
        " values (%s, %s, %s, %s, %s, %s)"
        " on conflict (model, metric) do update set kind = excluded.kind,"
        " bound = excluded.bound, min_sample = excluded.min_sample,"
        " action = excluded.action, set_at = now(), set_by = session_user",
        (model, guardrail.metric, guardrail.kind, guardrail.bound,
         guardrail.min_sample, guardrail.action),
    )  # fmt: skip


def remove(conn: Connection, model: str, metric: str) -> bool:
    """Return to the default of a metric; the caller commits.

    Returns:
        Whether something had been set.

    Raises:
        ConfigError: The metric is unknown.
        UnknownModel: No model of that name is registered.
    """
    check_metric(metric)
    _check_model(conn, model)
    cursor = conn.execute(
        "delete from recsys.guardrail where model = %s and metric = %s",
        (model, metric),
    )
    return cursor.rowcount > 0


def _check_model(conn: Connection, model: str) -> None:
    if not _rows(conn, "select 1 from recsys.model where name = %s", (model,)):
        raise UnknownModel(f"no model named {model!r} is registered")


# what happened ---------------------------------------------------------------------


def check(conn: Connection, model: str, *, since: datetime) -> list[Breach]:
    """Return what the candidate broke since a time; nothing without a candidate.

    Without logged impressions nothing can be seen, and nothing is returned: see
    ``readings`` for what was looked at.

    Args:
        conn: An open connection.
        model: Name of the model.
        since: When the step of the ramp began.

    Raises:
        UnknownModel: No model of that name is registered.
    """
    found = readings(conn, model, since=since)
    return [reading.breach for reading in found if reading.breach is not None]


def readings(conn: Connection, model: str, *, since: datetime) -> list[Reading]:
    """Return every guardrail of a model that is not off, with the numbers since a time.

    ``all(reading.enough for reading in readings(...))`` says whether each could have
    fired; it is true as well when there is no candidate or every guardrail is off.

    Raises:
        UnknownModel: No model of that name is registered.
    """
    rails = [rail for rail in guardrails(conn, model) if rail.kind != "off"]
    rows = _rows(
        conn,
        "select b.number, c.number from recsys.rollout as c"
        " left join recsys.rollout as b on b.model = c.model and not b.candidate"
        " where c.model = %s and c.candidate",
        (model,),
    )
    if not rows:
        return []
    base, candidate = rows[0]
    tail = {row[0]: row[1] for row in _tail(conn, model, (base, candidate), since)}
    slow = _slow_bound(rails, tail.get(base))
    samples = _samples(conn, model, (base, candidate), since, slow)
    found: list[Reading] = []
    for rail in rails:
        name = "slow_rate" if rail.metric == "latency_p99_ms" else rail.metric
        a, b = samples.get((base, name)), samples.get((candidate, name))
        if rail.metric == "latency_p99_ms":
            a, b = _with_tail(a, tail.get(base)), _with_tail(b, tail.get(candidate))
        found.append(_read(rail, candidate, a, b))
    return found


def _tail(
    conn: Connection, model: str, versions: Sequence[int | None], since: datetime
) -> list[tuple[int, float]]:
    return _rows(
        conn,
        "select version, percentile_disc(0.99) within group (order by took_ms)"
        " from recsys.impression where model = %s and version = any (%s)"
        " and occurred_at >= %s and unit is not null and experiment is null"
        " and took_ms is not null group by version",
        (model, list(versions), since),
    )


def _slow_bound(rails: Sequence[Guardrail], base: float | None) -> float | None:
    """Return the milliseconds that at most one answer in a hundred may take."""
    for rail in rails:
        if rail.metric == "latency_p99_ms":
            if rail.kind == "max":
                return rail.bound
            return None if base is None else rail.bound * base
    return None


def _with_tail(sample: _Sample | None, p99: float | None) -> _Sample | None:
    if sample is None or p99 is None:
        return None
    return _Sample(sample.answers, sample.estimate, p99)


def _samples(
    conn: Connection,
    model: str,
    versions: Sequence[int | None],
    since: datetime,
    slow: float | None,
) -> dict[tuple[int, str], _Sample]:
    rows = _rows(
        conn,
        "select version, metric, units, answers, mean_x, mean_y, var_x, var_y, cov_xy"
        " from recsys._guard_moments(%s, %s::integer[], %s, %s::real)",
        (model, list(versions), since, slow),
    )
    found: dict[tuple[int, str], _Sample] = {}
    for version, metric, units, answers, x, y, var_x, var_y, cov in rows:
        table = np.zeros((4, 4))
        table[:2, :2] = (var_x, cov), (cov, var_y)
        made = estimate(Moments(units, np.array([x, y, 0.0, 1.0]), table))
        found[version, metric] = _Sample(answers, made, made.mean or 0.0)
    return found


# what to conclude ------------------------------------------------------------------


def _read(
    rail: Guardrail, number: int, base: _Sample | None, candidate: _Sample | None
) -> Reading:
    """Judge one guardrail."""
    shown = None if base is None else base.shown
    if candidate is None:
        return Reading(rail, shown, None, 0, "too few")
    relative = rail.kind != "max"
    few = candidate.answers < rail.min_sample or (
        relative and (base is None or base.answers < rail.min_sample)
    )
    few = few or candidate.estimate.users < _LEAST_UNITS
    if rail.kind == "max_drop" and base is not None:
        units = min(base.estimate.users, candidate.estimate.users)
        few = few or units < MINIMUM_USERS
    if few:
        return Reading(rail, shown, candidate.shown, candidate.answers, "too few")
    if not _broken(rail, base, candidate):
        return Reading(rail, shown, candidate.shown, candidate.answers, "ok")
    action = rail.action
    shared = ""
    if rail.kind == "max" and base is not None and base.shown > 0.5 * candidate.shown:
        # The candidate is not to blame, and the base would not be better.
        action, shared = "stop", ", as does the base"
    breach = Breach(
        rail.metric,
        shown,
        candidate.shown,
        rail.bound,
        action,
        _sentence(rail, number, base, candidate, shared),
    )
    return Reading(rail, shown, candidate.shown, candidate.answers, "breach", breach)


def _broken(rail: Guardrail, base: _Sample | None, candidate: _Sample) -> bool:
    """Say whether the confidence sequence lies wholly beyond the bound."""
    b = candidate.estimate
    if rail.metric == "latency_p99_ms":
        return _above(b.adjusted - _SLOW, b.variance, b.users, candidate.answers, _SLOW)
    if rail.kind == "max":
        excess = b.adjusted - rail.bound
        return _above(excess, b.variance, b.users, candidate.answers, rail.bound)
    if base is None:
        return False
    a = base.estimate
    users = a.users + b.users
    if rail.kind == "max_rise":
        excess = b.adjusted - a.adjusted - rail.bound
        variance = a.variance + b.variance
        return _above(excess, variance, users, candidate.answers, rail.bound)
    kept = 1 - rail.bound
    excess = kept * a.adjusted - b.adjusted
    variance = kept * kept * a.variance + b.variance
    return _above(excess, variance, users, candidate.answers, 0.0)


def _above(
    excess: float, variance: float, users: int, answers: int, rate: float
) -> bool:
    """Say whether an excess is above zero for certain, at this look and every other.

    A few answers without a single event have no variance of their own; they get that
    of the rate that is allowed.
    """
    floor = rate * (1 - rate) / max(answers, 1) if rate < 1 else 0.0
    se = math.sqrt(max(variance, floor))
    return excess > sequence_factor(users, ALPHA, _EXPECTED_USERS) * se


def _sentence(
    rail: Guardrail,
    number: int,
    base: _Sample | None,
    candidate: _Sample,
    shared: str,
) -> str:
    def say(value: float) -> str:
        if rail.metric == "latency_p99_ms":
            return f"{value:.1f} ms"
        return f"{value:.4g}" if rail.metric == "revenue" else f"{value:.2%}"

    bounds = {
        "max": f"at most {say(rail.bound)}",
        "max_rise": f"at most {rail.bound:.2%} above the base",
        "max_ratio": f"at most {rail.bound:g} times the base",
        "max_drop": f"at most {rail.bound:.0%} below the base",
    }
    beside = "" if base is None else f", the base {say(base.shown)}"
    return (
        f"{rail.metric} of version {number} is {say(candidate.shown)}{beside}; allowed "
        f"is {bounds[rail.kind]} ({counted(candidate.answers, 'answer')}){shared}"
    )


def _rows(
    conn: Connection, query: str, values: Sequence[object]
) -> list[tuple[Any, ...]]:
    with conn.cursor(row_factory=tuple_row) as cur:
        return cur.execute(query.encode(), values).fetchall()
