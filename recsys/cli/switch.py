"""Commands that change who is served by what."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from typing import Any

import click

from recsys import clean_up, rollout, versions
from recsys._db import Connection, connect
from recsys._wording import counted
from recsys.cli.bars import say
from recsys.errors import ConfigError
from recsys.settings import Settings

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType[timedelta]):
    """A whole number and its unit: 90s, 30m, 6h, 1d."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        """Read one."""
        match = re.fullmatch(r"(\d+)([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90s, 30m or 1d", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


@click.command()
@click.argument("model")
@click.argument("number")
@click.option("--percent", help="Share of the users, two decimals at most.")
@click.option("--ramp", help="Percentages to go through, such as 1,5,25,50,100.")
@click.option("--every", type=Duration(), help="Time between the steps of --ramp.")
@click.option("--reason", default="", help="Kept in recsys.switch_log and audit_log.")
@click.option("--unguarded", is_flag=True, help="Ramp by time, whatever is logged.")
@click.option(
    "--force", is_flag=True, help="Without a passed comparison; --reason why."
)
@click.pass_obj
def promote(
    settings: Settings,
    model: str,
    number: str,
    percent: str | None,
    ramp: str | None,
    every: timedelta | None,
    reason: str,
    unguarded: bool,
    force: bool,
) -> None:
    """Let version NUMBER of MODEL answer users; 'none' stops serving.

    Without --percent or --ramp it answers everybody from this commit on. A ramp is
    advanced by 'recsys worker', once the guardrails have seen enough answers (see
    'recsys guardrail') and hold. Every version but the first must have passed 'recsys
    compare'.

    Example:

    \b
        recsys promote shop 2 --percent 10
        recsys promote shop 2 --ramp 1,5,25,50,100 --every 30m
        recsys promote shop 2 --reason "recall +4 %"
    """
    wanted = _number(number)
    if ramp is not None:
        _ramp(settings, model, wanted, ramp, every, percent, reason, force, unguarded)
        return
    if every is not None:
        raise ConfigError(
            "--every belongs to --ramp",
            hint="recsys promote shop 2 --ramp 1,5,25,50,100 --every 30m",
        )
    if wanted is None and percent is not None:
        raise ConfigError(
            "'none' stops serving for everybody",
            hint="Leave out --percent, or name the version that takes the share.",
        )
    share = rollout.check_percent("100" if percent is None else percent)
    with connect(settings.dsn) as conn:
        before = rollout.promote(
            conn, model, wanted, percent=share, reason=reason, force=force
        )
        _name_experiment(conn, model)
    if share < 100:
        say(f"{model}: version {number} answers {percent} %, version {before} the rest")
        say(f"Next: recsys promote {model} {number} | recsys rollback {model}")
    elif before == wanted:
        say(f"{model}: version {number} serves everybody")
    else:
        say(f"{model}: version {before or 'none'} -> {number}")


def _name_experiment(conn: Connection, model: str) -> None:
    """Say who is not concerned by a switch: an experiment assigns its users itself."""
    row = conn.execute(
        "select e.name, string_agg(distinct a.number::text, ', ')"
        " from recsys.experiment as e"
        " join recsys.experiment_arm as a on a.experiment = e.name"
        " where e.model = %s and e.state = 'running' group by 1",
        (model,),
    ).fetchone()
    if row:
        say(f"Note: experiment {row[0]} goes on serving its users by {row[1]}")
        say(f"      recsys experiment stop {row[0]}")


def _number(text: str) -> int | None:
    if text != "none" and not text.isdecimal():
        raise ConfigError(
            f"NUMBER must be a version number or 'none', got {text!r}",
            hint="'recsys versions' lists them.",
        )
    return None if text == "none" else int(text)


def _ramp(
    settings: Settings,
    model: str,
    number: int | None,
    ramp: str,
    every: timedelta | None,
    percent: str | None,
    reason: str,
    force: bool,
    unguarded: bool,
) -> None:
    if number is None or percent is not None or every is None:
        raise ConfigError(
            "--ramp needs a version and --every, and no --percent",
            hint="recsys promote shop 2 --ramp 1,5,25,50,100 --every 30m",
        )
    steps = [step.strip() for step in ramp.split(",")]
    with connect(settings.dsn) as conn:
        rollout.ramp(
            conn,
            model,
            number,
            steps,
            every,
            reason=reason,
            force=force,
            guarded=not unguarded,
        )
        _name_experiment(conn, model)
    say(f"{model}: version {number} answers {steps[0]} %")
    if len(steps) > 1:
        say(f"'recsys worker' goes on to {', '.join(steps[1:])} %, one every {every}")
    if len(steps) > 1 and not unguarded:
        say("It waits for enough logged answers: Recommender(..., impressions=...)")


@click.command()
@click.argument("model")
@click.option("--reason", default="rollback", help="Kept in the logs.")
@click.pass_obj
def rollback(settings: Settings, model: str, reason: str) -> None:
    """Take the users of MODEL back, in one commit.

    From a version that is being rolled out, to the base; else to the version that
    served before.

    Example:

    \b
        recsys rollback shop --reason "returns are up"
    """
    with connect(settings.dsn) as conn:
        number = rollout.rollback(conn, model, reason=reason)
        _name_experiment(conn, model)
    say(f"{model}: version {number} serves everybody again")


@click.command()
@click.argument("model")
@click.argument("number", type=int)
@click.option("--reason", default="", help="Kept in the audit.")
@click.pass_obj
def retire(settings: Settings, model: str, number: int, reason: str) -> None:
    """Stop keeping version NUMBER of MODEL up to date; the clean-up drops it later.

    Until then 'recsys backfill' brings it back.

    Example:

    \b
        recsys retire shop 1
    """
    with connect(settings.dsn) as conn:
        rollout.retire(conn, model, number, reason=reason)
    say(f"{model}: version {number} is retired")


@click.command()
@click.argument("model")
@click.argument("number", type=int)
@click.option("--stop-serving", is_flag=True, help="Even if nothing can take over.")
@click.option("--yes", is_flag=True, help="Do not ask at a terminal.")
@click.pass_obj
def drop(
    settings: Settings, model: str, number: int, stop_serving: bool, yes: bool
) -> None:
    """Drop version NUMBER of MODEL: one made with --no-revision, or an old one.

    The newest version with a revision file goes with 'recsys downgrade'. At a terminal
    it asks first.

    Example:

    \b
        recsys drop shop 1
    """
    # A program that was started without a standard input has None there.
    asks = not yes and sys.stdin is not None and sys.stdin.isatty()
    if asks and not _agreed(settings, model, number):
        say("Nothing was dropped.")
        sys.exit(1)
    with connect(settings.dsn) as conn:
        # Requests must not wait for the removal of the tables.
        rollout.hand_over(conn, model, number, stop_serving=stop_serving)
        conn.commit()
        rollout.drop(conn, model, number, stop_serving=stop_serving)
        left = versions.list_versions(conn, model)
    say(f"{model}: version {number} dropped")
    if not left:
        say(f"No version is left: 'recsys unwatch {model}' stops capturing changes")


def _agreed(settings: Settings, model: str, number: int) -> bool:
    """Ask whether a version is to go; no transaction waits for the answer."""
    with connect(settings.dsn) as conn:
        state = versions.get(conn, model, number).state
    return click.confirm(
        f"Version {number} of {model} is {state}. Drop its vectors, index and learned"
        " rows for good?",
        err=True,
    )


@click.command()
@click.argument("model")
@click.option("--versions", "count", type=int, help="Superseded versions to keep.")
@click.option("--grace", type=Duration(), help="Time before anything is cleaned up.")
@click.pass_obj
def keep(
    settings: Settings, model: str, count: int | None, grace: timedelta | None
) -> None:
    """Say how many superseded versions of MODEL the clean-up leaves, and for how long.

    What serves, what a rollback goes back to and what an experiment uses always stays.

    Example:

    \b
        recsys keep shop --versions 2 --grace 1d
    """
    with connect(settings.dsn) as conn:
        kept, after = clean_up.keep(conn, model, versions_kept=count, grace=grace)
    left = counted(kept, "superseded version stays", "superseded versions stay")
    say(f"{model}: {left}; others are cleaned up after {after}")
