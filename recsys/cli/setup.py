"""Commands that set a project up and look after it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from recsys import config as configuration
from recsys import doctor as examination
from recsys import importing, schema, starter
from recsys._db import connect
from recsys._wording import counted, said
from recsys.cli import _malloc
from recsys.cli.bars import Bars, say
from recsys.cli.output import format_option, write_rows
from recsys.errors import ConfigError
from recsys.settings import Settings


def _versions_folder(settings: Settings) -> Path | None:
    """Return the folder of model revisions; the core needs no recsys.toml."""
    if not settings.config.exists():
        return None
    return configuration.load(settings.config).versions


@click.command()
@click.argument("model", default="shop")
@click.pass_obj
def init(settings: Settings, model: str) -> None:
    """Write a commented recsys.toml for MODEL, to be filled with your tables.

    Example:

    \b
        recsys init shop
    """
    starter.write(settings.config, model)
    say(f"Wrote {settings.config}: put your tables in, then 'recsys upgrade'")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("model", required=False)
@click.option("--table", help="Load any CSV into this table instead.")
@click.option("--text", multiple=True, help="With --table: column kept as text.")
@click.option("--replace", is_flag=True, help="Replace the table when it exists.")
@click.pass_obj
def import_(
    settings: Settings,
    file: Path,
    model: str | None,
    table: str | None,
    text: tuple[str, ...],
    replace: bool,
) -> None:
    """Load FILE (CSV, optionally gzip) as interactions of MODEL, or into --table.

    As interactions it needs the columns user_id and item_id; occurred_at and kind are
    optional. The model is declared in recsys.toml unless it is already.

    Example:

    \b
        recsys import train.csv.gz gowalla
        recsys import transactions.csv.gz --table retail --text stock_code
    """
    if (model is None) == (table is None):
        raise ConfigError("name either a MODEL or a --table NAME")
    with connect(settings.dsn) as conn:
        if table is not None:
            result = importing.import_csv(
                conn, file, table, text=text, replace=replace, progress=Bars()
            )
        else:
            result = importing.import_interactions(
                conn,
                file,
                model or "",
                settings.config,
                replace=replace,
                progress=Bars(),
            )
    say(f"Imported {counted(result.rows, 'row')} into {result.table}")


@click.command()
@click.option("--revision", default="heads", show_default=True, help="Revision.")
@click.option("--sql", is_flag=True, help="Print the statements, run nothing.")
@click.pass_obj
def upgrade(settings: Settings, revision: str, sql: bool) -> None:
    """Bring the recsys schema and the declared model versions up.

    Example:

    \b
        recsys upgrade
        recsys upgrade --sql > upgrade.sql
    """
    folder = _versions_folder(settings)
    fresh = not sql and not _has_schema(settings)
    before = {} if sql else _states(settings)
    schema.upgrade(settings.dsn, folder, revision=revision, sql=sql)
    if sql:
        return
    for model, number in sorted(set(_states(settings)) - set(before)):
        say(f"Made version {number} of {model}; next: recsys backfill {model} {number}")
    if fresh:
        say(f"Made the recsys schema, revision {schema.CORE_REVISION}")
    say("The schema is up to date")


def _has_schema(settings: Settings) -> bool:
    with connect(settings.dsn) as conn:
        row = conn.execute("select to_regclass('recsys.model_version')").fetchone()
    return row is not None and row[0] is not None


def _states(settings: Settings) -> dict[tuple[str, int], str]:
    """Return the state of every version; none without the schema."""
    with connect(settings.dsn) as conn:
        row = conn.execute("select to_regclass('recsys.model_version')").fetchone()
        if row is None or row[0] is None:
            return {}
        rows = conn.execute("select model, number, state from recsys.model_version")
        return {(model, number): state for model, number, state in rows}


@click.command()
@click.argument("revision")
@click.option("--sql", is_flag=True, help="Print the statements, run nothing.")
@click.option("--stop-serving", is_flag=True, help="Drop even what nothing replaces.")
@click.pass_obj
def downgrade(settings: Settings, revision: str, sql: bool, stop_serving: bool) -> None:
    """Take model versions or the schema down to REVISION, which stays.

    "model" is the branch of all model versions, in the order they were made; "model@-1"
    is the newest of them. A version that serves hands over to the one before it first.

    Example:

    \b
        recsys downgrade model@-1
        recsys downgrade base --stop-serving
        recsys downgrade shop_2:shop_1 --sql
    """
    before = {} if sql else _states(settings)
    schema.downgrade(
        settings.dsn,
        _versions_folder(settings),
        revision=revision,
        sql=sql,
        stop_serving=stop_serving,
    )
    after = {} if sql else _states(settings)
    for model, number in sorted(set(before) - set(after)):
        again = (
            "'recsys upgrade' would make it again"
            if after or _has_schema(settings)
            else "its artifacts went, too: delete its revision file"
        )
        say(f"Dropped version {number} of {model}; {again}")
    for (model, number), state in sorted(after.items()):
        if state == "serving" and before.get((model, number)) != state:
            say(f"Version {number} of {model} serves now")


@click.command()
@format_option
@click.pass_obj
def doctor(settings: Settings, fmt: str) -> None:
    """Check server, schema, versions and configuration, and say what to do.

    Exit status 1 when a check fails; warnings leave it at 0.

    Example:

    \b
        recsys doctor
    """
    findings = examination.examine(settings)
    rows = [
        {"check": f.check, "result": f.result, "detail": f.detail, "hint": said(f.hint)}
        for f in findings
    ]
    write_rows(rows, fmt, columns=("check", "result", "detail", "hint"))
    if any(f.result == "fail" for f in findings):
        sys.exit(1)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder of a data set.")
@click.option("--fresh", is_flag=True, help="Start over: new data, new version.")
@click.option("--stop", is_flag=True, help="Stop the embedded server, keep its data.")
@click.pass_obj
def demo(settings: Settings, data: Path | None, fresh: bool, stop: bool) -> None:
    """Show the whole path on a synthetic shop, or on a data set with a preset.

    Example:

    \b
        recsys demo
        recsys demo --data ../data/movietweetings
    """
    from recsys.demo import run, stop_server

    if stop:
        stopped = stop_server(settings)
        say("Stopped" if stopped else "No embedded server runs from this folder")
        return
    _malloc.use_arena_settings()
    run(settings, data=data, fresh=fresh)
