"""Who asks, and for which answer: ids out of what a view has at hand."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from django.db.models import Model
from django.http import HttpRequest

from recsys.django._pages import ModelPage
from recsys.errors import ConfigError
from recsys.types import Page, UserId

Who = UserId | Model | HttpRequest | None
"""A user id, a user, a request (its user or its session), or nobody."""


def user_id_of(who: Model) -> UserId:
    """Return the id of a user; the id of anything else would be somebody else's."""
    if not hasattr(who, "is_authenticated"):
        raise ConfigError(
            f"{type(who).__name__} is no user",
            hint="Pass a request, a user, or the user id itself.",
        )
    if who.pk is None:
        raise ConfigError("this user was not saved yet, and has no id")
    return cast("UserId", who.pk)


def request_id_of(given: object) -> UUID | None:
    if isinstance(given, ModelPage | Page):
        return cast("ModelPage[Any]", given).request_id
    if isinstance(given, str):
        try:
            return UUID(given)
        except ValueError:
            return None
    return cast("UUID | None", given)
