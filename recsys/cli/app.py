"""The command group and its error handling."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import psycopg

from recsys._wording import Wording, said, speaking
from recsys.cli import (
    artifacts,
    ask,
    backfill,
    compare,
    evaluate,
    experiment,
    guardrail,
    live,
    metrics,
    report,
    setup,
    slow,
    status,
    switch,
    train,
    tune,
    updates,
)
from recsys.errors import RecsysError, SchemaError
from recsys.settings import Settings

_CORE = re.compile(r"recsys\.(model|model_version|rollout|artifact|promotion)\b")
_ASK_DOCTOR = "Run 'recsys doctor'."
COMMANDS = (
    setup.init,
    setup.import_,
    setup.upgrade,
    setup.downgrade,
    setup.doctor,
    setup.demo,
    train.train,
    tune.tune,
    backfill.backfill,
    updates.updates_,
    updates.undo_update,
    status.versions_,
    switch.promote,
    switch.rollback,
    switch.retire,
    switch.drop,
    switch.keep,
    live.watch,
    live.unwatch,
    live.worker,
    live.retry,
    evaluate.evaluate_,
    report.report,
    compare.compare,
    experiment.experiment,
    guardrail.guardrail,
    status.status,
    slow.slow,
    metrics.metrics,
    artifacts.artifacts_,
    ask.recommend,
    ask.similar,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dsn", help="Connection string; default RECSYS_DSN or PG* variables.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Path of recsys.toml; default RECSYS_CONFIG or ./recsys.toml.",
)
@click.version_option(package_name="recsys")
@click.pass_context
def cli(ctx: click.Context, dsn: str | None, config: Path | None) -> None:
    """Recommendations from inside the Postgres you already run.

    \b
    A model's life:
        recsys init                  write a recsys.toml
        recsys upgrade               make the recsys schema
        recsys train shop --apply    train, declare, backfill, index, verify
        recsys promote shop 1        serve it from this commit on
        recsys recommend shop 7      ask it
    """
    settings = Settings.from_env()
    if dsn is not None:
        settings = replace(settings, dsn=dsn)
    if config is not None:
        settings = replace(settings, config=config)
    ctx.obj = settings


for command in COMMANDS:
    cli.add_command(command)


def run(
    arguments: Sequence[str] | None = None, *, wording: Wording | None = None
) -> None:
    """Run the group; turn our errors into two lines on stderr.

    Args:
        arguments: The command line; default that of the process.
        wording: What the program that runs it calls itself, and its settings.
    """
    with speaking(wording or Wording()):
        _run(arguments, wording.program if wording else None)


def _run(arguments: Sequence[str] | None, name: str | None) -> None:
    try:
        cli(arguments, prog_name=name, standalone_mode=False)
    except click.exceptions.Abort as exc:
        # click makes one of Ctrl-C, of which a question names no cause, and of Ctrl-D.
        click.echo("Interrupted.", err=True)
        sys.exit(130 if isinstance(exc.__context__, KeyboardInterrupt) else 1)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (RecsysError, psycopg.Error) as exc:
        fail(*explain(exc) or (str(exc), ""))
    except BrokenPipeError:
        # 'recsys ... | head' closed the pipe; nothing more to say.
        sys.stderr.close()
        sys.exit(0)


def explain(exc: BaseException) -> tuple[str, str] | None:
    """Return the message and the hint of an error that is no bug, else None."""
    if isinstance(exc, RecsysError):
        return str(exc), said(exc.hint)
    if isinstance(exc, psycopg.errors.UndefinedTable) and _CORE.search(
        exc.diag.message_primary or ""
    ):
        return "this database has no recsys schema", said(SchemaError.hint)
    if isinstance(exc, psycopg.Error):
        return f"the database answered: {str(exc).strip()}", said(_ASK_DOCTOR)
    return None


def fail(message: str, hint: str) -> None:
    """Print an error and its hint on stderr and end with status 1."""
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(f"Hint: {hint}", err=True)
    sys.exit(1)
