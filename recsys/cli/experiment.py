"""Commands over experiments."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import click

from recsys import schema
from recsys._db import connect
from recsys.cli.bars import say
from recsys.cli.output import Row, format_option, write_rows
from recsys.errors import ConfigError
from recsys.experiment import metrics as measures
from recsys.experiment import plot, power, report, store
from recsys.experiment.report import Result, signed
from recsys.experiment.stats import EXPECTED_USERS
from recsys.settings import Settings

LIST_COLUMNS = (
    "experiment",
    "model",
    "state",
    "traffic",
    "arms",
    "primary_metric",
    "*alpha",
    "*expected_users",
    "*covariate_days",
    "*hypothesis",
    "*created_at",
    "*created_by",
    "started_at",
    "stopped_at",
    "*reason",
)
SHOW_COLUMNS = ("metric", "arm", "users", "mean", "lift", "sequence", "interval", "p")


@click.group("experiment")
def experiment() -> None:
    """Compare versions of a model on users: A/B tests with statistics."""


@experiment.command("create")
@click.argument("name")
@click.argument("model")
@click.option(
    "--arm",
    "arms",
    multiple=True,
    required=True,
    metavar="NAME=VERSION:PERCENT",
    help="An arm; give two or more, whose percents add up to 100.",
)
@click.option("--control", help='Default: the arm "control", else the first.')
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    default=("ctr",),
    show_default=True,
    help="A preset or NAME=NUMERATOR/DENOMINATOR; the first decides.",
)
@click.option(
    "--traffic", default=100.0, show_default=True, help="Percent of the users."
)
@click.option("--hypothesis", default="", help="What is expected to happen, and why.")
@click.option(
    "--alpha", default=0.05, show_default=True, help="Chance of a false alarm."
)
@click.option(
    "--expected-users",
    default=EXPECTED_USERS,
    show_default=True,
    help="Users at which the sequences are narrowest.",
)
@click.option(
    "--covariate-days",
    default=store.COVARIATE_DAYS,
    show_default=True,
    help="Days before the start that CUPED reads; 0: none.",
)
@click.pass_obj
def create(
    settings: Settings,
    name: str,
    model: str,
    arms: tuple[str, ...],
    control: str | None,
    metrics: tuple[str, ...],
    traffic: float,
    hypothesis: str,
    alpha: float,
    expected_users: int,
    covariate_days: int,
) -> None:
    """Write down experiment NAME on MODEL as a draft; nobody is assigned yet.

    Example:

    \b
        recsys experiment create bigger shop --arm control=1:50 --arm new=2:50 \\
            --metric ctr --metric conversion --hypothesis "more dimensions, more clicks"
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        made = store.create(
            conn,
            name,
            model,
            [store.parse_arm(text) for text in arms],
            control=control,
            metrics=[measures.parse_metric(text) for text in metrics],
            traffic=traffic,
            hypothesis=hypothesis,
            alpha=alpha,
            expected_users=expected_users,
            covariate_days=covariate_days,
        )
    say(f"{name}: {made.arms} on {made.traffic:f} % of the users of {model}")
    say(f"Next: recsys experiment start {name}")


@experiment.command("start")
@click.argument("name")
@click.option("--reason", default="", help="Kept in recsys.audit_log.")
@click.option("--force", is_flag=True, help="Without passed comparisons; --reason why.")
@click.pass_obj
def start(settings: Settings, name: str, reason: str, force: bool) -> None:
    """Assign users to the arms of NAME from this commit on.

    Every version but the serving one needs a comparison with it that passed.

    Example:

    \b
        recsys experiment start bigger
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        store.start(conn, name, reason=reason, force=force)
    say(f"{name}: running")


@experiment.command("stop")
@click.argument("name")
@click.option("--reason", default="", help="What was decided; kept.")
@click.pass_obj
def stop(settings: Settings, name: str, reason: str) -> None:
    """Stop NAME: the rollout serves everybody again, the results stay readable.

    Where keeping the results failed, stop it again: they are read once more.

    Example:

    \b
        recsys experiment stop bigger --reason "ctr +4 %, version 2 goes live"
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        store.stop(conn, name, reason=reason)
        conn.commit()
        store.keep_results(conn, name)
    say(f"{name}: stopped; recsys experiment show {name}")


