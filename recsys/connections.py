"""Where a recommender gets its connection: its own, or the application's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from typing import Protocol, cast, runtime_checkable
from weakref import WeakKeyDictionary

import psycopg

from recsys._db import Connection
from recsys._own import OwnConnections
from recsys.errors import ConfigError
from recsys.impressions import dsn_of
from recsys.settings import Settings


@runtime_checkable
class ConnectionSource(Protocol):
    """Gives the connection of one request.

    On a borrowed one statements run in a savepoint of the application's transaction,
    nothing is committed, and no setting stays behind.
    """

    @property
    def borrowed(self) -> bool:
        """Whether the connection is the application's."""
        ...

    @property
    def alias(self) -> str | None:
        """Name of the Django database, else None."""
        ...

    def use(self) -> AbstractContextManager[Connection]:
        """Return the connection for the length of a request."""
        ...

    def dsn(self) -> str:
        """Return a connection string to the same database."""
        ...

    def close(self) -> None:
        """Close what belongs to the recommender; never the application's."""
        ...


class Borrowed:
    """One psycopg connection of the application; not for two threads at once."""

    borrowed = True
    alias = None

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    @property
    def engine(self) -> Connection:
        """What lends the connection, as in the sources of SQLAlchemy."""
        return self._conn

    def use(self) -> AbstractContextManager[Connection]:
        """Return the application's connection."""
        return nullcontext(self._conn)

    def dsn(self) -> str:
        """Return a connection string to the same database."""
        return dsn_of(self._conn)

    def close(self) -> None:
        """Leave it to the application."""


def source_of(given: object | None, dsn: str | None = None) -> ConnectionSource:
    """Return a source of connections.

    Args:
        given: A psycopg connection, a SQLAlchemy Session, Engine or Connection, a
            ``ConnectionSource``; None: connections of the recommender's own.
        dsn: Where to connect; default ``RECSYS_DSN`` or the ``PG*`` variables.

    Raises:
        ConfigError: It is none of these.
    """
    if given is None:
        return OwnConnections(Settings.from_env().dsn if dsn is None else dsn)
    if isinstance(given, psycopg.Connection):
        return Borrowed(cast("Connection", given))
    if any(cls.__module__.split(".")[0] == "sqlalchemy" for cls in type(given).__mro__):
        make = import_module("recsys.sqlalchemy").source
        return cast("Callable[[object], ConnectionSource]", make)(given)
    if isinstance(given, ConnectionSource):
        return given
    raise ConfigError(
        f"connection must be a psycopg connection, got {type(given).__name__}",
        hint="Also a SQLAlchemy Session, Engine or Connection will do; in Django, "
        "use recsys.django.recommender().",
    )


_places: WeakKeyDictionary[object, str] = WeakKeyDictionary()


def place_of(source: ConnectionSource) -> str | None:
    """Return what tells the database of a source from others, or None.

    What lends connections is asked once: that takes long beside a request.

    Args:
        source: Gives the connection.
    """
    if isinstance(source, OwnConnections):
        return source.dsn()
    if source.alias is not None:
        return source.alias
    with suppress(Exception):  # a closed connection, a Session of several engines
        lender: object = getattr(source, "engine", source)
        known = _places.get(lender)
        if known is None:
            known = _places[lender] = source.dsn()
        return known
    return None
