"""The recsys schema: upgrade, downgrade and check, alembic behind three functions.

alembic is imported inside the functions: a request process calls only ``check``.
"""

from __future__ import annotations

import io
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import psycopg
from psycopg import errors as pg
from psycopg import sql as pgsql
from psycopg.rows import tuple_row

from recsys import _db, _sql
from recsys._db import Connection
from recsys.errors import (
    ArtifactError,
    ConfigError,
    DatabaseUnavailable,
    RecsysError,
    SchemaError,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from alembic.config import Config

CORE_REVISION = "0005"
"""The core revision this release of the code needs."""


def check(conn: Connection) -> None:
    """Refuse a database whose schema this code does not fit.

    Raises:
        SchemaError: The schema is missing, older or newer than the code.
    """
    try:
        with conn.transaction():
            cursor = conn.cursor(row_factory=tuple_row)
            row = cursor.execute("select recsys.schema_version()").fetchone()
    except (pg.UndefinedFunction, pg.InvalidSchemaName, pg.UndefinedTable) as exc:
        raise SchemaError("this database has no recsys schema") from exc
    except pg.InsufficientPrivilege as exc:
        raise SchemaError(
            "this role may not use the recsys schema",
            hint="grant recsys_app to <role>; (or recsys_analyst, recsys_trainer)",
        ) from exc
    found = row[0] if row else ""
    if found > CORE_REVISION:
        raise SchemaError(
            f"the database is at recsys revision {found}, newer than this code "
            f"({CORE_REVISION})",
            hint="Upgrade the recsys package, or downgrade the schema with it first.",
        )
    if found < CORE_REVISION:
        raise SchemaError(
            f"the database is at recsys revision {found}, this code needs "
            f"{CORE_REVISION}"
        )


def alembic_config(
    dsn: str, versions: Path | None = None, *, output: TextIO | None = None
) -> Config:
    """Return the alembic configuration of the core and the model revisions.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        versions: The application's folder of model revisions, when it has one.
        output: Where ``--sql`` prints; default stdout.
    """
    from alembic.config import Config

    migrations = _sql.files() / "migrations"
    config = Config(output_buffer=output or sys.stdout, stdout=io.StringIO())
    config.set_main_option("script_location", _escaped(migrations))
    locations = [migrations / "versions"]
    if versions is not None and versions.is_dir():
        locations.append(versions)
    config.set_main_option("version_locations", "\n".join(map(_escaped, locations)))
    config.set_main_option("path_separator", "newline")
    config.attributes["dsn"] = dsn
    return config


def upgrade(
    dsn: str,
    versions: Path | None = None,
    *,
    revision: str = "heads",
    sql: bool = False,
    output: TextIO | None = None,
) -> None:
    """Bring the schema and the declared model versions up.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        versions: The application's folder of model revisions.
        revision: Alembic revision to reach.
        sql: Print the statements instead of running them; needs no server.
        output: Where ``sql`` prints; default stdout.

    Raises:
        DatabaseUnavailable: No server, or pgvector is missing or too old.
        SchemaError: The database names a revision whose file is not here.
    """
    from alembic import command

    if not sql:
        _prepare_extension(dsn)
    with _explained(revision):
        config = alembic_config(dsn, versions, output=output)
        command.upgrade(config, revision, sql=sql)


def downgrade(
    dsn: str,
    versions: Path | None = None,
    *,
    revision: str,
    sql: bool = False,
    stop_serving: bool = False,
    output: TextIO | None = None,
) -> None:
    """Take model versions, or the whole schema, down.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        versions: The application's folder of model revisions.
        revision: Alembic revision to go down to, such as ``model@-1`` or ``base``;
            with ``sql`` a range ``from:to``.
        sql: Print the statements instead of running them.
        stop_serving: Drop even the last version that could serve.
        output: Where ``sql`` prints; default stdout.

    Raises:
        VersionStateError: A version serves and no earlier one can take over.
        SchemaError: The database names a revision whose file is not here.
    """
    from argparse import Namespace

    from alembic import command

    with _explained(revision):
        config = alembic_config(dsn, versions, output=output)
        config.cmd_opts = Namespace(x=["stop_serving=yes"] if stop_serving else [])
        command.downgrade(config, revision, sql=sql)


def _prepare_extension(dsn: str) -> None:
    """Install pgvector when this role may, and refuse an old one."""
    with _db.connect(dsn, autocommit=True) as conn:
        if _db.pgvector_version(conn) is None:
            try:
                conn.execute("create extension if not exists vector")
            except (pg.UniqueViolation, pg.DuplicateObject):
                pass  # another upgrade installed it at this moment
            except (pg.InsufficientPrivilege, pg.FeatureNotSupported) as exc:
                raise DatabaseUnavailable(
                    "pgvector is not installed and this role cannot install it",
                    hint="Install the pgvector package on the server, then as an "
                    "administrator of this database: create extension vector;",
                ) from exc
            except pg.UndefinedFile as exc:
                raise DatabaseUnavailable(
                    "the server has no pgvector package",
                    hint="Install postgresql-NN-pgvector, or use an image that has it.",
                ) from exc
        _db.require_pgvector(conn)
        _require_on_path(conn)


def _require_on_path(conn: Connection) -> None:
    """Refuse a pgvector whose types and operators the session does not find."""
    row = conn.execute(
        "select n.nspname, n.nspname = any (current_schemas(true)), current_user,"
        " current_setting('search_path')"
        " from pg_catalog.pg_extension as e"
        " join pg_catalog.pg_namespace as n on n.oid = e.extnamespace"
        " where e.extname = 'vector'"
    ).fetchone()
    if row is None or row[1]:
        return
    place, _, role, path = row
    schema, name = (pgsql.Identifier(text).as_string(conn) for text in (place, role))
    wanted = f"{path}, {schema}" if path else schema
    raise DatabaseUnavailable(
        f"pgvector is in schema {place!r}, which is not on the search_path of {role}",
        hint=f"alter role {name} set search_path = {wanted}; likewise for every role"
        f" that uses recsys, or: alter database ... set search_path = {wanted};",
    )


@contextmanager
def _explained(revision: str) -> Generator[None]:
    """Turn alembic's and SQLAlchemy's wrappers into our errors, with their cause."""
    from alembic.util.exc import CommandError
    from sqlalchemy.exc import DBAPIError

    if not revision:
        raise SchemaError("the revision is empty", hint="Name one, such as 'base'.")
    try:
        yield
    except CommandError as exc:
        raise _command_error(str(exc), revision) from exc
    except DBAPIError as exc:
        if not isinstance(exc.orig, psycopg.Error):
            raise
        absent = exc.orig.diag.message_hint or ""
        if "recsys artifacts export" in absent:
            raise ArtifactError(
                exc.orig.diag.message_primary or str(exc.orig),
                hint=f"{absent} A revision file that is left of another database: "
                "delete it.",
            ) from exc
        with _db.translated():
            raise exc.orig from exc


def _command_error(message: str, asked: str) -> RecsysError:
    if any(f"'{part}'" in message for part in asked.replace(":", "@").split("@")):
        return ConfigError(
            f"there is no revision {asked!r}",
            hint="Revisions are 'base', 'core@head', 'model@-1' (the last one of any "
            "model) and, for version 2 of model shop, 'shop_2'.",
        )
    if "Can't locate revision" in message:
        return SchemaError(
            f"the database is at a revision whose file is not here ({message})",
            hint="Check 'versions' in recsys.toml, or upgrade the recsys package.",
        )
    return SchemaError(message, hint="'recsys versions' and 'recsys doctor' tell more.")


def _escaped(path: Path) -> str:
    # configparser reads % as interpolation.
    return str(path).replace("%", "%%")
