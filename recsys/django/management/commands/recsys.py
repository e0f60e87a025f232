"""manage.py recsys: the whole recsys command line on the project's database."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import REMAINDER
from collections.abc import Generator, Sequence
from typing import Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    handle_default_options,
)
from django.db import connections

from recsys.django import conf
from recsys.django._source import dsn_of_alias
from recsys.django._terms import TERMS, told
from recsys.errors import RecsysError


class Command(BaseCommand):
    """Run a command of recsys with the database and the recsys.toml of the settings."""

    help = "Run a recsys command with the database and recsys.toml of the settings."
    requires_system_checks: Any = ()

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """Hand the whole line to recsys, which has its own help and options."""
        arguments = list(argv[2:])
        own: list[str] = []
        while arguments and arguments[0].startswith(("--settings", "--pythonpath")):
            own.append(arguments.pop(0))
            if "=" not in own[-1] and arguments:
                own.append(arguments.pop(0))
        options = self.create_parser(argv[0], argv[1]).parse_args(own)
        handle_default_options(options)
        try:
            _run(arguments)
        except CommandError as exc:
            self.stderr.write(f"{type(exc).__name__}: {exc}")
            sys.exit(exc.returncode)
        finally:
            connections.close_all()

    def add_arguments(self, parser: CommandParser) -> None:
        """Take everything as it stands."""
        parser.add_argument("arguments", nargs=REMAINDER)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run a command for ``call_command("recsys", "versions", "shop")``."""
        del args
        with (
            _in_place(),
            contextlib.redirect_stdout(self.stdout._out),  # pyright: ignore[reportAttributeAccessIssue] # where call_command(stdout=...) points
            contextlib.redirect_stderr(self.stderr._out),  # pyright: ignore[reportAttributeAccessIssue]
        ):
            _run([str(argument) for argument in options["arguments"]], raising=True)


@contextlib.contextmanager
def _in_place() -> Generator[None]:
    """Keep 'recsys train' from replacing the caller's process by one that trains."""
    name = "MALLOC_MMAP_MAX_"  # what recsys.cli._malloc looks for
    before = os.environ.get(name)
    os.environ.setdefault(name, "0")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _run(arguments: list[str], *, raising: bool = False) -> None:
    """Run the command line of recsys; it ends the process where it fails.

    Raises:
        CommandError: It failed, and ``raising`` is asked for.
    """
    try:
        from recsys.cli import app
    except ImportError as exc:
        raise CommandError(f"it needs {exc.name}: pip install 'recsys[cli]'") from exc
    try:
        given = conf.current()
        where = ["--dsn", dsn_of_alias(given.database), "--config", str(given.config)]
    except RecsysError as exc:
        raise CommandError(told(exc)) from exc
    try:
        app.run([*where, *arguments], wording=TERMS)
    except SystemExit as exc:
        if not raising:
            raise
        if exc.code not in (None, 0):
            raise CommandError(
                f"'recsys {' '.join(arguments)}' failed", returncode=1
            ) from exc
