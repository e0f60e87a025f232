"""The command that trains a version, or moves the rows of those that serve."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from recsys import config as configuration
from recsys import pipeline, schema
from recsys.cli import _malloc
from recsys.cli._options import Lengths, Moment
from recsys.cli.backfill import fill
from recsys.cli.bars import Bars, say
from recsys.cli.output import format_option, write_metrics
from recsys.cli.updates import update_now
from recsys.errors import ConfigError
from recsys.report.remarks import remarks
from recsys.report.tables import in_words
from recsys.report.verdict import LEAK, verdicts
from recsys.settings import Settings


@click.command()
@click.argument("model")
@click.option("--until", type=Moment(), help="Leave out interactions from then on.")
@click.option("--apply", is_flag=True, help="Also upgrade, backfill, index, verify.")
@click.option("--no-revision", is_flag=True, help="Make the version without a file.")
@click.option("--full", is_flag=True, help="Go on from the version that serves.")
@click.option("--from", "parent", type=int, help="With --full: from this version.")
@click.option("--distil-from", type=int, help="Also learn from this larger version.")
@click.option("--incremental", is_flag=True, help="Only move learned rows of it.")
@click.option(
    "--max-load",
    type=float,
    help="With --incremental: share of the time to write vectors; default 1.",
)
@click.option("--budget", type=float, help="Seconds for tuning and fitting.")
@click.option("--seed", type=int, help="Seed of every random choice.")
@click.option(
    "--dims", type=Lengths(), default=(), help="Such as 64,32: nested lengths."
)
@click.option("--device", help="cpu, cuda, or auto for the faster that is there.")
@click.option(
    "--checkpoint",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps the state of the fit until it is done.",
)
@click.option("--resume", is_flag=True, help="Go on with the state in --checkpoint.")
@format_option
@click.pass_obj
def train(
    settings: Settings,
    model: str,
    until: datetime | None,
    apply: bool,
    no_revision: bool,
    full: bool,
    parent: int | None,
    distil_from: int | None,
    incremental: bool,
    max_load: float | None,
    budget: float | None,
    seed: int | None,
    dims: tuple[int, ...],
    device: str | None,
    checkpoint: Path | None,
    resume: bool,
    fmt: str,
) -> None:
    """Train a new version of MODEL and write its revision file.

    The version is not built before 'recsys upgrade' and 'recsys backfill' (or
    --apply), and nobody is served by it before 'recsys promote'. --full goes on
    from the version that serves, on what came since it was trained. --incremental makes
    no version: it moves the learned rows of those that serve. Under torchrun several
    processes fit together.

    Example:

    \b
        recsys train shop
        recsys train shop --apply --until 2026-03-01
        recsys train shop --full --apply
        recsys train shop --dims 32 --distil-from 7
        recsys train shop --checkpoint state --resume
        recsys train shop --incremental
    """
    if parent is not None and not full:
        raise ConfigError("--from goes with --full")
    if max_load is not None and not incremental:
        raise ConfigError(
            "--max-load goes with --incremental",
            hint="The backfill has one of its own: leave out --apply, then"
            f" recsys backfill {model} --max-load {max_load:g}.",
        )
    if incremental:
        _alone("incremental", "max_load", "fmt")
        update_now(settings, model, 1.0 if max_load is None else max_load, fmt)
        return
    _malloc.use_arena_settings()
    with pipeline.processes() as leads:
        if not leads:
            return
        project = configuration.load(settings.config)
        with _what_is_kept(checkpoint, model):
            trained = pipeline.train_version(
                settings.dsn,
                project,
                model,
                until=until,
                revision=not no_revision,
                full=full,
                parent=parent,
                distil_from=distil_from,
                budget_s=budget,
                seed=seed,
                dims=dims,
                device=device,
                checkpoint=checkpoint,
                resume=resume,
                progress=Bars(),
            )
    _tell(trained, fmt)
    if dims:
        say(_lengths(dims))
    _go_on(settings, project, trained, apply=apply)


def _alone(*names: str) -> None:
    """Refuse every option but some.

    Raises:
        ConfigError: With those that were given all the same.
    """
    ctx = click.get_current_context()
    given = [
        option.opts[0]
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name not in names
        and ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    ]  # fmt: skip
    if given:
        raise ConfigError(
            f"--incremental makes no version: {', '.join(given)} would do nothing",
            hint="Leave it out, or train a version without --incremental.",
        )


def _lengths(dims: Sequence[int]) -> str:
    """Say what --dims has made."""
    dim, *prefixes = dims
    if not prefixes:
        return f"Vectors of {dim} dimensions, no prefix that ranks by itself"
    return (
        f"Vectors of {dim} dimensions, of which the first {in_words(prefixes)} rank by"
        f" themselves; the index is over the first {prefixes[-1]}"
    )


def _tell(trained: pipeline.Trained, fmt: str) -> None:
    """Print the metrics of a new version, and what is to be said of its training."""
    model, number = trained.plan.model, trained.plan.number
    write_metrics(model, number, trained.plan.metrics, fmt)
    for text in (*remarks(trained.report), *_verdicts(trained.report)):
        say(f"{model} {number}: {text}")
    if trained.revision:
        say(f"Wrote {trained.revision}")


def _verdicts(report: Mapping[str, Any]) -> list[str]:
    """Return the verdicts; features that know the future were named before the fit."""
    found = verdicts(report)
    said = [str(verdict) for verdict in found if verdict.name != LEAK]
    if len(said) < len(found):
        said.insert(0, f"{LEAK}: see the warning of a feature above")
    return said


def _go_on(
    settings: Settings,
    project: configuration.ProjectConfig,
    trained: pipeline.Trained,
    *,
    apply: bool,
) -> None:
    """Make and fill the new version, or say which commands do."""
    model, number = trained.plan.model, trained.plan.number
    if apply:
        if trained.revision:
            schema.upgrade(settings.dsn, project.versions)
        fill(settings, model, number)
    elif trained.revision:
        say(f"Next: recsys upgrade && recsys backfill {model} {number}")
    else:
        say(f"Next: recsys backfill {model} {number}")


@contextmanager
def _what_is_kept(folder: Path | None, model: str) -> Generator[None]:
    """Say at Ctrl-C whether the fit can be gone on with."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is not None and (folder / f"{model}.safetensors").exists():
            say(f"The fit is kept: --checkpoint {folder} --resume goes on with it.")
        raise
