"""Django's own connection, lent to a recommender for the length of a request."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from typing import Any, cast

import psycopg
from django.db import Error as DjangoError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg
from psycopg.conninfo import make_conninfo
from psycopg.types.json import JsonbLoader

from recsys._db import Connection
from recsys.errors import ConfigError, DatabaseUnavailable


class DjangoSource:
    """The connection that Django has open in this thread for an alias.

    Statements run inside ``atomic`` where the caller is in one, see what it has
    written, and are rolled back with it. Nothing is opened before the first request.
    """

    borrowed = True

    def __init__(self, alias: str) -> None:
        self._alias = alias

    @property
    def alias(self) -> str:
        """Alias of the database in DATABASES."""
        return self._alias

    @contextmanager
    def use(self) -> Generator[Connection]:
        """Lend Django's connection; opened, or opened anew, where it must be.

        Raises:
            DatabaseUnavailable: Django cannot connect.
            InFailedSqlTransaction: The transaction of ``atomic`` is broken.
        """
        wrapper = connections[self._alias]
        conn = _opened(wrapper)
        kept = conn.cursor_factory
        conn.cursor_factory = _logging(wrapper) if wrapper.queries_logged else _Lent
        try:
            yield conn
        except (psycopg.OperationalError, psycopg.InterfaceError):
            # Django looks whether the connection still works before its next request.
            wrapper.errors_occurred = True
            raise
        finally:
            conn.cursor_factory = kept
            if conn.closed:
                # Given up past a deadline. Inside atomic Django must notice itself.
                wrapper.errors_occurred = True
                if not wrapper.in_atomic_block:
                    wrapper.close()

    def dsn(self) -> str:
        """Return a connection string to the same database."""
        return dsn_of_alias(self._alias)

    def close(self) -> None:
        """Leave the connection to Django."""


def dsn_of_alias(alias: str) -> str:
    """Return a connection string for an alias of DATABASES.

    Raises:
        ConfigError: The alias is unknown, or no PostgreSQL.
    """
    if alias not in connections.settings:
        raise ConfigError(
            f"DATABASES has no alias {alias!r}",
            hint=f"It has {', '.join(connections.settings)}.",
        )
    wrapper = connections[alias]
    _require_postgres(wrapper)
    known = {info.keyword.decode() for info in psycopg.pq.Conninfo.get_defaults()}
    given = cast("Any", wrapper).get_connection_params()
    parts = {key: value for key, value in given.items() if key in known}
    role = wrapper.settings_dict.get("OPTIONS", {}).get("assume_role")
    if role:
        escaped = str(role).replace("\\", "\\\\").replace(" ", "\\ ")
        parts["options"] = f"{parts.get('options', '')} -c role={escaped}".strip()
    return make_conninfo("", **parts)


def _require_postgres(wrapper: BaseDatabaseWrapper) -> None:
    if wrapper.vendor != "postgresql":
        raise ConfigError(
            f"the database {wrapper.alias!r} is no PostgreSQL but {wrapper.vendor}",
            hint="Set RECSYS['DATABASE'] to an alias of a PostgreSQL database.",
        )


def _opened(wrapper: BaseDatabaseWrapper) -> Connection:
    """Return the open psycopg connection behind Django's wrapper."""
    _require_postgres(wrapper)
    held: Any = wrapper.connection
    if held is not None and held.closed and not wrapper.in_atomic_block:
        wrapper.close()
    if wrapper.needs_rollback:
        raise pg.InFailedSqlTransaction(
            "an error ended the transaction of this atomic block"
        )
    try:
        # Not ensure_connection(): this also heeds thread sharing and the guards that
        # Django's and others' tests put before a database.
        with wrapper.cursor():
            pass
    except DjangoError as exc:
        raise DatabaseUnavailable(
            f"Django cannot connect to the database {wrapper.alias!r}: "
            f"{str(exc).strip().partition(chr(10))[0]}",
            hint="Check DATABASES, and whether the server runs.",
        ) from exc
    conn: object = wrapper.connection
    if not isinstance(conn, psycopg.Connection):
        raise ConfigError(
            "Django uses psycopg2 here; recsys needs psycopg 3",
            hint="pip uninstall psycopg2 psycopg2-binary; Django then takes psycopg.",
        )
    return cast("Connection", conn)


class _Lent(psycopg.Cursor[Any]):
    """psycopg's own cursor: Django's binds in the client and leaves json as text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adapters.register_loader("jsonb", JsonbLoader)


def _logging(wrapper: BaseDatabaseWrapper) -> type[Any]:
    """Return cursors that add their statements to ``connection.queries``."""

    def logged(kind: type[Any]) -> type[Any]:
        def execute(self: Any, query: Any, params: Any = None, **kwargs: Any) -> Any:
            started = monotonic()
            try:
                return kind.execute(self, query, params, **kwargs)
            finally:
                wrapper.queries_log.append(
                    {
                        "sql": _shown(query, params),
                        "time": f"{monotonic() - started:.3f}",
                    }
                )

        return type(f"Logged{kind.__name__}", (kind,), {"execute": execute})

    cursors = logged(_Lent)
    cursors.binary_cursor = logged(psycopg.Cursor)  # what _db.binary_cursor makes
    return cursors


def _shown(query: Any, params: Any) -> str:
    text = query.decode() if isinstance(query, bytes) else str(query)
    return text if params is None else f"{text} -- {params!r:.500}"
