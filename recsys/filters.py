"""Queries that an application hands over: filters, boosts, keys and times.

A query is SQL text, a pair of SQL and its parameters, a Django QuerySet or an
SQLAlchemy ``select()``. Parameters become literals by the driver's own quoting, on the
connection that runs them; no value is ever formatted into text by this package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeAlias, cast

import psycopg

from recsys import _sql
from recsys.errors import ConfigError

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]
Query: TypeAlias = str | tuple[str, Parameters] | object
"""SQL text, SQL with parameters, or a query object of an ORM.

The text is code, as trusted as the application's own: values of a request belong in
the parameters.
"""
Normalised: TypeAlias = tuple[str, Parameters | None]
"""SQL text and its parameters; None where a percent sign is a percent sign."""

_ADAPTERS = {
    "django": "recsys.django._queries",
    "sqlalchemy": "recsys.sqlalchemy",
    "flask_sqlalchemy": "recsys.sqlalchemy",
}
"""Where the types of these packages become SQL: ``sql_of(query, columns, source)``."""
_WORD = re.compile(r'[\w."]+')
"""The name of a column or a table: SQL that returns rows has more than one word."""
_PLACES = {
    1: "Its only column must be the item id, in its type.",
    2: "It must have two columns, the first of them the item id, in its type.",
}


def normalise(
    query: Query, columns: int, source: object = None, *, name: str = "among"
) -> Normalised | None:
    """Return a query as SQL and parameters, without a connection.

    Args:
        query: What the application passed.
        columns: How many columns it must have; the first is the item id.
        source: Where the statements will run: a query object may belong elsewhere.
        name: The argument it was passed as, for messages.

    Returns:
        None for a query object that is known to match nothing.

    Raises:
        ConfigError: It is no query, is empty, or belongs to another database.
    """
    if isinstance(query, str):
        if _WORD.fullmatch(query.strip()):
            raise ConfigError(
                f"{name} must be a query, got {query.strip()!r}", hint=_hint(columns)
            )
        return _text(query, name), None
    if isinstance(query, tuple):
        return _pair(cast("tuple[object, ...]", query), name)
    convert = _adapter(type(query))
    if convert is None:
        raise ConfigError(
            f"{name} must be a query, got {type(query).__name__}",
            hint=_hint(columns, ids=isinstance(query, list | set | frozenset)),
        )
    found = convert(query, columns, source)
    return None if found is None else (_text(found[0], name), found[1])


def _hint(columns: int, *, ids: bool = False) -> str:
    """Return what to pass instead of something that is no query."""
    if ids and columns == 1:
        return (
            "For a list of ids: Product.objects.filter(pk__in=ids),"
            " select(Product.id).where(Product.id.in_(ids)), or"
            ' ("select id from product where id = any(%s)", [ids]).'
        )
    example = (
        "Such as 'select id from product where in_stock'"
        if columns == 1
        else "Such as 'select id, category from product'"
    )
    return f"{example}, a QuerySet or a select(). {place(columns)}"


def place(columns: int) -> str:
    """Return the sentence that says which columns a query must have."""
    return _PLACES[columns]


def literal(
    conn: psycopg.Connection[Any], query: Normalised, *, name: str = "among"
) -> str:
    """Return the SQL with its parameters as literals, quoted by the driver.

    Raises:
        ConfigError: The parameters do not fit the SQL, or cannot be written in it.
    """
    text, parameters = query
    if parameters is None:
        return text
    cursor = psycopg.ClientCursor(conn)
    try:
        return cursor.mogrify(_sql.trusted(text), parameters)
    except psycopg.ProgrammingError as exc:
        raise ConfigError(
            f"the parameters of {name!r} do not fit its SQL: {exc}",
            hint="Pass as many as it has %s, or a mapping for %(name)s; with "
            "parameters a literal percent sign is %%.",
        ) from exc
    except (psycopg.DataError, UnicodeEncodeError) as exc:
        raise ConfigError(
            f"a parameter of {name!r} is no value that Postgres can hold: {exc}",
            hint="Text holds no NUL and no lone surrogates.",
        ) from exc


def _text(text: str, name: str) -> str:
    """Return SQL text without what ends a statement.

    Raises:
        ConfigError: Nothing is left, or Postgres cannot read it.
    """
    try:
        good = b"\x00" not in text.encode()
    except UnicodeEncodeError:
        good = False
    if not good:
        raise ConfigError(f"{name} holds a NUL or a lone surrogate: no SQL")
    text = text.strip().rstrip("; \t\r\n")
    if not text:
        raise ConfigError(f"{name} is empty", hint="Pass None for none.")
    return text


def _pair(pair: tuple[object, ...], name: str) -> Normalised:
    if len(pair) == 2:
        text, parameters = pair
        listed = isinstance(parameters, Sequence) and not isinstance(
            parameters, str | bytes | bytearray
        )
        if isinstance(text, str) and (listed or isinstance(parameters, Mapping)):
            return _text(text, name), cast("Parameters", parameters)
    raise ConfigError(
        f"{name} must be SQL text or a pair of SQL and its parameters",
        hint='Such as ("select id from product where price < %s", [50]).',
    )


def _adapter(
    kind: type,
) -> Callable[[object, int, object], Normalised | None] | None:
    """Return what turns objects of a type into SQL, imported when it is first met."""
    for base in kind.__mro__:
        module = _ADAPTERS.get(base.__module__.partition(".")[0])
        if module is not None:
            return import_module(module).sql_of
    return None
