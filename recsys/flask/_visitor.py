"""Who asks: a user by id, or an anonymous visitor by what their session holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from uuid import UUID, uuid4

import psycopg
from flask import session

from recsys.errors import ConfigError, RecsysError
from recsys.types import ItemId, Page, UserId

if TYPE_CHECKING:
    from recsys.flask._extension import State

logger = logging.getLogger(__name__)

_MAX_BYTES = 2000
"""Of a history: browsers drop a cookie above 4 KB, and with it the whole session."""
_NEVER = 2**33


class Touch(NamedTuple):
    """One interaction of an anonymous visitor, as the session keeps it."""

    item_id: ItemId
    kind: str
    at: int
    """Seconds since 1970."""


class Visitor:
    """The user or the anonymous visitor of this request, for one model.

    What an anonymous visitor does is kept in ``flask.session``, and so is a random key
    that assigns them to versions and experiments. Reading makes neither: only
    ``record()`` does, so that no crawler fills an experiment with one-time visitors.
    """

    def __init__(self, state: State, model: str) -> None:
        self._state = state
        self._model = model

    @property
    def user_id(self) -> UserId | None:
        """The user's id, as the ``user_loader`` says; None for an anonymous visitor."""
        return self._state.extension.user_id()

    @property
    def unit(self) -> str | None:
        """What assigns them to a version: the user, or the key of the session.

        None for a visitor who has recorded nothing yet: the base answers.
        """
        user = self.user_id
        if user is not None:
            return str(user)
        key = self._kept().get("unit")
        return key if isinstance(key, str) and key else None

    @property
    def history(self) -> list[ItemId]:
        """The session's items, newest first, each once."""
        return list(dict.fromkeys(touch.item_id for touch in self.touches))

    @property
    def touches(self) -> list[Touch]:
        """What the session holds for this model, newest first."""
        return _unpack(self._kept().get(self._model))

    @property
    def who(self) -> dict[str, Any]:
        """Arguments of ``Recommender.recommend`` that say who asks."""
        user = self.user_id
        if user is not None:
            return {"user_id": user}
        return {"history": self.history, "unit": self.unit}

    def recommend(self, **options: Any) -> Page:
        """Return what ``Recommender.recommend`` returns for this visitor.

        Args:
            options: Its arguments, except who asks.
        """
        return self._state.recommender(self._model).recommend(**self.who, **options)

    def record(
        self,
        item_id: ItemId,
        kind: str,
        *,
        request_id: UUID | str | None = None,
        value: float | Decimal | None = None,
    ) -> None:
        """Record an interaction: in the database for a user, else in the session.

        Args:
            item_id: The application's item id.
            kind: What happened, such as "view".
            request_id: ``page.request_id`` of the answer that led to it, also as text
                from a form or a link; text that is none is passed over.
            value: What it was worth, such as the price paid.

        Raises:
            ConfigError: The id is of no type that an id can have; and as
                ``Recommender.record``.
        """
        user = self.user_id
        if user is None:
            self._touch(item_id, kind)
            return
        self._state.recommender(self._model).record(
            user, item_id, kind, request_id=_request_id(request_id), value=value
        )

    def hand_over(self) -> int:
        """At a login, record for the user what the session holds; then forget it.

        What cannot be recorded is logged: it never fails a login.

        Returns:
            How many were recorded; 0 for an anonymous visitor.
        """
        user, count = self.user_id, 0
        if user is None:
            return 0
        recommender = self._state.recommender(self._model)
        for touch in reversed(self.touches):
            at = datetime.fromtimestamp(touch.at, UTC)
            try:
                recommender.record(user, touch.item_id, touch.kind, occurred_at=at)
                count += 1
            except (RecsysError, psycopg.Error):
                logger.exception("item %s of a session was not recorded", touch.item_id)
        self.forget()
        return count

    def forget(self) -> None:
        """Forget what the session holds for this model; at a logout, for instance."""
        if self._model in self._kept():
            self._keep({self._model: None})

    def _touch(self, item_id: ItemId, kind: str) -> None:
        if type(item_id) not in (int, str) and not isinstance(item_id, UUID):
            raise ConfigError(
                f"item_id must be an int, a str or a UUID, got {item_id!r:.80}"
            )
        new = Touch(item_id, kind, int(time.time()))
        others = [one for one in self.touches if one[:2] != new[:2]]
        limit = self._state.settings.session_items
        kept = {
            name: _unpack(packed) for name, packed in self._kept().items()
            if name != "unit"
        } | {self._model: [new, *others][:limit]}  # fmt: skip
        self._keep({**_fitting(kept), "unit": self.unit or uuid4().hex})

    def _kept(self) -> Mapping[str, Any]:
        kept = session.get(self._state.settings.session_key)
        return cast("Mapping[str, Any]", kept) if isinstance(kept, Mapping) else {}

    def _keep(self, changes: Mapping[str, Any]) -> None:
        merged = {**self._kept(), **changes}
        # A new object: the session notices assignments only.
        session[self._state.settings.session_key] = {
            name: value for name, value in merged.items() if value is not None
        }


def _fitting(kept: Mapping[str, list[Touch]]) -> dict[str, list[list[Any]] | None]:
    """Pack the newest touches of all models together, as many as a cookie holds."""
    newest = sorted(
        (
            (-touch.at, place, name, touch)
            for name, touches in kept.items()
            for place, touch in enumerate(touches)
        ),
        key=lambda one: one[:2],
    )
    fit: dict[str, list[Touch]] = {name: [] for name in kept}
    size = 0
    for _, _, name, touch in newest:
        size += len(f"{touch.item_id}{touch.kind}".encode()) + 18
        if size > _MAX_BYTES:
            break
        fit[name].append(touch)
    return {name: _pack(touches) or None for name, touches in fit.items()}


def _pack(touches: Iterable[Touch]) -> list[list[Any]]:
    """Return what JSON keeps apart, whatever serialiser the session has."""
    return [
        [[item.hex] if isinstance(item, UUID) else item, kind, at]
        for item, kind, at in touches
    ]


def _unpack(packed: object) -> list[Touch]:
    """Return what was packed; what another release left is passed over."""
    found: list[Touch] = []
    for row in cast("list[Any]", packed) if isinstance(packed, list) else ():
        with suppress(ValueError, TypeError):
            item, kind, at = row
            if isinstance(item, list):
                (digits,) = cast("list[Any]", item)
                item = UUID(hex=str(digits))
            good = type(item) in (int, str, UUID) and isinstance(kind, str)
            if good and 0 <= int(at) < _NEVER:
                found.append(Touch(item, kind, int(at)))
    return found


def _request_id(given: UUID | str | None) -> UUID | None:
    """Read what came back from a browser: never a reason to fail a request."""
    if given is None or isinstance(given, UUID):
        return given
    try:
        return UUID(given)
    except ValueError:
        return None
