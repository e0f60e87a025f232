"""Commands over guardrails."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import click

from recsys import guardrails
from recsys._db import Connection, connect
from recsys._guardrail import METRICS, Action, Guardrail, Kind, Metric
from recsys.cli._options import Moment
from recsys.cli.bars import say
from recsys.cli.output import Row, format_option, write_rows
from recsys.errors import ConfigError
from recsys.settings import Settings

LIST_COLUMNS = ("metric", "kind", "bound", "min_sample", "action", "source")
CHECK_COLUMNS = (
    "metric", "kind", "bound", "base", "candidate", "answers", "verdict", "*reason",
)  # fmt: skip


class Share(click.ParamType[float]):
    """A number, or a percentage: "10%" is 0.1."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Read it."""
        text = str(value).strip()
        try:
            if text.endswith("%"):
                return float(text[:-1]) / 100
            return float(text)
        except ValueError:
            self.fail(f"{value!r} is not a number such as 0.1 or 10%", param, ctx)


@click.group("guardrail")
def guardrail() -> None:
    """Bounds that stop or roll back a ramp by themselves."""


@guardrail.command("set")
@click.argument("model")
@click.argument("metric", type=click.Choice(METRICS))
@click.option("--max", "max_", type=Share(), help="At most this, absolute.")
@click.option("--max-rise", type=Share(), help="At most so far above the base.")
@click.option("--max-ratio", type=Share(), help="At most so many times the base.")
@click.option("--max-drop", type=Share(), help="At most this share below the base.")
@click.option("--off", is_flag=True, help="Not even the default.")
@click.option(
    "--min-sample", default=100, show_default=True,
    help="Fewest answers of a version before anything is concluded.",
)  # fmt: skip
@click.option(
    "--action", type=click.Choice(["stop", "rollback"]), default="stop",
    show_default=True, help="What a ramp does.",
)  # fmt: skip
@click.pass_obj
def set_(
    settings: Settings,
    model: str,
    metric: str,
    max_: float | None,
    max_rise: float | None,
    max_ratio: float | None,
    max_drop: float | None,
    off: bool,
    min_sample: int,
    action: str,
) -> None:
    """Set the bound of METRIC for candidates of MODEL.

    Rates (error_rate, degraded_rate, short_page_rate) take --max or --max-rise,
    latency_p99_ms takes --max (milliseconds) or --max-ratio, and ctr, conversion and
    revenue take --max-drop.

    Example:

    \b
        recsys guardrail set shop error_rate --max 1% --action rollback
        recsys guardrail set shop latency_p99_ms --max-ratio 1.5 --min-sample 500
        recsys guardrail set shop ctr --max-drop 10%
    """
    given = {
        "max": max_, "max_rise": max_rise, "max_ratio": max_ratio,
        "max_drop": max_drop, "off": 0.0 if off else None,
    }  # fmt: skip
    bounds = [(kind, bound) for kind, bound in given.items() if bound is not None]
    if len(bounds) != 1:
        raise ConfigError(
            "a guardrail has exactly one bound",
            hint="Give one of --max, --max-rise, --max-ratio, --max-drop or --off.",
        )
    kind, bound = bounds[0]
    rail = Guardrail(
        cast(Metric, metric), cast(Kind, kind), bound, min_sample, cast(Action, action)
    )
    with connect(settings.dsn) as conn:
        guardrails.put(conn, model, rail)
    say(f"{model}: {metric} {_words(rail)}")


def _words(rail: Guardrail) -> str:
    if rail.kind == "off":
        return "is not watched"
    return f"--{rail.kind.replace('_', '-')} {rail.bound:g}, else {rail.action}"


@guardrail.command("list")
@click.argument("model")
@format_option
@click.pass_obj
def list_(settings: Settings, model: str, fmt: str) -> None:
    """Show the guardrails of MODEL, defaults included.

    Example:

    \b
        recsys guardrail list shop
    """
    with connect(settings.dsn) as conn:
        rows: list[Row] = [
            {"metric": rail.metric, "kind": rail.kind, "bound": rail.bound,
             "min_sample": rail.min_sample, "action": rail.action,
             "source": "default" if rail.default else "set"}
            for rail in guardrails.guardrails(conn, model)
        ]  # fmt: skip
    write_rows(rows, fmt, columns=LIST_COLUMNS)


@guardrail.command("remove")
@click.argument("model")
@click.argument("metric", type=click.Choice(METRICS))
@click.pass_obj
def remove(settings: Settings, model: str, metric: str) -> None:
    """Return to the default of METRIC, where it has one.

    Example:

    \b
        recsys guardrail remove shop ctr
    """
    with connect(settings.dsn) as conn:
        removed = guardrails.remove(conn, model, metric)
    said = "has its default again" if removed else "had no bound of its own"
    say(f"{model}: {metric} {said}")


@guardrail.command("check")
@click.argument("model")
@click.option("--since", type=Moment(), help="Default: the last change of percentage.")
@format_option
@click.pass_obj
def check(settings: Settings, model: str, since: datetime | None, fmt: str) -> None:
    """Compare the candidate of MODEL with the base, as a ramp does.

    Example:

    \b
        recsys guardrail check shop
        recsys guardrail check shop --since 2026-03-01T12:00 --format json
    """
    with connect(settings.dsn) as conn:
        found = guardrails.readings(conn, model, since=since or _begin(conn, model))
    rows: list[Row] = [
        {"metric": r.guardrail.metric, "kind": r.guardrail.kind,
         "bound": r.guardrail.bound, "base": r.base, "candidate": r.candidate,
         "answers": r.answers, "verdict": r.verdict,
         "reason": r.breach.reason if r.breach else None}
        for r in found
    ]  # fmt: skip
    write_rows(rows, fmt, columns=CHECK_COLUMNS)
    for reading in found:
        if reading.breach:
            say(f"{reading.breach.action}: {reading.breach.reason}")
    if not found:
        say(f"{model}: no candidate is being rolled out")


def _begin(conn: Connection, model: str) -> datetime:
    """Return when the candidate got its present share."""
    row = conn.execute(
        "select max(promoted_at) from recsys.promotion where model = %s", (model,)
    ).fetchone()
    return (row[0] if row else None) or datetime(1970, 1, 1, tzinfo=UTC)
