"""``flask recsys ...``: every command of ``recsys`` on the application's database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click
from flask import current_app
from flask.cli import with_appcontext

from recsys._wording import Wording, speaking

WORDING = Wording(
    "flask recsys",
    {
        "Set RECSYS_DSN (or PGHOST, PGUSER, ...)": "Set SQLALCHEMY_DATABASE_URI, or"
        " RECSYS_DSN of app.config,",
        "set RECSYS_DSN": "set RECSYS_DSN of app.config",
    },
)
"""Hints as whoever types ``flask recsys`` needs them."""


class _Mirror(click.Group):
    """The commands of ``recsys``, imported when one is looked for.

    A web process makes this group and has no use for alembic and rich.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _commands().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _commands().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        from recsys.cli.app import explain

        with speaking(WORDING):
            try:
                return super().invoke(ctx)
            except Exception as exc:
                told = explain(exc)
                if told is None:
                    raise
                raise _Failed(*told) from exc


class _Failed(click.ClickException):
    """An error and its hint on stderr; exit status 1, as 'recsys' has it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        super().show(file)
        if self.hint:
            click.echo(f"Hint: {self.hint}", file=file, err=file is None)


def _commands() -> click.Group:
    try:
        from recsys.cli.app import cli
    except ImportError as exc:
        raise click.ClickException(
            f"the command line needs {exc.name}: pip install 'recsys[cli]'"
        ) from exc
    return cli


@click.group("recsys", cls=_Mirror)
@click.option("--dsn", help="Connection string; default the application's database.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Path of recsys.toml; default RECSYS_CONFIG or ./recsys.toml.",
)
@with_appcontext
@click.pass_context
def group(ctx: click.Context, dsn: str | None, config: Path | None) -> None:
    """Train, serve and watch the models of recsys."""
    settings = current_app.extensions["recsys"].cli_settings()
    if dsn is not None:
        settings = replace(settings, dsn=dsn)
    if config is not None:
        settings = replace(settings, config=config)
    ctx.obj = settings
