"""The periodic tasks of the workers, and who runs which when.

A task is due when its row of ``recsys.schedule`` says so. Claiming it moves the row to
the next time and commits, so that any number of workers share the tasks, a killed one
delays a task by one interval, and no transaction stays open while it runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from recsys import capture_check, clean_up, fresh, impressions, ramps
from recsys._db import Connection
from recsys.errors import RecsysError

logger = logging.getLogger(__name__)

Run = Callable[[Connection, str], str]


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of periodic work.

    Attributes:
        run: Takes an autocommit connection and a model (or "" when not per model) and
            returns what it did in a few words, empty for nothing.
        every: Default interval; a row of recsys.schedule may say otherwise.
        per_model: One row per model.
        slow: May take minutes, a worker runs it beside the others, and it says itself
            how often.
    """

    run: Run
    every: timedelta
    per_model: bool = True
    slow: bool = False


def _maintain_impressions(conn: Connection, model: str) -> str:
    del model
    return impressions.maintain(conn)


def _update(conn: Connection, model: str) -> str:
    # numpy and onnxruntime come with it: not before it is needed.
    from recsys.updates.scheduled import run

    return run(conn, model)


TASKS: dict[str, Task] = {
    "capture": Task(capture_check.check, timedelta(seconds=5)),
    "ramp": Task(ramps.advance, timedelta(seconds=10)),
    "compare ids": Task(capture_check.compare_ids, timedelta(days=1)),
    "clean up": Task(clean_up.run, timedelta(minutes=10)),
    "trend": Task(fresh.refresh, timedelta(minutes=5), slow=True),
    "impressions": Task(_maintain_impressions, timedelta(hours=1), per_model=False),
    "update": Task(_update, timedelta(seconds=10), slow=True),
}


def plan(conn: Connection) -> None:
    """Give every task its row; rows that are there keep their interval.

    A step of a ramp does not wait for its task's interval.
    """
    for name, task in TASKS.items():
        models = "select name from recsys.model" if task.per_model else "select ''"
        conn.execute(
            "insert into recsys.schedule (task, model, every) select %s, m.name, %s"
            f" from ({models}) as m(name) on conflict do nothing".encode(),
            (name, task.every),
        )
    conn.execute(
        "update recsys.schedule as s set next_at = now() from recsys.ramp as r"
        " where s.task = 'ramp' and s.model = r.model and r.next_at <= now()"
        # Claimed since then, it waits for a guardrail, or another worker is at it.
        " and s.next_at > now() and s.next_at - s.every < r.next_at"
    )


def run_due(conn: Connection, *, slow: bool | None = None) -> int:
    """Run every task that is due, one after the other.

    Args:
        conn: An autocommit connection.
        slow: Only those that may take minutes, or only the others; None: all.

    Returns:
        How many ran; what a task raises is in recsys.schedule.

    Raises:
        psycopg.Error: The connection is gone, or takes no writes any more.
    """
    done = 0
    while (claimed := _claim(conn, slow)) is not None:
        name, model = claimed
        start = time.perf_counter()
        result = error = None
        try:
            result = TASKS[name].run(conn, model)
        except Exception as exc:
            error = f"{type(exc).__name__}: {exc}"[:1000]
            known = isinstance(exc, (RecsysError, psycopg.Error))
            logger.warning(
                "task %r of model %r failed: %s", name, model, error,
                exc_info=None if known else exc,
            )  # fmt: skip
            if conn.closed:
                raise
            conn.rollback()
        seconds = time.perf_counter() - start
        if result:
            # Of its own name: a ramp's step is worth more words than routine.
            logger.getChild(name).info("%s: %s", f"{name} {model}".rstrip(), result)
        conn.execute(
            # A task takes a tenth of the time at most, however slow it has become,
            # but for one whose interval the configuration sets.
            "update recsys.schedule set ran_at = now(), took = %(took)s, next_at ="
            " greatest(next_at, now() + case when %(slow)s then every"
            " else 9 * %(took)s end), error = %(error)s,"
            " result = coalesce(nullif(%(result)s, ''), result)"
            " where task = %(task)s and model = %(model)s",
            {
                "took": timedelta(seconds=seconds),
                "slow": TASKS[name].slow,
                "error": error,
                "result": result,
                "task": name,
                "model": model,
            },
        )
        done += 1
    return done


def _claim(conn: Connection, slow: bool | None) -> tuple[str, str] | None:
    names = [name for name, task in TASKS.items() if slow in (None, task.slow)]
    row = conn.execute(
        "update recsys.schedule as s set next_at = now() + every from ("
        " select task, model from recsys.schedule"
        " where next_at <= now() and task = any(%s)"
        " order by next_at for update skip locked limit 1) as due"
        " where s.task = due.task and s.model = due.model returning s.task, s.model",
        (names,),
    ).fetchone()
    return (row[0], row[1]) if row else None