@experiment.command("list")
@click.argument("model", required=False)
@format_option
@click.pass_obj
def list_(settings: Settings, model: str | None, fmt: str) -> None:
    """List the experiments of MODEL (default: of every model), newest first.

    Example:

    \b
        recsys experiment list shop --format json
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        rows = [asdict(row) for row in store.list_experiments(conn, model)]
    write_rows(rows, fmt, columns=LIST_COLUMNS)


@experiment.command("assign")
@click.argument("name")
@click.argument("units", nargs=-1, required=True)
@format_option
@click.pass_obj
def assign(settings: Settings, name: str, units: tuple[str, ...], fmt: str) -> None:
    """Show in which arm of NAME the given users (or session keys) are.

    Works before the start too: nothing is written.

    Example:

    \b
        recsys experiment assign bigger 7 8 9
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        arms = store.preview(conn, name, units)
    rows = [{"unit": u, "arm": arm} for u, arm in zip(units, arms, strict=True)]
    write_rows(rows, fmt, columns=("unit", "arm"))


@experiment.command("show")
@click.argument("name")
@click.option(
    "--plot",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the course over the days as one HTML file.",
)
@format_option
@click.pass_obj
def show(settings: Settings, name: str, path: Path | None, fmt: str) -> None:
    """Show the results of NAME: arms side by side, intervals, a verdict.

    'sequence' may be read at every look; 'interval' and 'p' only at a planned end.

    Example:

    \b
        recsys experiment show bigger --plot bigger.html
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        found = report.report(conn, name)
        course = report.course(conn, name) if path else []
    if found.mismatch:
        say(f"WARNING: {found.mismatch}")
    if found.missing:
        say(f"WARNING: {found.missing}")
    if fmt == "table":
        write_rows([_row(r) for r in found.results], fmt, columns=SHOW_COLUMNS)
    else:
        columns = ("experiment", *Result.__slots__)
        rows = [{"experiment": name, **asdict(r)} for r in found.results]
        write_rows(rows, fmt, columns=columns)
    say(found.verdict)
    if path:
        plot.write(path, found, course)
        say(f"Wrote {path}")


def _row(result: Result) -> Row:
    relative = result.lift is not None
    if relative:
        change = result.lift
        fixed = (result.lift_low, result.lift_high)
        sequence = (result.lift_sequence_low, result.lift_sequence_high)
    else:
        change = result.difference
        fixed = (result.low, result.high)
        sequence = (result.sequence_low, result.sequence_high)
    return {
        "metric": result.metric,
        "arm": result.arm + ("*" if result.is_control else ""),
        "users": result.users,
        "mean": result.mean,
        "lift": result.note
        if change is None and result.note
        else signed(change, relative),
        "sequence": _between(sequence, relative),
        "interval": _between(fixed, relative),
        "p": result.p_adjusted,
    }


def _between(bounds: tuple[float | None, float | None], relative: bool) -> str:
    if None in bounds:
        return "-"
    return " to ".join(signed(bound, relative) for bound in bounds)


@experiment.command("power")
@click.option(
    "--baseline", type=float, required=True, help="The metric of the control."
)
@click.option(
    "--lift",
    "lifts",
    type=float,
    multiple=True,
    required=True,
    help="Relative change to be found, such as 0.05; may be repeated.",
)
@click.option(
    "--deviation",
    type=float,
    help="Standard deviation of a user's value; default: of a conversion.",
)
@click.option("--daily-users", type=float, help="New users per day, all arms.")
@click.option("--share", default=0.5, show_default=True, help="The treatment's share.")
@click.option(
    "--alpha", default=0.05, show_default=True, help="Chance of a false alarm."
)
@click.option(
    "--power", "target", default=0.8, show_default=True, help="Chance to find the lift."
)
@click.option(
    "--variance-reduction",
    default=0.0,
    show_default=True,
    help="Share of the variance that CUPED removes.",
)
@click.option("--sequential", is_flag=True, help="For the sequence, read once.")
@format_option
def power_(
    baseline: float,
    lifts: tuple[float, ...],
    deviation: float | None,
    daily_users: float | None,
    share: float,
    alpha: float,
    target: float,
    variance_reduction: float,
    sequential: bool,
    fmt: str,
) -> None:
    """Say how many users it takes to find a lift, and how many days.

    Example:

    \b
        recsys experiment power --baseline 0.04 --lift 0.05 --daily-users 2000
    """
    if deviation is None:
        if not 0 < baseline < 1:
            raise ConfigError(
                "a conversion rate lies between 0 and 1",
                hint="Pass --deviation for other metrics.",
            )
        deviation = math.sqrt(baseline * (1 - baseline))
    plans = [
        power.plan(
            baseline,
            deviation,
            lift,
            alpha=alpha,
            target=target,
            share=share,
            daily_users=daily_users,
            variance_reduction=variance_reduction,
            sequential=sequential,
        )
        for lift in lifts
    ]
    write_rows([asdict(plan) for plan in plans], fmt)
