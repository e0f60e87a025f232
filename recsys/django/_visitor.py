"""Who asks: the user who is logged in, or an anonymous visitor and their session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, cast
from uuid import uuid4

import psycopg
from django.conf import settings
from django.db import Error as DjangoError
from django.db import OperationalError, connections, transaction
from django.http import HttpRequest

from recsys.django import conf
from recsys.errors import ConfigError, DatabaseUnavailable, RecsysError
from recsys.types import ItemId, UserId

logger = logging.getLogger("recsys")

_NOT_HANDED_OVER = "%s was not handed over at a login"
_AWAY = (DatabaseUnavailable, OperationalError, psycopg.OperationalError)
_COOKIE_BYTES = 2400
"""Of touches, before they are packed and signed: a cookie holds 4096."""

Touch = tuple[str, str, str]
"""An item id as text, the kind, the time: what a session can hold."""


class Visitor:
    """Who makes a request: what ``request.recsys`` is.

    A visitor who is not logged in has a history in the session, and a key that stays
    the same from page to page. Reading either makes no session; ``touch`` does.

    Args:
        request: A request with a session; ``request.user`` is used where there is one.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    @property
    def user_id(self) -> UserId | None:
        """The primary key of the user who is logged in, or None."""
        user = getattr(self._request, "user", None)
        if user is None or not user.is_authenticated:
            return None
        return user.pk

    @property
    def unit(self) -> str | None:
        """What rollouts and experiments assign: the user, or the key of the session.

        None for a visitor who has not touched anything yet.
        """
        user = self.user_id
        return str(user) if user is not None else self._unit()

    def history(self, model: str) -> list[str]:
        """Return the ids of what the session touched, as text, newest first."""
        return [touch[0] for touch in self.touches(model)]

    def touches(self, model: str) -> list[Touch]:
        """Return what the session touched, newest first: id, kind and time."""
        rows = self._seen().get(model)
        held = cast("Sequence[Any]", rows) if isinstance(rows, list | tuple) else ()
        return [touch for row in held if (touch := _read(row))]

    def touch(self, model: str, item_id: ItemId, kind: str) -> None:
        """Remember an item in the session, as the newest.

        Raises:
            ConfigError: There is no session.
        """
        if not hasattr(self._request, "session"):
            raise ConfigError(
                "this request has no session to remember a visitor in",
                hint="Put SessionMiddleware into MIDDLEWARE.",
            )
        now = datetime.now(timezone.utc).isoformat()  # noqa: UP017
        others = [t for t in self.touches(model) if t[0] != str(item_id)]
        newest = [(str(item_id), kind, now), *others]
        kept = dict(self._kept())
        seen = {name: [list(t) for t in self.touches(name)] for name in self.models()}
        seen[model] = [list(t) for t in newest[: conf.current().session_items]]
        _fit(seen)
        kept["seen"] = seen
        kept["unit"] = self._unit() or uuid4().hex
        self._request.session[_key()] = kept

    def forget(self) -> None:
        """Drop what the session holds."""
        if _key() in self._session():
            del self._request.session[_key()]

    def models(self) -> list[str]:
        """Return the models of which the session holds a history."""
        return [str(name) for name in self._seen()]

    def _session(self) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", getattr(self._request, "session", {}))

    def _kept(self) -> Mapping[str, Any]:
        return _mapping(self._session().get(_key()))

    def _seen(self) -> Mapping[str, Any]:
        return _mapping(self._kept().get("seen"))

    def _unit(self) -> str | None:
        unit = self._kept().get("unit")
        return unit if isinstance(unit, str) else None


def _key() -> str:
    return conf.current().session_key


def _mapping(held: object) -> Mapping[str, Any]:
    """Return what a session holds; what another release or app left is passed over."""
    return cast("Mapping[str, Any]", held) if isinstance(held, Mapping) else {}


def _read(row: object) -> Touch | None:
    """Return a touch as it was stored; None for what is none."""
    try:
        item, kind, at = cast("Sequence[Any]", row)
        aware = datetime.fromisoformat(at).tzinfo is not None
    except (TypeError, ValueError):
        return None
    good = aware and isinstance(item, str) and item and isinstance(kind, str)
    return (item, kind, at) if good else None


def _fit(seen: dict[str, list[list[str]]]) -> None:
    """Drop the oldest touches of all models that a cookie has no room for."""
    if not str(settings.SESSION_ENGINE).endswith("signed_cookies"):
        return
    newest = sorted(
        ((touch, name) for name, touches in seen.items() for touch in touches),
        key=lambda pair: pair[0][2],
        reverse=True,
    )
    size = 0
    for touch, name in newest:
        size += sum(len(part.encode()) for part in touch) + 12
        if size > _COOKIE_BYTES:
            seen[name].remove(touch)


def visitor_of(request: HttpRequest) -> Visitor:
    """Return who makes a request; the middleware need not be installed."""
    found = getattr(request, "recsys", None)
    if not isinstance(found, Visitor):
        found = Visitor(request)
        request.recsys = found  # pyright: ignore[reportAttributeAccessIssue] # as the middleware does
    return found


def hand_over(
    sender: object, request: HttpRequest | None = None, user: Any = None, **_: object
) -> None:
    """Record for a user who logs in what their session holds; never fails a login."""
    del sender
    if request is None or user is None:
        return
    visitor = visitor_of(request)
    try:
        for model in visitor.models() if conf.current().hand_over else ():
            _record_all(model, user.pk, visitor.touches(model))
        visitor.forget()  # in any case: what fails now would fail at every login
    except RecsysError:
        logger.exception(_NOT_HANDED_OVER, "history of a session")


def _record_all(model: str, user: UserId, touches: Sequence[Touch]) -> None:
    """Record each touch that can be; one of a deleted item costs no other."""
    from recsys.django._registry import of_model

    alias = conf.current().database
    try:
        shop = of_model(model)
    except ConfigError:
        logger.exception(_NOT_HANDED_OVER, f"history of {model!r}")
        return
    for item, kind, at in reversed(touches):
        try:
            with transaction.atomic(using=alias):
                shop.record(user, item, kind, occurred_at=datetime.fromisoformat(at))
                # Django's foreign keys are deferred: they would fail at the commit,
                # which with ATOMIC_REQUESTS is that of the login.
                connections[alias].check_constraints()
        except (RecsysError, DjangoError, psycopg.Error) as exc:
            logger.exception(_NOT_HANDED_OVER, f"item {item!r} of {model!r}")
            if isinstance(exc, _AWAY):
                return


GetResponse = Callable[[HttpRequest], Any]
