"""Who asks: a user by id, or an anonymous visitor by what their session has seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

from flask import session

from recsys.errors import ConfigError
from recsys.types import ItemId, Page, UserId

if TYPE_CHECKING:
    from recsys.flask._extension import State

_MAX_BYTES = 1500
"""Of a history: browsers drop a cookie above 4 KB, and with it the whole session."""


class Visitor:
    """The user or the anonymous visitor of this request, for one model.

    An anonymous visitor's items are kept in ``flask.session``, newest first, and so
    is a random key that assigns them to versions and experiments. Nothing is stored
    there before it is asked for.
    """

    def __init__(self, state: State, model: str) -> None:
        self._state = state
        self._model = model

    @property
    def user_id(self) -> UserId | None:
        """The user's id, as the ``user_loader`` says; None for an anonymous visitor."""
        return self._state.extension.user_id()

    @property
    def unit(self) -> str:
        """What assigns them to a version: the user, or the key of the session."""
        user = self.user_id
        if user is not None:
            return str(user)
        key = self._kept().get("unit")
        if not isinstance(key, str) or not key:
            key = uuid4().hex
            self._keep(unit=key)
        return key

    @property
    def history(self) -> list[ItemId]:
        """The session's items, newest first."""
        return _unpack(self._kept().get(f"items.{self._model}"))

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
            self._saw(item_id)
            return
        self._state.recommender(self._model).record(
            user, item_id, kind, request_id=_request_id(request_id), value=value
        )

    def hand_over(self, kind: str = "view") -> int:
        """At a login, record the session's items for the user; then forget them.

        Args:
            kind: What happened with each of them.

        Returns:
            How many were recorded; 0 for an anonymous visitor.
        """
        user = self.user_id
        if user is None:
            return 0
        items = self.history
        recommender = self._state.recommender(self._model)
        for item in reversed(items):
            recommender.record(user, item, kind)
        self.forget()
        return len(items)

    def forget(self) -> None:
        """Forget the session's items; at a logout, for instance."""
        if self.history:
            self._keep(**{f"items.{self._model}": None})

    def _saw(self, item_id: ItemId) -> None:
        if type(item_id) not in (int, str) and not isinstance(item_id, UUID):
            raise ConfigError(
                f"item_id must be an int, a str or a UUID, got {item_id!r:.80}"
            )
        items = [item_id, *(item for item in self.history if item != item_id)]
        limit = self._state.settings.session_items
        self._keep(**{f"items.{self._model}": _pack(items[:limit])})

    def _kept(self) -> Mapping[str, Any]:
        kept = session.get(self._state.settings.session_key)
        return cast("Mapping[str, Any]", kept) if isinstance(kept, Mapping) else {}

    def _keep(self, **changes: Any) -> None:
        merged = {**self._kept(), **changes}
        # A new object: the session notices assignments only.
        session[self._state.settings.session_key] = {
            name: value for name, value in merged.items() if value is not None
        }


def _pack(items: Iterable[ItemId]) -> list[int | str | list[str]]:
    """Return ids as JSON keeps them apart, whatever serialiser the session has."""
    packed: list[int | str | list[str]] = []
    size = 0
    for item in items:
        size += len(str(item).encode()) + 4
        if size > _MAX_BYTES:
            break
        packed.append([item.hex] if isinstance(item, UUID) else item)
    return packed


def _unpack(packed: object) -> list[ItemId]:
    """Return ids; what another release or another application left is passed over."""
    found: list[ItemId] = []
    for item in cast("list[object]", packed) if isinstance(packed, list) else ():
        if isinstance(item, list):
            with suppress(ValueError, TypeError):
                (digits,) = cast("list[Any]", item)
                found.append(UUID(hex=str(digits)))
        elif type(item) in (int, str):
            found.append(cast("ItemId", item))
    return found


def _request_id(given: UUID | str | None) -> UUID | None:
    """Read what came back from a browser: never a reason to fail a request."""
    if given is None or isinstance(given, UUID):
        return given
    try:
        return UUID(given)
    except ValueError:
        return None
