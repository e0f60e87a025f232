"""Commands that carry the files of versions between databases."""

from __future__ import annotations

from pathlib import Path

import click

from recsys import artifacts, schema, versions
from recsys._db import connect
from recsys._wording import counted
from recsys.cli.bars import say
from recsys.settings import Settings


@click.group("artifacts")
def artifacts_() -> None:
    """Carry the files of a version from one database to another."""


@artifacts_.command("export")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--number", type=int, help="Only this version; default: every one.")
@click.pass_obj
def export(settings: Settings, model: str, folder: Path, number: int | None) -> None:
    """Write the artifacts of the versions of MODEL to FOLDER.

    Model revisions are a chain: a database that runs them from the start needs the
    artifacts of all.

    Example:

    \b
        recsys artifacts export shop ./artifacts
    """
    with connect(settings.dsn) as conn:
        if number is not None:
            versions.get(conn, model, number)
        files = [
            file
            for version in versions.list_versions(conn, model)
            if number in (None, version.number)
            for file in artifacts.export_version(conn, model, version.number, folder)
        ]
    say(f"Wrote {counted(len(files), 'file')} to {folder}")


@artifacts_.command("import")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.pass_obj
def import_(settings: Settings, folder: Path) -> None:
    """Store the artifacts of FOLDER in this database.

    Example:

    \b
        recsys artifacts import ./artifacts
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        hashes = artifacts.import_folder(conn, folder)
    say(f"Stored {len(hashes)} artifacts")
