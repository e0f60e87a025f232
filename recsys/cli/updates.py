"""Commands over incremental updates: list them, undo them."""

from __future__ import annotations

from datetime import UTC

import click
from psycopg.rows import dict_row

from recsys import schema, versions
from recsys._certainty import doubt
from recsys._db import Connection, connect
from recsys._untimed import is_untimed, no_news
from recsys.cli.bars import Bars, say
from recsys.cli.output import Row, format_option, write_rows
from recsys.config import load
from recsys.errors import ConfigError
from recsys.settings import Settings

COLUMNS = (
    "id", "*model", "number", "state", "began_at", "*seconds", "*since", "*until",
    "read", "trained", "*left_out", "changed", "users", "recall", "ndcg", "*hit_rate",
    "*guard_before", "*guard_after", "can_undo", "*reason",
)  # fmt: skip


@click.command("updates")
@click.argument("model")
@click.option("-n", "most", default=20, show_default=True, help="Newest so many.")
@format_option
@click.pass_obj
def updates_(settings: Settings, model: str, most: int, fmt: str) -> None:
    """List the incremental updates of MODEL, newest first.

    users, recall and ndcg are those of the rows before each update, on interactions
    that they had not learned from, at 20.

    Example:

    \b
        recsys updates shop
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        versions.list_versions(conn, model)
        with conn.cursor(row_factory=dict_row) as cur:
            rows = cur.execute(
                "select * from recsys.update_log where model = %s"
                " order by id desc limit %s",
                (model, most),
            ).fetchall()
        if not rows:
            say(_none_yet(conn, model))
    if rows or fmt != "table":
        write_rows(rows, fmt, columns=COLUMNS)


def _none_yet(conn: Connection, model: str) -> str:
    """Say how the first update is made, or why there can be none."""
    number = versions.serving_number(conn, model)
    version = None if number is None else versions.get(conn, model, number)
    if version is not None and is_untimed(version):
        problem = no_news(version)
        return f"No updates: {problem}. {problem.hint}"
    return f"No updates yet: recsys train {model} --incremental"


@click.command("undo-update")
@click.argument("model")
@click.option("--version", "number", type=int, help="Default: the base that serves.")
@click.option("--updates", default=1, show_default=True, help="Newest so many.")
@click.option("--all", "every", is_flag=True, help="Back to the rows as trained.")
@click.option("--reason", default="", help="Kept with the update.")
@click.pass_obj
def undo_update(
    settings: Settings,
    model: str,
    number: int | None,
    updates: int,
    every: bool,
    reason: str,
) -> None:
    """Bring back the learned rows of MODEL before its newest incremental updates.

    One transaction; requests see the rows before or after it. What the updates had
    learned from is not learned from again before the next full update.

    Example:

    \b
        recsys undo-update shop
        recsys undo-update shop --all --reason "bot traffic"
    """
    from recsys.updates import publish
    from recsys.updates.run import serving

    if updates < 1:
        raise ConfigError(f"--updates must be at least 1, got {updates}")
    with connect(settings.dsn, autocommit=True) as conn:
        schema.check(conn)
        version = (
            serving(conn, model)[0]
            if number is None
            else versions.get(conn, model, number)
        )
        if every:
            done = publish.undo_all(conn, version, reason)
        else:
            done = publish.undo(conn, version, updates, reason)
    listed = ", ".join(map(str, done)) or "none"
    say(f"Version {version.number} of {model}: undone updates: {listed}")


def update_now(settings: Settings, model: str, max_load: float, fmt: str) -> None:
    """Run one incremental update of every version that serves."""
    from recsys.updates import run

    if not 0 < max_load <= 1:
        raise ConfigError(f"--max-load must be above 0 and up to 1, got {max_load:g}")
    config = load(settings.config).model(model).update
    done = run.update(settings.dsn, model, config, max_load=max_load, progress=Bars())
    rows: list[Row] = []
    for one in done:
        metrics = one.metrics or {}
        rows.append(
            {
                "number": one.number,
                "state": one.state,
                "read": one.read,
                "trained": one.trained,
                "changed": one.changed,
                "users": metrics.get("users"),
                "recall": metrics.get("recall"),
                "ndcg": metrics.get("ndcg"),
                "seconds": round(one.seconds, 1),
            }
        )
    write_rows(rows, fmt, columns=list(rows[0]))
    for one in done:
        if one.since:
            say(
                f"Version {one.number}: nothing new from"
                f" {one.since.astimezone(UTC):%F %T} UTC on. What arrives more than"
                f" {config.overlap_s:g} s (update.overlap_s) after its time waits for"
                " the next full update."
            )
        users = (one.metrics or {}).get("users")
        if users and (left_open := doubt(int(users))):
            say(f"Warning: version {one.number}: {left_open}.")
        if one.reason:
            say(f"Version {one.number} keeps its rows: {one.reason}")
        if one.left_out:
            reasons = ", ".join(f"{n:,} {why}" for why, n in one.left_out.items())
            say(f"Version {one.number} left out: {reasons.replace('_', ' ')}")
