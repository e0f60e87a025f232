"""Commands that keep the versions up to date: watch, worker, retry."""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import psycopg

from recsys import capture
from recsys import config as configuration
from recsys._db import connect
from recsys._wording import counted
from recsys.cli.bars import Bars, say
from recsys.errors import RecsysError
from recsys.settings import Settings

if TYPE_CHECKING:
    from recsys.worker.apply import Applied
    from recsys.worker.loop import Worker

logger = logging.getLogger(__name__)


@click.command()
@click.argument("model")
@click.option("--sql", "print_sql", is_flag=True, help="Print the statements only.")
@click.option("--on/--off", "switch", default=None, help="Switch the triggers.")
@click.option("--reason", default="", help="Kept in the audit.")
@click.pass_obj
def watch(
    settings: Settings, model: str, print_sql: bool, switch: bool | None, reason: str
) -> None:
    """Capture the changes of MODEL's item source: triggers on the tables it names.

    Run it again after a change of items.sql or items.watch. The triggers queue keys
    only, and never fail the application. --off stops them by one row, --on starts
    them again and queues every item once.

    Example:

    \b
        recsys watch shop
        recsys watch shop --off --reason "bulk import"
    """
    with connect(settings.dsn) as conn:
        if switch is not None:
            capture.switch(conn, model, enabled=switch, reason=reason)
            say(f"{model}: capture is {'on' if switch else 'off'}")
            return
        config = configuration.load(settings.config).model(model)
        if print_sql:
            report = capture.inspect(conn, config)
            for statement in capture.statements(conn, model, report.tables):
                click.echo(f"{statement.rstrip().rstrip(';')};\n")
            return
        report = capture.watch(conn, config)
    for table in report.tables:
        by = "row" if table.by_row else "statement"
        say(f"{table.table}: {', '.join(table.columns) or 'its key'}, by {by}")
    for note in report.notes:
        say(f"Note: {note}")
    say(f"{model}: every item is queued once")
    say("Next: recsys worker")


@click.command()
@click.argument("model")
@click.pass_obj
def unwatch(settings: Settings, model: str) -> None:
    """Remove the capture triggers of MODEL.

    Example:

    \b
        recsys unwatch shop
    """
    with connect(settings.dsn) as conn:
        tables = capture.unwatch(conn, model)
    say(f"{model}: {', '.join(tables) or 'nothing'} is no longer watched")


@click.command()
@click.argument("models", nargs=-1)
@click.option("--batch", default=500, show_default=True, help="Changes at once.")
@click.option("--poll", default=0.1, show_default=True, help="Seconds between looks.")
@click.option("--drain", is_flag=True, help="Do what is due and queued, then end.")
@click.option("--no-tasks", is_flag=True, help="Changes only, no periodic tasks.")
@click.option("-v", "--verbose", is_flag=True, help="Log every batch.")
@click.pass_obj
def worker(
    settings: Settings,
    models: tuple[str, ...],
    batch: int,
    poll: float,
    drain: bool,
    no_tasks: bool,
    verbose: bool,
) -> None:
    """Bring changed items into every live version of MODELS (default: of all).

    Runs until it is stopped; SIGTERM and Ctrl-C let it finish its batch. Any number may
    run, on any machines. It also runs the periodic tasks: ramps and their guardrails,
    clean-up, sweeps of sources without triggers, partitions of the impressions.

    Example:

    \b
        recsys worker
        recsys worker shop --drain
    """
    from recsys.worker.loop import Worker

    def report(model: str, done: Applied) -> None:
        logger.info(
            "%s: %s, %d failed", model, counted(done.items, "item"), done.failed
        )

    process = Worker(
        settings.dsn,
        models,
        batch=batch,
        poll_s=poll,
        run_tasks=not no_tasks,
        on_batch=report,
    )
    process.check()
    with connect(settings.dsn) as conn:
        for model in models:
            capture.require_model(conn, model)
    with _logging(verbose):
        if drain:
            if not no_tasks:
                _run_tasks(settings.dsn)
            _drain(process, settings.dsn, models)
            return

        def end(*_: object) -> None:
            process.stop()

        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, end)
        say("Worker started; Ctrl-C ends it after the batch in work")
        process.run()
        say("Worker ended")


class _Said(logging.Handler):
    """Log records between the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextmanager
def _logging(verbose: bool) -> Generator[None]:
    """Log with times: warnings and what a ramp did; with ``verbose`` everything."""
    ours = logging.getLogger("recsys")
    done = logging.getLogger("recsys.worker.tasks.ramp")
    level, propagate, done_level = ours.level, ours.propagate, done.level
    handler = _Said()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    ours.propagate = False
    done.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
        ours.propagate = propagate
        done.setLevel(done_level)


def _run_tasks(dsn: str) -> None:
    """Run the tasks that are due; what they cannot do is no reason not to drain.

    They queue what no trigger saw, and a cron job runs nothing else.
    """
    from recsys.worker import tasks

    try:
        with connect(dsn, autocommit=True) as conn:
            tasks.plan(conn)
            tasks.run_due(conn)
    except (RecsysError, psycopg.Error) as exc:
        logger.warning("the tasks ended early: %s", exc)


def _drain(process: Worker, dsn: str, models: tuple[str, ...]) -> None:
    with connect(dsn) as conn:
        row = conn.execute(
            "select count(*) from recsys.item_change"
            " where model = any(%(models)s) or %(models)s = '{}'",
            {"models": list(models)},
        ).fetchone()
    waiting = row[0] if row else 0
    if waiting:
        with Bars().stage("Applying changes", waiting) as stage:
            done = process.drain(lambda _, now: stage.advance(now.items + now.failed))
    else:
        done = process.drain()
    say(f"{counted(done.items, 'item')} applied, {done.failed:,} failed")


@click.command()
@click.argument("model")
@click.argument("items", nargs=-1)
@click.pass_obj
def retry(settings: Settings, model: str, items: tuple[str, ...]) -> None:
    """Try the failed items of MODEL again, all of them or ITEMS.

    'select * from recsys.dead_letter' shows what was given up, and why.

    Example:

    \b
        recsys retry shop 42
    """
    from recsys.worker.loop import retry as again

    with connect(settings.dsn) as conn:
        queued = again(conn, model, items)
    say(f"{model}: {counted(queued, 'item is', 'items are')} queued again")
