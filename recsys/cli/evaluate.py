"""The command that measures a version on what came later."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from recsys import evaluate, newcomers, versions
from recsys._certainty import doubt
from recsys._db import Connection, connect
from recsys._wording import counted
from recsys.cli._options import Moment
from recsys.cli.bars import Bars, say
from recsys.cli.output import format_option, write_metrics
from recsys.errors import ConfigError
from recsys.settings import Settings


@click.command("evaluate")
@click.argument("model")
@click.argument("number", type=int, required=False)
@click.option("--holdout", type=click.Path(path_type=Path), help="user_id,item_id CSV.")
@click.option("--after", type=Moment(), help="Hits: interactions from then on.")
@click.option("-k", default=20, show_default=True, help="List length, 1 to 1000.")
@click.option("--exact", is_flag=True, help="Also rank with an exact scan.")
@click.option("--new-users", is_flag=True, help="Only users who came after --after.")
@click.option("--cold", is_flag=True, help="Only hits on items new to the version.")
@click.option("--segments", is_flag=True, help="Also parts of the users and items.")
@click.option("--store", "slice_name", help="Keep the metrics under this name.")
@format_option
@click.pass_obj
def evaluate_(
    settings: Settings,
    model: str,
    number: int | None,
    holdout: Path | None,
    after: datetime | None,
    k: int,
    exact: bool,
    new_users: bool,
    cold: bool,
    segments: bool,
    slice_name: str | None,
    fmt: str,
) -> None:
    """Measure a version of MODEL (default: the serving one) on what came later.

    Ranks the full catalogue through the served path; popularity stands beside it.

    Example:

    \b
        recsys evaluate gowalla --holdout test.csv -k 20 --exact
        recsys evaluate shop 1 --after 2026-03-01 --segments
        recsys evaluate shop 1 --after 2026-03-01 --cold
    """
    if (holdout is None) == (after is None):
        raise ConfigError("pass either --holdout FILE or --after TIME")
    if new_users and (after is None or exact or cold):
        raise ConfigError(
            "--new-users goes with --after TIME, and without --exact and --cold"
        )
    with connect(settings.dsn) as conn:
        if number is None:
            number = _default(conn, model)
        if after is not None:
            _warn_of_seen(conn, model, number, after)
        if new_users and after is not None:
            result = newcomers.measure(conn, model, number, after, k=k, progress=Bars())
        else:
            result = evaluate.evaluate(
                conn,
                model,
                number,
                _expected(conn, model, number, holdout, after, cold=cold),
                k=k,
                exact=exact,
                cold=cold,
                segments=segments,
                progress=Bars(),
            )
        if slice_name:
            evaluate.store(conn, result, slice_name)
    _show(result, slice_name or "holdout", fmt)


def _default(conn: Connection, model: str) -> int:
    """Return the version that serves, or else the newest that could, and say so."""
    number = versions.serving_number(conn, model)
    if number is not None:
        say(f"Version {number} of {model}: the base that serves")
        return number
    number = versions.newest(conn, model, states=("ready",))
    say(f"Version {number} of {model}: the newest that is ready, as none serves")
    return number


def _expected(
    conn: Connection,
    model: str,
    number: int,
    file: Path | None,
    after: datetime | None,
    *,
    cold: bool,
) -> evaluate.Holdout:
    """Return what counts as a hit: the pairs of a file, or what came from a time on."""
    if file is not None:
        return evaluate.from_csv(file, versions.get(conn, model, number).config)
    assert after is not None  # one of the two is given
    return evaluate.after(conn, model, number, after, cold=cold)


def _show(result: evaluate.Evaluation, name: str, fmt: str) -> None:
    say(
        f"{result.model} {result.number}: {counted(result.users, 'user')},"
        f" {counted(result.hits, 'hit')}, k = {result.k}"
    )
    whole = result.metrics
    if result.segments and fmt == "table":
        # As the parts have it; in rows of one metric each it would be one more.
        whole = {m: {**of, "users": result.users} for m, of in whole.items()}
    parts = {f"{name}: {part}": each for part, each in result.segments.items()}
    write_metrics(result.model, result.number, {name: whole, **parts}, fmt)
    if result.strange:
        say(f"Warning: {result.strange}")
    if left_open := doubt(result.users):
        say(f"Warning: {left_open}.")


def _warn_of_seen(conn: Connection, model: str, number: int, after: datetime) -> None:
    """Warn when the version has learned from what it is asked about."""
    end = versions.get(conn, model, number).spec.get("trained_until")
    if end is None:
        return
    if datetime.fromisoformat(str(end)) > after:
        say(
            f"Warning: version {number} was trained on data up to {end}, so it has seen"
            f" hits that it is asked for. For a fair number train one with"
            f" --until {after.isoformat()}."
        )
