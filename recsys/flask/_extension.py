"""The Flask extension: configuration per application, connection per request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from flask import Flask, current_app
from werkzeug.local import LocalProxy

from recsys.connections import source_of
from recsys.flask import _config
from recsys.flask._cli import group
from recsys.flask._visitor import Visitor
from recsys.recommender import Recommender
from recsys.settings import Settings
from recsys.types import UserId

UserLoader = Callable[[], UserId | None]
_Loader = TypeVar("_Loader", bound=UserLoader)


class Recsys:
    """Recommendations of a Flask application.

    Where connections come from, first of these: ``RECSYS_DSN``; ``db``; the
    environment. With ``db`` every statement is part of the request's session and
    transaction: recommendations see what the view has just written, and what
    ``record()`` stores is committed by the view's commit.

    Args:
        app: The application; or call ``init_app`` later.
        db: Flask-SQLAlchemy's ``db`` or anything else with a ``session``; or a
            Session, scoped_session or Engine of SQLAlchemy's.

    Raises:
        ConfigError: A RECSYS_* key of the configuration is unknown or wrong.

    Example:
        >>> recsys = Recsys(app, db)
        >>> shop = recsys.recommender("shop")
        >>> shop.similar_items(42, k=6)     # inside a view
    """

    def __init__(self, app: Flask | None = None, db: object | None = None) -> None:
        self._db = db
        self._user: UserLoader | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, db: object | None = None) -> None:
        """Read the configuration and add ``flask recsys``; connects to nothing.

        Args:
            app: The application, with its configuration loaded.
            db: As in ``Recsys``.

        Raises:
            ConfigError: A RECSYS_* key of the configuration is unknown or wrong.
        """
        settings = _config.read(app.config)
        db = self._db if db is None else db
        app.extensions["recsys"] = State(self, settings, db)
        app.cli.add_command(group)

    def user_loader(self, function: _Loader) -> _Loader:
        """Register what returns the id of the user of this request, or None.

        Example:
            >>> @recsys.user_loader
            ... def user_id():
            ...     return session.get("user_id")
        """
        self._user = function
        return function

    def user_id(self) -> UserId | None:
        """Return the id of the user of this request, None for an anonymous one."""
        return None if self._user is None else self._user()

    def recommender(self, model: str) -> Recommender:
        """Return the recommender of a model; make it once, at import if you like.

        Inside a request it is on the request's session or connection.
        """
        return cast("Recommender", LocalProxy(lambda: state().recommender(model)))

    def visitor(self, model: str) -> Visitor:
        """Return who asks a model: the user, or an anonymous visitor's session."""
        proxy = LocalProxy(lambda: Visitor(state(), model))
        return cast("Visitor", proxy)


@dataclass
class State:
    """What one application knows; in ``app.extensions["recsys"]``.

    Attributes:
        extension: The extension.
        settings: The RECSYS_* keys.
        db: Where sessions come from.
    """

    extension: Recsys
    settings: _config.FlaskSettings
    db: object | None
    _made: dict[str, Recommender] = field(
        default_factory=lambda: dict[str, Recommender]()
    )

    def recommender(self, model: str) -> Recommender:
        """Return the recommender of this request."""
        made = self._made.get(model)
        if made is None:
            made = Recommender(
                model,
                dsn=self.settings.dsn,
                connection=self._session(),
                **self.settings.options(),
            )
            # Two threads may make one at once; the first to be kept serves both.
            made = self._made.setdefault(model, made)
        session = self._session()
        return made if session is None else made.on(session)

    def cli_settings(self) -> Settings:
        """Return where the command line works: the same database."""
        settings = Settings.from_env()
        session = self._session()
        if self.settings.dsn is not None:
            settings = replace(settings, dsn=self.settings.dsn)
        elif session is not None:
            # Empty where the application's engine has a creator of its own.
            dsn = source_of(session).dsn()
            settings = replace(settings, dsn=dsn or settings.dsn)
        if self.settings.config is not None:
            settings = replace(settings, config=self.settings.config)
        return settings

    def _session(self) -> object | None:
        if self.settings.dsn is not None:
            return None
        # Read at each request: some packages make one object per application context.
        return cast("Any", getattr(self.db, "session", self.db))


def state() -> State:
    """Return the state of the current application.

    Raises:
        RuntimeError: There is no application context, or the extension is missing.
    """
    found = current_app.extensions.get("recsys")
    if found is None:
        raise RuntimeError(
            "this application has no recsys extension: call recsys.init_app(app)"
        )
    return cast("State", found)
