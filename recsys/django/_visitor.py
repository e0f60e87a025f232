"""Who asks: the user who is logged in, or an anonymous visitor and their session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, cast
from uuid import uuid4

import psycopg
from django.db import Error as DjangoError
from django.http import HttpRequest

from recsys.django import conf
from recsys.errors import RecsysError
from recsys.types import ItemId, UserId

logger = logging.getLogger("recsys")

SESSION_KEY = "_recsys"
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
        return str(user) if user is not None else self._kept().get("unit")

    def history(self, model: str) -> list[str]:
        """Return the ids of what the session touched, as text, newest first."""
        return [touch[0] for touch in self.touches(model)]

    def touches(self, model: str) -> list[Touch]:
        """Return what the session touched, newest first: id, kind and time."""
        kept = cast("Mapping[str, Sequence[Sequence[str]]]", self._kept()).get("seen")
        rows = cast("Mapping[str, Sequence[Touch]]", kept or {}).get(model, ())
        return [(row[0], row[1], row[2]) for row in rows]

    def touch(self, model: str, item_id: ItemId, kind: str) -> None:
        """Remember an item in the session, as the newest."""
        now = datetime.now(timezone.utc).isoformat()  # noqa: UP017
        others = [t for t in self.touches(model) if t[0] != str(item_id)]
        newest = [(str(item_id), kind, now), *others]
        kept = dict(self._kept())
        seen = dict(cast("Mapping[str, Any]", kept.get("seen", {})))
        seen[model] = [list(t) for t in newest[: conf.current().session_items]]
        kept["seen"] = seen
        kept.setdefault("unit", uuid4().hex)
        self._request.session[SESSION_KEY] = kept

    def forget(self) -> None:
        """Drop what the session holds."""
        if SESSION_KEY in self._session():
            del self._request.session[SESSION_KEY]

    def models(self) -> list[str]:
        """Return the models of which the session holds a history."""
        return list(cast("Mapping[str, Any]", self._kept().get("seen", {})))

    def _session(self) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", getattr(self._request, "session", {}))

    def _kept(self) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", self._session().get(SESSION_KEY, {}))


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
        if conf.current().hand_over:
            for model in visitor.models():
                _record_all(model, user.pk, visitor.touches(model))
        visitor.forget()
    except (RecsysError, DjangoError, psycopg.Error):
        logger.exception("the history of a session was not handed over at a login")


def _record_all(model: str, user: UserId, touches: Sequence[Touch]) -> None:
    from recsys.django._registry import of_model

    shop = of_model(model)
    for item, kind, at in reversed(touches):
        shop.record(user, item, kind, occurred_at=datetime.fromisoformat(at))


GetResponse = Callable[[HttpRequest], Any]
