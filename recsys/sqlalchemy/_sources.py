"""Where the psycopg connection of a Session, an Engine or a Connection comes from."""

from __future__ import annotations

import os
import weakref
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, exc
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from recsys import _db, schema
from recsys._own import ENDED, ConnectionLost
from recsys._reason import SessionUnusable
from recsys.errors import ConfigError, DatabaseUnavailable

_FORKED: weakref.WeakSet[Engine] = weakref.WeakSet()
"""Engines that lend us connections: a forked process must not use its parent's."""


class Lent:
    """What the three sources share: the application's SQLAlchemy lends a connection."""

    borrowed = True
    alias = None

    @property
    def engine(self) -> Engine:
        """The engine whose database is asked."""
        raise NotImplementedError

    @property
    def schema_translate_map(self) -> Mapping[str | None, str] | None:
        """Which schemas the engine's statements go to instead."""
        return self.engine.get_execution_options().get("schema_translate_map")

    def dsn(self) -> str:
        """Return a connection string to the same database, read from the URL."""
        engine = self.engine
        _check_driver(engine.dialect)
        args, options = engine.dialect.create_connect_args(engine.url)
        wanted = {k: v for k, v in options.items() if k not in _NOT_LIBPQ}
        return make_conninfo(*args, **wanted)

    def close(self) -> None:
        """Leave it to the application."""


_NOT_LIBPQ = (
    "autocommit",
    "context",
    "cursor_factory",
    "prepare_threshold",
    "row_factory",
)


class SessionSource(Lent):
    """The transaction of a Session; flushed before, where the Session autoflushes.

    Args:
        session: A Session, or a scoped_session such as Flask-SQLAlchemy's
            ``db.session``, which gives each request its own.
        bind_arguments: Which database, where the Session has several: as for
            ``Session.connection(bind_arguments=...)``.
    """

    def __init__(
        self, session: Session | scoped_session[Any], **bind_arguments: Any
    ) -> None:
        self._session = session
        self._bind_arguments = bind_arguments

    @property
    def session(self) -> Session:
        """The Session of this moment."""
        if isinstance(self._session, scoped_session):
            return cast("Session", self._session())
        return self._session

    @property
    def engine(self) -> Engine:
        """The engine whose database is asked."""
        return self.session.get_bind(**self._bind_arguments).engine

    def flush(self) -> None:
        """Send what the Session holds back, where it autoflushes.

        Its errors are the application's and pass untouched. Without a connection
        nothing is sent: the request then meets the same trouble, and says so.
        """
        session = self.session
        if not session.autoflush or not (
            session.new or session.dirty or session.deleted
        ):
            return
        try:
            session.connection(bind_arguments=dict(self._bind_arguments))
        except exc.SQLAlchemyError:
            return
        session.flush()

    @contextmanager
    def use(self) -> Generator[_db.Connection]:
        """Return the connection of the Session's transaction."""
        with _translated():
            conn = self.session.connection(bind_arguments=dict(self._bind_arguments))
            driver = _driver(conn)
        yield driver


