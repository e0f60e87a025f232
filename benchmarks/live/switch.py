"""Promotions and rollbacks as eight request processes see them.

A switch counts from the moment its commit returned. Any request that started later and
was answered by the version before would break the promise that a switch is one commit.
The time to the first answer of the new version is mostly the wait for the next request;
what the switch itself costs is how much longer that answer takes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.live.load import Answers, Load, pause
from benchmarks.live.shop import MODEL
from benchmarks.report import Row
from recsys import _db, rollout

PROCESSES = 8
RATE = 200
_BETWEEN_S = 1.0


class _Switch(NamedTuple):
    """One commit: the version it brought, when it began and when it returned."""

    kind: str
    number: int
    began: int
    done: int


def run(dsn: str, switches: int) -> list[Row]:
    """Switch between versions 1 and 2, which both are ready; 1 serves.

    Args:
        dsn: The database.
        switches: Promotions, each followed by a rollback.
    """
    made: list[_Switch] = []
    with tempfile.TemporaryDirectory() as folder:
        load = Load(dsn, Path(folder))
        with load.running():
            load.ask(PROCESSES, RATE)
            pause(_BETWEEN_S)
            for _ in range(switches):
                made.append(_promote(dsn))
                pause(_BETWEEN_S)
                made.append(_rollback(dsn))
                pause(_BETWEEN_S)
        answers = load.answers()
    usual = float(np.median(answers.end - answers.start)) / 1e6
    note = f"{PROCESSES} processes, {RATE} requests per second in total"
    return [
        Row("answers", len(answers.due), "", note=note),
        Row("errors", len(answers.errors), "", 0, note="; ".join(answers.errors[:1])),
        Row("an answer p50", usual, "ms"),
        *_rows("promote", made, answers),
        *_rows("rollback", made, answers),
    ]


def _promote(dsn: str) -> _Switch:
    with _db.connect(dsn) as conn:
        start = time.monotonic_ns()
        rollout.promote(conn, MODEL, 2, reason="bench", force=True)
        conn.commit()
        return _Switch("promote", 2, start, time.monotonic_ns())


def _rollback(dsn: str) -> _Switch:
    with _db.connect(dsn) as conn:
        start = time.monotonic_ns()
        number = rollout.rollback(conn, MODEL)
        conn.commit()
        return _Switch("rollback", number, start, time.monotonic_ns())


def _rows(kind: str, made: list[_Switch], answers: Answers) -> list[Row]:
    """Judge the switches of one kind, each until the one after it began."""
    ends = [switch.began for switch in made[1:]] + [int(answers.end.max()) + 1]
    stale, took, first, cost, last = 0, [], [], [], []
    for switch, until in zip(made, ends, strict=True):
        if switch.kind != kind:
            continue
        took.append((switch.done - switch.began) / 1e6)
        window = (answers.start > switch.done) & (answers.end < until)
        stale += int((window & (answers.version != switch.number)).sum())
        new = (
            (answers.version == switch.number)
            & (answers.end > switch.began)
            & (answers.end < until)
        )
        waits = []
        for process in range(PROCESSES):
            mine = np.flatnonzero(new & (answers.process == process))
            if len(mine):
                chosen = mine[np.argmin(answers.end[mine])]
                waits.append((answers.end[chosen] - switch.done) / 1e6)
                cost.append((answers.end[chosen] - answers.start[chosen]) / 1e6)
        first += waits
        last.append(max(waits) if len(waits) == PROCESSES else float("inf"))
    note = f"{len(took)} of them; {len(first)} first answers"
    return [
        Row(f"{kind}: begin to commit p50", float(np.median(took)), "ms", note=note),
        Row(f"{kind}: begin to commit, longest", max(took), "ms", 1000),
        Row(f"{kind}: requests begun after it, old version", stale, "", 0),
        Row(f"{kind}: commit to first new answer of a process p50",
            float(np.median(first)), "ms"),
        Row(f"{kind}: commit to all {PROCESSES} processes, longest", max(last), "ms"),
        Row(f"{kind}: that first answer takes p50", float(np.median(cost)), "ms"),
        Row(f"{kind}: that first answer takes p99", float(np.percentile(cost, 99)),
            "ms"),
    ]  # fmt: skip
