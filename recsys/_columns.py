"""What the columns of a source are, and whether its features can be read from them.

A column of another type than its feature is declared as fails in the middle of a
statement over all of them, and Postgres then names neither: they are looked at first.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import LiteralString, cast

import psycopg
from psycopg import sql

from recsys._db import Connection
from recsys.config import Feature, IdType, Interactions, ModelConfig, Source
from recsys.encoder.values import number_of, projection
from recsys.errors import SourceError

ID_TYPES: Mapping[IdType, tuple[str, ...]] = {
    "bigint": ("int2", "int4", "int8"),
    "uuid": ("uuid",),
    "text": ("text", "varchar", "bpchar", "name"),
}
TIMES = ("timestamptz", "timestamp", "date")
NUMBERS = ("int2", "int4", "int8", "float4", "float8", "numeric")
_LONGEST_VALUE = 40
_OPTIONAL = ("occurred_at", "kind")
_TYPE_OF = {name: "number" for name in NUMBERS} | {name: "time" for name in TIMES}
"""What a column of a type is declared as; arrays are categories."""


@contextmanager
def errors_of(what: str) -> Generator[None]:
    """Turn errors of the source's SQL into ours; lost connections stay as they are."""
    try:
        yield
    except psycopg.OperationalError:
        raise
    except psycopg.Error as exc:
        detail = exc.diag.message_primary or str(exc)
        raise SourceError(
            f"{what} fails: {detail}",
            hint=exc.diag.message_hint
            or "Run the statement in psql to find the place.",
        ) from exc


def source_table(source: str) -> sql.SQL:
    """Return a source as the table ``s``; it may end in a comment."""
    return sql.SQL(cast(LiteralString, f"(\n{source}\n) s"))


def column_types(
    conn: Connection, what: str, source: str, wanted: Sequence[str]
) -> dict[str, str]:
    """Return the type name of each column of a source; arrays end in "[]".

    Raises:
        SourceError: It fails, or lacks a wanted column.
    """
    with errors_of(what):
        cursor = conn.execute(
            sql.SQL("select s.* from {} limit 0").format(source_table(source))
        )
    types: dict[str, str] = {}
    for column in cursor.description or ():
        types[column.name] = _type_name(conn, column.type_code)
    missing = [name for name in wanted if name not in types]
    if missing:
        raise SourceError(
            f"{what} returns no column {', '.join(missing)}",
            hint=f"It returns: {', '.join(types) or 'nothing'}.",
        )
    return types


def _type_name(conn: Connection, oid: int) -> str:
    known = conn.adapters.types.get(oid)
    if known is not None:
        return f"{known.name}[]" if oid == known.array_oid else known.name
    # An enumeration, or a type of an extension.
    row = conn.execute("select format_type(%s, null)", (oid,)).fetchone()
    return str(row[0]) if row else f"oid {oid}"


def id_column(
    what: str, name: str, types: Mapping[str, str], wanted: IdType
) -> sql.Composed:
    """Return the expression that reads an id, after a look at its type."""
    if types[name] not in ID_TYPES[wanted]:
        raise SourceError(
            f"{name} of {what} is of type {types[name]}, but recsys.toml says {wanted}",
            hint=f"Set {name} in recsys.toml, or select {name}::{wanted} in the SQL.",
        )
    return sql.SQL("s.{}::{} as {}").format(
        sql.Identifier(name), sql.SQL(wanted), sql.Identifier(name)
    )


def interaction_columns(conn: Connection, config: ModelConfig) -> list[str]:
    """Return which optional columns the interaction source has.

    Args:
        conn: An open connection; its transaction is given up.
        config: Whose sources are looked at, all of them.

    Raises:
        SourceError: A source fails, lacks a column, or has one of another type.
    """
    names = check_sources(conn, config)
    conn.rollback()
    return [name for name in _OPTIONAL if name in names]


def check_sources(conn: Connection, config: ModelConfig) -> list[str]:
    """Refuse sources that a training could not read, before it reads the first.

    Args:
        conn: An open connection; its transaction, if there is one, stays usable.
        config: Declares the sources and their features.

    Returns:
        The columns of the interactions.

    Raises:
        SourceError: A source fails, lacks a column, or has one of another type.
    """
    item: dict[str, IdType] = {"item_id": config.item_id}
    user: dict[str, IdType] = {"user_id": config.user_id}
    events = Source(config.interactions.sql, config.context.features)
    _check_source(conn, "items.sql", config.items, item)
    if config.users.features:
        _check_source(conn, "users.sql", config.users, user)
    more = ["value"] if config.interactions.value else []
    types = _check_source(conn, "interactions.sql", events, {**user, **item}, more)
    _check_time(types, config.update.every_s)
    _check_value(types, config.interactions)
    _check_kind(types, config.interactions)
    return list(types)


def _check_source(
    conn: Connection,
    what: str,
    source: Source,
    ids: Mapping[str, IdType],
    more: Sequence[str] = (),
) -> dict[str, str]:
    names = [*ids, *(feature.name for feature in source.features), *more]
    types = column_types(conn, what, source.sql, names)
    for name, wanted in ids.items():
        id_column(what, name, types, wanted)
    for feature in source.features:
        _check_feature(conn, what, source.sql, feature, types[feature.name])
    return types


