"""The command that fills a version: load, encode, index, verify."""

from __future__ import annotations

import click

from recsys import backfill as filling
from recsys import config as configuration
from recsys import revisions, versions
from recsys._db import connect
from recsys._wording import counted
from recsys.cli.bars import Bars, say
from recsys.errors import ConfigError, VersionStateError
from recsys.settings import Settings


@click.command()
@click.argument("model")
@click.argument("number", type=int, required=False)
@click.option("--workers", default=1, show_default=True, help="Encoding threads.")
@click.option(
    "--max-load",
    default=1.0,
    show_default=True,
    help="Share of the time each thread works, and below 1 a one-process index build.",
)
@click.pass_obj
def backfill(
    settings: Settings, model: str, number: int | None, workers: int, max_load: float
) -> None:
    """Fill version NUMBER of MODEL (default: the newest): load, index, verify.

    Safe to repeat: it goes on where it stopped, and gives new items their vector. With
    'recsys watch' and 'recsys worker', changes reach the version while it is filled.

    Example:

    \b
        recsys backfill shop 2
        recsys backfill shop 2 --workers 4 --max-load 0.5
    """
    fill(settings, model, number, workers, max_load)


def fill(
    settings: Settings,
    model: str,
    number: int | None,
    workers: int = 1,
    max_load: float = 1.0,
) -> None:
    """Fill a version, the newest by default, and say what to do with it."""
    if number is None:
        _name_waiting(settings, model)
    report = filling.backfill(
        settings.dsn,
        model,
        number,
        workers=workers,
        max_load=max_load,
        progress=Bars(),
    )
    items = counted(report.item_count, "item")
    say(
        f"Version {report.number} of {model} is ready: {items}, "
        f"ANN recall@20 {report.ann_recall:.3f} at ef_search {report.ef_search}"
    )
    with connect(settings.dsn) as conn:
        serving = versions.serving_number(conn, model)
    if serving is None:
        say(f"Next: recsys promote {model} {report.number}")
    elif serving != report.number:
        say(f"Next: recsys compare {model} {report.number}, then recsys promote")


def _name_waiting(settings: Settings, model: str) -> None:
    """Refuse to backfill the newest version while a newer one has only its file."""
    try:
        folder = configuration.load(settings.config).versions
    except ConfigError:
        return  # a machine that only serves has no recsys.toml
    with connect(settings.dsn) as conn:
        waiting = revisions.waiting(conn, folder, model)
    if waiting:
        raise VersionStateError(
            f"version {waiting[-1]} of model {model!r} has a revision file that was"
            " not applied",
            hint="Run 'recsys upgrade' first, or name the version to backfill.",
        )
