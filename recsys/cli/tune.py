"""The command that searches for better settings."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from recsys import config as configuration
from recsys import tuning
from recsys._wording import counted
from recsys.cli import _malloc
from recsys.cli._options import Moment
from recsys.cli.bars import Bars, say
from recsys.cli.output import Row, format_option, write_rows
from recsys.settings import Settings

_MEASURED = ("score", "recall", "ndcg", "epoch", "seconds")


@click.command()
@click.argument("model")
@click.option("--budget", type=float, help="Seconds; default 900 without --trials.")
@click.option("--trials", type=int, help="Trials of this run at most.")
@click.option("--study", type=click.Path(path_type=Path), help="Default: MODEL.study.")
@click.option("--resume", is_flag=True, help="Go on with the study, on its data.")
@click.option("--search", "only", multiple=True, help="Setting to search; repeatable.")
@click.option("--until", type=Moment(), help="Leave out interactions from then on.")
@click.option("--write", is_flag=True, help="Set the best settings in recsys.toml.")
@format_option
@click.pass_obj
def tune(
    settings: Settings,
    model: str,
    budget: float | None,
    trials: int | None,
    study: Path | None,
    resume: bool,
    only: Sequence[str],
    until: datetime | None,
    write: bool,
    fmt: str,
) -> None:
    """Search for better training settings of MODEL on its validation slice.

    The first trial has today's settings. Ctrl-C ends the search with what was found,
    and --resume goes on with it, also in several processes at once.

    Example:

    \b
        recsys tune shop --budget 1800 --search tau --search lr
        recsys tune shop --resume --trials 20 --write
    """
    _malloc.use_arena_settings()
    project = configuration.load(settings.config)
    tuned = tuning.tune_model(
        settings.dsn,
        project,
        model,
        study=study,
        resume=resume,
        trials=trials,
        budget_s=budget,
        only=only,
        until=until,
        progress=Bars(),
    )
    _show(tuned, fmt)
    if tuned.found.interrupted:
        say("Interrupted; --resume goes on.")
        sys.exit(130)
    if write:
        _write(project, tuned)


def _show(tuned: tuning.Tuned, fmt: str) -> None:
    found = tuned.found
    searched = list(dict.fromkeys(n for row in found.trials for n in row.settings))
    rows = [
        _row(row.number, row.state, row.score, row.metrics, row.seconds)
        | {name: row.settings.get(name) for name in searched}
        for row in found.trials
    ]
    if fmt == "table":
        rows.sort(key=lambda row: (row["state"] != "complete", -(row["score"] or 0.0)))
    write_rows(rows, fmt, columns=("trial", "state", *_MEASURED, *searched))
    epochs, users = counted(found.epochs, "epoch"), counted(found.users, "user")
    say(f"{epochs} a trial, judged on {users}")
    say(tuned.verdict)
    if tuned.better and fmt == "table":
        click.echo(f"\n{tuned.snippet}")


def _row(
    number: int,
    state: str,
    score: float | None,
    metrics: Mapping[str, Any],
    seconds: float,
) -> Row:
    return {
        "trial": number,
        "state": state,
        "score": score,
        "recall": metrics.get("recall@20"),
        "ndcg": metrics.get("ndcg@20"),
        "epoch": int(metrics["epoch"]) if "epoch" in metrics else None,
        "seconds": round(seconds, 1),
    }


def _write(project: configuration.ProjectConfig, tuned: tuning.Tuned) -> None:
    if not tuned.better:
        say("Nothing was written.")
        return
    change = tuning.write_settings(project, tuned)
    click.echo(f"\n{change}" if change else "recsys.toml has them already.")