def _check_time(types: Mapping[str, str], every_s: float) -> None:
    kind = types.get("occurred_at")
    if kind is None and every_s:
        raise SourceError(
            "update.every_s asks for incremental updates, but interactions.sql returns"
            " no column occurred_at, so nothing would say what is new",
            hint="Select the time of each interaction as occurred_at in recsys.toml, or"
            " leave out update.every_s and train every version from the start.",
        )
    if kind is not None and kind not in TIMES:
        raise SourceError(
            f"occurred_at of interactions.sql is of type {kind}, not a timestamp",
            hint="Select to_timestamp(seconds) as occurred_at.",
        )


def _check_value(types: Mapping[str, str], interactions: Interactions) -> None:
    if interactions.value and types["value"] not in NUMBERS:
        raise SourceError(
            f"value of interactions.sql is of type {types['value']}, not a number",
            hint="Select a number, such as extract(epoch from watched) as value.",
        )


def _check_kind(types: Mapping[str, str], interactions: Interactions) -> None:
    """Refuse settings about kinds where no column says the kind.

    Raises:
        SourceError: They would weigh nothing, or everything alike.
    """
    if "kind" in types:
        return
    for setting in ("weights", "targets", "dislikes"):
        kinds: Sequence[str] = list(getattr(interactions, setting))
        if kinds:
            raise SourceError(
                f"interactions.{setting} names kinds ({', '.join(kinds)}), but"
                " interactions.sql returns no column kind",
                hint="Add it to interactions.sql in recsys.toml, such as"
                f' "event_type as kind", or leave out interactions.{setting}.',
            )


def _check_feature(
    conn: Connection, what: str, source: str, feature: Feature, column: str
) -> None:
    """Refuse a feature whose column is of a type that it cannot be read from.

    Raises:
        SourceError: With the feature, its declared type, a value and what to do.
    """
    name = feature.name
    if feature.type == "number" and column in ID_TYPES["text"]:
        if _castable(conn, source, name):
            return
        value = _no_number(conn, what, source, name)
    elif _readable(conn, source, feature):
        return
    else:
        value = _value(conn, what, source, name)
    seen = f", such as {value!r}" if value is not None else ""
    raise SourceError(
        f"feature {name!r} is declared as {feature.type}, but its column in {what} is"
        f" of type {column}{seen}",
        hint=_advice(feature, column, what),
    )


def _readable(conn: Connection, source: str, feature: Feature) -> bool:
    """Say whether Postgres takes the expression that reads a feature."""
    # The column name was checked when recsys.toml was read.
    text = cast(LiteralString, projection([feature], "s"))
    query = sql.SQL("select {} from {} limit 0")
    try:
        with conn.transaction():
            conn.execute(query.format(sql.SQL(text), source_table(source)))
    except (psycopg.ProgrammingError, psycopg.DataError):
        return False
    return True


def _castable(conn: Connection, source: str, name: str) -> bool:
    """Say whether Postgres takes every text of a column for a number."""
    query = sql.SQL("select count(s.{}::float8) from {}")
    try:
        with conn.transaction():
            conn.execute(query.format(sql.Identifier(name), source_table(source)))
    except psycopg.DataError:
        return False
    return True


def _no_number(conn: Connection, what: str, source: str, name: str) -> str | None:
    """Return the beginning of a text that is no number; None where all are.

    Postgres says that there is one, and not which in every language.
    """
    query = sql.SQL("select s.{0}::text from {1} where s.{0} is not null")
    with errors_of(what), conn.transaction(), conn.cursor(name="recsys_texts") as cur:
        cur.execute(query.format(sql.Identifier(name), source_table(source)))
        for (text,) in cur:
            try:
                number_of(text)
            except ValueError:
                return text[:_LONGEST_VALUE]
    return None


def _value(conn: Connection, what: str, source: str, name: str) -> str | None:
    """Return the beginning of some value of a column, as text; None without any."""
    query = sql.SQL(
        "select left(s.{0}::text, {1}) from {2} where s.{0} is not null limit 1"
    )
    known = query.format(
        sql.Identifier(name), sql.Literal(_LONGEST_VALUE), source_table(source)
    )
    with errors_of(what):
        row = conn.execute(known).fetchone()
    return None if row is None else str(row[0])


def _advice(feature: Feature, column: str, what: str) -> str:
    """Say what makes a feature of a column that is of another type."""
    name = feature.name
    fits = "categories" if column.endswith("[]") else _TYPE_OF.get(column, "")
    declared = f'"{fits}"' if fits else '"category" or "text"'
    if feature.type == "categories":
        other = 'say what separates its values, such as separator = ","'
    elif feature.type == "number":
        other = f"select a number that float8 holds as {name} in {what}"
    elif fits == "number":
        other = f"select to_timestamp({name}) as {name} in {what}"
    else:
        other = f"select {name}::timestamptz as {name} in {what}"
    return f"Declare {name} as {declared} in recsys.toml, or {other}."
