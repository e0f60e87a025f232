"""Ramps: the workers raise a candidate's percentage, step by step, under guardrails."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from decimal import Decimal

from recsys import guardrails, rollout
from recsys._db import Connection

logger = logging.getLogger(__name__)


def advance(conn: Connection, model: str) -> str:
    """Check the guardrails of a rollout, and take the ramp's next step when it is due.

    A breached guardrail ends the ramp, and rolls back when it says so; the reason is in
    the audit. Without a ramp, a candidate is guarded all the same.

    Args:
        conn: An autocommit connection.
        model: Name of the model.

    Returns:
        What happened, empty for nothing.
    """
    before = _candidate(conn, model)
    if before is None:
        return ""
    # Reads impressions, which can take a while: before the lock.
    readings = guardrails.readings(conn, model, since=before[2])
    breaches = [reading.breach for reading in readings if reading.breach]
    unsure = [r.guardrail.metric for r in readings if r.verdict == "too few"]
    with rollout.locking(conn, model):
        conn.execute("select from recsys.model where name = %s for update", (model,))
        if _candidate(conn, model) != before:
            return ""  # somebody switched meanwhile
        if breaches:
            return _react(conn, model, before[0], before[2], breaches)
        return _step(conn, model, before[0], before[1], unsure)


def _candidate(conn: Connection, model: str) -> tuple[int, Decimal, datetime] | None:
    """Return a rollout's version, its percentage, and since when it is a candidate.

    Not since its last step: what a guardrail has seen must not be forgotten at each.
    """
    row = conn.execute(
        "select r.number, r.percent, coalesce((select min(p.promoted_at)"
        " from recsys.promotion as p where p.model = r.model and p.number = r.number"
        " and p.kind = 'percent' and p.id > coalesce((select max(o.id)"
        " from recsys.promotion as o where o.model = r.model and o.kind <> 'percent'),"
        " 0)), to_timestamp(0)) from recsys.rollout as r"
        " where r.model = %s and r.candidate",
        (model,),
    ).fetchone()
    return (row[0], row[1], row[2]) if row else None


def _react(
    conn: Connection,
    model: str,
    number: int,
    since: datetime,
    breaches: list[guardrails.Breach],
) -> str:
    worst = next((b for b in breaches if b.action == "rollback"), breaches[0])
    reason = f"guardrail {worst.metric}: {worst.reason}"
    stopped = conn.execute(
        "select recsys._end_ramp(%s, %s)", (model, reason)
    ).fetchone()
    if worst.action != "rollback" and not (stopped and stopped[0]):
        known = conn.execute(
            "select from recsys.audit where model = %s and number = %s"
            " and kind = 'guardrail' and at >= %s",
            (model, number, since),
        ).fetchone()
        if known is not None:
            return ""  # the audit knows
    numbers = {b.metric: {"base": b.base, "candidate": b.candidate} for b in breaches}
    conn.execute(
        "select recsys._audit(%s, %s, 'guardrail', recsys._rollout(%s), %s, %s, %s)",
        (model, number, model, json.dumps(worst.action), reason, json.dumps(numbers)),
    )
    if worst.action == "rollback":
        base = rollout.rollback(conn, model, reason=reason)
        return f"rolled back to version {base}: {reason}"
    return f"the ramp was stopped: {reason}"


def _step(
    conn: Connection, model: str, number: int, percent: Decimal, unsure: list[str]
) -> str:
    """Take the step that is due, unless a guardrail has not seen enough yet."""
    waiting = conn.execute(
        "select from recsys.ramp where model = %s and number = %s and guarded"
        " and next_at <= now()",
        (model, number),
    ).fetchone()
    if waiting is not None and unsure:
        few = ", ".join(unsure)
        return f"version {number} waits at {percent} %: too few answers for {few}"
    row = conn.execute(
        "update recsys.ramp set step = step + 1, step_at = now(),"
        " next_at = now() + every where model = %s and number = %s"
        " and next_at <= now()"
        " returning steps[step], step = cardinality(steps), reason",
        (model, number),
    ).fetchone()
    if row is None:
        return ""
    share, last, reason = row
    conn.execute(
        "select recsys._promote(%s, %s, %s, %s, 'promote', false, true)",
        (model, number, share, f"ramp, from {percent} %" + (reason and f": {reason}")),
    )
    if last:
        conn.execute("select recsys._end_ramp(%s, 'the last step was taken')", (model,))
    return f"version {number}: {percent} % -> {share} %"
