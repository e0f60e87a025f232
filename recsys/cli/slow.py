"""The command over slow requests."""

from __future__ import annotations

import click

from recsys import slow as requests
from recsys._db import connect
from recsys.cli.output import format_option, write_rows
from recsys.settings import Settings

COLUMNS = (
    "occurred_at", "model", "version", "channel", "k", "returned", "total_ms",
    "slowest", "*connection_ms", "*state_ms", "*tower_ms", "*candidates_ms",
    "*degraded", "*error", "request_id", "*user_id", "*filter", "*plan", "*plan_error",
)  # fmt: skip


@click.command()
@click.argument("model", required=False)
@click.option("-n", "limit", default=20, show_default=True, help="How many, newest.")
@click.option("--plans", is_flag=True, help="The plans of their statements instead.")
@format_option
@click.pass_obj
def slow(
    settings: Settings, model: str | None, limit: int, plans: bool, fmt: str
) -> None:
    """Show the slow requests that were kept (recsys.slow.SlowRequests).

    Example:

    \b
        recsys slow shop
        recsys slow shop -n 1 --plans
    """
    with connect(settings.dsn) as conn:
        rows = requests.kept(conn, model, limit)
    if not plans:
        write_rows(rows, fmt, columns=COLUMNS)
        return
    for row in rows:
        click.echo(f"{row['model']} {row['request_id']}: {row['total_ms']:.0f} ms")
        if row["filter"]:
            click.echo(f"-- among\n{row['filter']}\n")
        click.echo(f"{row['plan'] or row['plan_error']}\n")