class ConnectionSource(Lent):
    """The transaction of a SQLAlchemy Connection, begun where none was.

    Args:
        connection: Not for two threads at once.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def engine(self) -> Engine:
        """The engine whose database is asked."""
        return self._connection.engine

    @contextmanager
    def use(self) -> Generator[_db.Connection]:
        """Return the connection of the transaction."""
        conn = self._connection
        with _translated():
            if not conn.in_transaction():
                # As any statement would: without it, commit() would commit nothing.
                conn.begin()
            driver = _driver(conn)
        yield driver


class EngineSource(Lent):
    """A connection of the pool per request, each statement committed by itself.

    Args:
        engine: Shared with the application. In a process that was forked its pool
            begins anew.
    """

    borrowed = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lending = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._checked = False
        _FORKED.add(engine)

    @property
    def engine(self) -> Engine:
        """The engine whose database is asked."""
        return self._engine

    @contextmanager
    def use(self) -> Generator[_db.Connection]:
        """Lend a connection of the pool; one that the server ended is given up."""
        with _translated():
            conn = self._lending.connect()
        with conn:
            with _translated():
                driver = _driver(conn)
            if not self._checked:
                schema.check(driver)
                self._checked = True
            try:
                yield driver
            except psycopg.OperationalError as error:
                if not driver.closed and not isinstance(error, ENDED):
                    raise
                driver.close()
                # What ended one has mostly ended all: none of the pool is tried again.
                self._engine.dispose()
                raise ConnectionLost(
                    "the connection to Postgres was lost: "
                    f"{str(error).strip().splitlines()[0]}",
                    hint="Ask again: the next request connects anew.",
                ) from error
            finally:
                if driver.closed:
                    conn.invalidate()


def source(given: object, **bind_arguments: Any) -> Lent:
    """Return the source of connections for an object of SQLAlchemy's.

    Args:
        given: A Session, scoped_session, Engine or Connection.
        bind_arguments: As for ``SessionSource``.

    Raises:
        ConfigError: It is none of these, or not on psycopg 3.
    """
    if isinstance(given, Session | scoped_session):
        return SessionSource(
            cast("Session | scoped_session[Any]", given), **bind_arguments
        )
    if isinstance(given, Engine):
        _check_driver(given.dialect)
        return EngineSource(given)
    if isinstance(given, Connection):
        _check_driver(given.dialect)
        return ConnectionSource(given)
    raise ConfigError(
        "connection must be a Session, an Engine or a Connection of SQLAlchemy, "
        f"got {type(given).__name__}",
        hint="Of a sessionmaker, pass a session: maker()."
        if isinstance(given, sessionmaker)
        else "It must be a synchronous one; or give recsys connections of its own: "
        "Recommender('...', dsn=...).",
    )


def _check_driver(dialect: Dialect) -> None:
    if (dialect.name, dialect.driver) == ("postgresql", "psycopg"):
        return
    raise ConfigError(
        f"SQLAlchemy talks to {dialect.name} through {dialect.driver}; "
        "recsys needs psycopg 3 on Postgres",
        hint="Begin the URL (of create_engine, of SQLALCHEMY_DATABASE_URI) with "
        "postgresql+psycopg://, or give recsys connections of its own: "
        "Recommender('...', dsn=...).",
    )


def _driver(conn: Connection) -> _db.Connection:
    """Return the psycopg connection under a SQLAlchemy one."""
    _check_driver(conn.dialect)
    found = conn.connection.driver_connection
    if not isinstance(found, psycopg.Connection):
        raise ConfigError(
            "recsys needs a synchronous psycopg connection, got "
            f"{type(found).__name__}",
            hint="Give recsys connections of its own: Recommender('...', dsn=...).",
        )
    return cast("_db.Connection", found)


@contextmanager
def _translated() -> Generator[None]:
    """Say in our words, or the driver's, why SQLAlchemy has no connection to lend."""
    try:
        yield
    except exc.PendingRollbackError as error:
        raise SessionUnusable(
            "the Session's transaction failed before this request",
            "aborted transaction",
            "Roll it back; what failed in it was not recsys.",
        ) from error
    except exc.TimeoutError as error:
        raise SessionUnusable(
            f"the engine's pool has no connection left: {error.args[0]}",
            "connection busy",
            "Raise pool_size or max_overflow; lower pool_timeout to wait less.",
        ) from error
    except exc.UnboundExecutionError as error:
        raise ConfigError(
            "the Session does not say which database recsys is in",
            hint="Use recsys.sqlalchemy.SessionSource(session, bind=engine).",
        ) from error
    except exc.MissingGreenlet as error:
        raise ConfigError(
            "the Session belongs to an asynchronous engine",
            hint="Make one of create_engine(), or give recsys connections of its own: "
            "Recommender('...', dsn=...).",
        ) from error
    except exc.OperationalError as error:
        raise DatabaseUnavailable(
            f"cannot connect to Postgres: {str(error.orig).strip().splitlines()[0]}"
        ) from error


def _begin_anew() -> None:
    for engine in list(_FORKED):
        # The parent goes on using the connections: forget them without closing them.
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_begin_anew)
