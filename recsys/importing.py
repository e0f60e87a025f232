"""CSV files into tables, and a published split into a ready model."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from recsys import _csv
from recsys._csv import Column, Layout
from recsys._declare import declare
from recsys.config import ID_TYPES, from_mapping, load
from recsys.errors import ConfigError, SourceError
from recsys.progress import SILENT, Progress

_TABLE = re.compile(r"(?:[a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,62}")
_TIMES = ("occurred_at", "timestamp")


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        table: The table that was made.
        rows: Rows in it.
        columns: Its columns in the order of the file.
        configured: recsys.toml when a model was appended to it, else None.
    """

    table: str
    rows: int
    columns: tuple[Column, ...]
    configured: Path | None = None


def import_csv(
    conn: psycopg.Connection,
    path: Path | str,
    table: str,
    *,
    text: Collection[str] = (),
    replace: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Load a CSV file, gzipped or not, into a new table.

    Types are inferred from every row: bigint, double precision, timestamp,
    timestamptz, boolean, uuid or text. Numbers with leading zeros, such as 0111161,
    are codes and stay text. An empty cell is NULL. The caller commits.

    Args:
        conn: An open connection.
        path: The file, UTF-8, with a first line that names the columns.
        table: Name of the table, with or without a schema.
        text: Columns that stay text whatever they hold.
        replace: Drop a table of that name first.
        progress: Receives the progress, in bytes.

    Returns:
        The table's columns and number of rows.

    Raises:
        ConfigError: The table name is not usable, the table exists, or ``text`` names
            a column the file does not have.
        SourceError: The file cannot be read; the message names the line.

    Example:
        >>> import_csv(conn, "movies.csv.gz", "movie")
        Imported(table='movie', rows=12611, columns=(Column(name='item_id', ...
    """
    path = Path(path)
    _check_table(conn, table, replace=replace)
    names, _ = _csv.header(path)
    for name in text:
        if name not in names:
            raise ConfigError(
                f"{path} has no column {name!r}", hint=f"It has: {', '.join(names)}."
            )
    layout = _scan(path, text=text, required=(), progress=progress)
    _load(conn, path, table, layout, replace=replace, progress=progress)
    return Imported(table, layout.rows, layout.columns)


def import_interactions(
    conn: psycopg.Connection,
    path: Path | str,
    model: str,
    config_path: Path | str,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Load a published split and declare a model over it.

    The file has the columns user_id and item_id and optionally kind and occurred_at
    (or timestamp: seconds or milliseconds since 1970, or ISO times, UTC when they name
    no zone). It becomes the table ``<model>_interaction``. When recsys.toml declares
    no model of that name, a commented section is appended. The caller commits.

    Args:
        conn: An open connection.
        path: The CSV file, gzipped or not.
        model: Name of the model.
        config_path: The recsys.toml; made when it does not exist.
        replace: Drop an earlier ``<model>_interaction`` first.
        progress: Receives the progress, in bytes.

    Returns:
        The table, and recsys.toml when it was extended.

    Raises:
        ConfigError: The model name is not usable, the table exists, or recsys.toml is
            not valid.
        SourceError: The file cannot be read or lacks a column or an id.
    """
    path, config_path = Path(path), Path(config_path)
    declared = config_path.exists() and model in load(config_path).models
    source = {"sql": "select"}
    from_mapping({"model": {model: {"items": source, "interactions": source}}})
    table = f"{model}_interaction"
    _check_table(conn, table, replace=replace)
    layout = _scan_interactions(path, progress)
    with conn.transaction():  # all or nothing, also on an autocommit connection
        _load(conn, path, table, layout, replace=replace, progress=progress)
        columns = _finish(conn, table, layout.columns)
    if declared:
        return Imported(table, layout.rows, columns)
    declare(config_path, model, table, columns, _kinds(conn, table, columns))
    return Imported(table, layout.rows, columns, configured=config_path)


def _scan(
    path: Path,
    *,
    text: Collection[str],
    required: Collection[str],
    progress: Progress | None,
) -> Layout:
    size = path.stat().st_size
    with (progress or SILENT).stage(f"read {path.name}", size) as stage:
        return _csv.scan(path, text=text, required=required, advance=stage.advance)


def _scan_interactions(path: Path, progress: Progress | None) -> Layout:
    names, _ = _csv.header(path)
    for name in ("user_id", "item_id"):
        if name not in names:
            raise SourceError(
                f"{path} has no column {name}",
                hint=f"It has: {', '.join(names)}. For other files use "
                "'recsys import FILE --table NAME' and write recsys.toml yourself.",
            )
    ids = ("user_id", "item_id")
    layout = _scan(path, text=("kind",), required=ids, progress=progress)
    if layout.rows == 0:
        raise SourceError(f"{path} has a header but no rows")
    columns = tuple(
        Column(c.name, "text") if c.name in ids and c.type not in ID_TYPES else c
        for c in layout.columns
    )
    for column in columns:
        if column.name in _TIMES and column.type in (
            "text",
            "boolean",
            "uuid",
        ):
            raise SourceError(
                f"{path}: {column.name} is not a time in every row",
                hint="Use 2026-01-31 12:00:00+00 or seconds since 1970.",
            )
    return Layout(columns, layout.delimiter, layout.rows)


def _check_table(conn: psycopg.Connection, table: str, *, replace: bool) -> None:
    if not _TABLE.fullmatch(table):
        raise ConfigError(
            f"{table!r} is not a usable table name",
            hint="Use a-z, 0-9 and _, starting with a letter; a schema may precede it.",
        )
    row = conn.execute(
        "select to_regclass(%s) is not null", (_quoted(conn, table),)
    ).fetchone()
    if row is not None and row[0] and not replace:
        raise ConfigError(
            f"table {table} exists already",
            hint="Drop it, pass --replace, or choose another name.",
        )


def _quoted(conn: psycopg.Connection, table: str) -> str:
    return sql.Identifier(*table.split(".")).as_string(conn)


def _load(
    conn: psycopg.Connection,
    path: Path,
    table: str,
    layout: Layout,
    *,
    replace: bool,
    progress: Progress | None,
) -> None:
    name = sql.Identifier(*table.split("."))
    names = [sql.Identifier(column.name) for column in layout.columns]
    listed = sql.SQL(", ").join(names)
    size = path.stat().st_size
    with (
        conn.transaction(),
        (progress or SILENT).stage(f"load {table}", size) as stage,
        conn.cursor() as cur,
    ):
        if replace:
            _drop(cur, name, table)
        cur.execute(
            sql.SQL("create table {} ({})").format(
                name,
                sql.SQL(", ").join(
                    sql.SQL("{} {}").format(n, _TYPES[c.type])
                    for n, c in zip(names, layout.columns, strict=True)
                ),
            )
        )
        # Re-encoded by the csv module instead of passed through: Postgres reads
        # quotes in the middle of a cell differently.
        buffer = io.StringIO()
        writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n")
        query = sql.SQL("copy {} ({}) from stdin (format csv, force_null ({}))")
        columns = [column.name for column in layout.columns]
        with cur.copy(query.format(name, listed, listed)) as copy:
            for _, rows in _csv.chunks(path, columns, layout.delimiter, stage.advance):
                writer.writerows(rows)
                copy.write(buffer.getvalue())
                buffer.seek(0)
                buffer.truncate()
        cur.execute(sql.SQL("analyze {}").format(name))


_TYPES = {
    "bigint": sql.SQL("bigint"),
    "double precision": sql.SQL("double precision"),
    "timestamp": sql.SQL("timestamp"),
    "timestamptz": sql.SQL("timestamptz"),
    "boolean": sql.SQL("boolean"),
    "uuid": sql.SQL("uuid"),
    "text": sql.SQL("text"),
}


def _drop(cur: psycopg.Cursor, name: sql.Identifier, table: str) -> None:
    try:
        cur.execute(sql.SQL("drop table if exists {}").format(name))
    except psycopg.errors.DependentObjectsStillExist as exc:
        raise ConfigError(
            f"table {table} cannot be replaced: {exc.diag.message_detail}",
            hint="Drop what depends on it first.",
        ) from exc
    except psycopg.errors.WrongObjectType as exc:
        raise ConfigError(
            f"{table} is not a table", hint="Choose another name."
        ) from exc


def _finish(
    conn: psycopg.Connection, table: str, columns: tuple[Column, ...]
) -> tuple[Column, ...]:
    """Give an interaction table its time column, its indexes and not-null ids."""
    name = sql.Identifier(table)
    columns, timed = _make_time(conn, name, columns)
    conn.execute(
        sql.SQL(
            "alter table {} alter user_id set not null, alter item_id set not null"
        ).format(name)
    )
    # A user's history is read newest first.
    by_user = sql.SQL("user_id, occurred_at" if timed else "user_id")
    conn.execute(sql.SQL("create index on {} ({})").format(name, by_user))
    conn.execute(sql.SQL("create index on {} (item_id)").format(name))
    conn.execute(sql.SQL("analyze {}").format(name))
    # The SQL functions run as this role, which recsys upgrade creates.
    role = conn.execute("select to_regrole('recsys_trainer') is not null").fetchone()
    if role is not None and role[0]:
        conn.execute(sql.SQL("grant select on {} to recsys_trainer").format(name))
    return columns


def _make_time(
    conn: psycopg.Connection, name: sql.Identifier, columns: tuple[Column, ...]
) -> tuple[tuple[Column, ...], bool]:
    """Turn the file's time, if it has one, into occurred_at timestamptz."""
    found = sorted((c for c in columns if c.name in _TIMES), key=lambda c: c.name)
    if not found:
        return columns, False
    old = found[0]  # occurred_at wins when a file has both
    column = sql.Identifier(old.name)
    if old.type in ("bigint", "double precision"):
        row = conn.execute(
            sql.SQL("select max(abs({})) > 1e11 from {}").format(column, name)
        ).fetchone()
        # Seconds of this size would be the year 5138: they are milliseconds.
        unit = sql.SQL("1000.0" if row is not None and row[0] else "1")
        value = sql.SQL("to_timestamp({} / {})").format(column, unit)
    elif old.type == "timestamp":
        value = sql.SQL("{} at time zone 'UTC'").format(column)
    else:
        value = column
    conn.execute(
        sql.SQL("alter table {} alter {} type timestamptz using {}").format(
            name, column, value
        )
    )
    if old.name != "occurred_at":
        conn.execute(
            sql.SQL("alter table {} rename {} to occurred_at").format(name, column)
        )
    made = Column("occurred_at", "timestamptz")
    return tuple(made if c is old else c for c in columns), True


def _kinds(
    conn: psycopg.Connection, table: str, columns: tuple[Column, ...]
) -> list[str]:
    if "kind" not in [c.name for c in columns]:
        return []
    query = sql.SQL("select distinct kind from {} where kind is not null order by 1")
    return [row[0] for row in conn.execute(query.format(sql.Identifier(table)))]
