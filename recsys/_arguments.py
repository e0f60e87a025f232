"""The arguments of a request, checked before SQL or a tower sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from recsys.config import ModelConfig
from recsys.errors import ConfigError
from recsys.ids import check_id
from recsys.types import ItemId, Page, UserId

_MAX_HISTORY = 10_000
MAX_TIMEOUT_MS = 3_600_000
MAX_UNIT = 255
"""Bytes of UTF-8: a key of recsys.exposure must fit on a page of its index."""


def unit_of(user_id: UserId | None, unit: str | None) -> str | None:
    """Return what rollouts and experiments assign: the user, unless told otherwise.

    Raises:
        ConfigError: It is no text that can be bucketed, logged and indexed.
    """
    if unit is None:
        return None if user_id is None else _encodable(str(user_id))
    if not isinstance(unit, str) or not unit.isprintable():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"unit must be printable text, got {unit!r:.80}")
    if (size := len(unit.encode())) > MAX_UNIT:
        raise ConfigError(
            f"unit must be at most {MAX_UNIT} bytes of UTF-8, got {size}",
            hint="Pass a shorter key, or its hashlib.sha256(...).hexdigest().",
        )
    return unit


def _encodable(user: str) -> str:
    """Refuse a user id that has no bucket; a long one is shortened where it is logged.

    Raises:
        ConfigError: It has lone surrogates.
    """
    try:
        user.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"user_id must be text that UTF-8 can hold, got {user[:80]!r}"
        ) from None
    return user


def check_k(k: int) -> None:
    """Refuse a list length that is no whole number from 1 to 1000."""
    if type(k) is not int or not 1 <= k <= 1000:
        raise ConfigError(
            f"k must be a whole number from 1 to 1000, got {k!r}",
            hint="Ask for one page at a time.",
        )


def check_timeout(timeout_ms: float | None) -> float | None:
    """Refuse a budget that is no number of milliseconds; None is none.

    A fraction of one is refused, too: no answer comes in it, so seconds were meant.
    """
    if timeout_ms is None:
        return None
    number = type(timeout_ms) in (int, float)  # True is no number of milliseconds
    if not number or not 1 <= timeout_ms <= MAX_TIMEOUT_MS:
        raise ConfigError(
            f"timeout_ms must be from 1 to an hour, got {timeout_ms!r}",
            hint="Milliseconds, such as 200 for 0.2 s; None for no budget.",
        )
    return float(timeout_ms)


def check_context(config: ModelConfig, context: Mapping[str, object] | None) -> None:
    """Refuse context features that the version does not know."""
    known = [feature.name for feature in config.context.features]
    for name in context or ():
        if name not in known:
            raise ConfigError(
                f"unknown context feature {name!r}",
                hint=f"The version knows: {', '.join(known) or 'none'}.",
            )


def check_ids(
    config: ModelConfig,
    user_id: UserId | None,
    items: Sequence[ItemId] | None,
    exclude: Sequence[ItemId],
) -> None:
    """Refuse ids of another type than the model's, and endless histories.

    Raises:
        ConfigError: An id has the wrong type, or there are too many.
    """
    if user_id is not None:
        check_id("user_id", user_id, config.user_id)
    if items is not None and len(items) > _MAX_HISTORY:
        raise ConfigError(
            f"a history of {len(items)} items is too long",
            hint=f"Pass the newest {_MAX_HISTORY} at most.",
        )
    for item in (*(items or ()), *exclude):
        check_id("item_id", item, config.item_id)


def shown_before(after: Page | Sequence[ItemId]) -> tuple[ItemId, ...]:
    """Return the ids of the items on earlier pages.

    Raises:
        ConfigError: They are not a page or a list of ids, or too many.
    """
    if isinstance(after, str | bytes) or not isinstance(after, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(
            f"after must be a page or a list of item ids, got {after!r:.80}",
            hint="Pass the page before this one, or the ids shown so far.",
        )
    earlier = after.shown if isinstance(after, Page) else tuple(after)
    if len(earlier) > _MAX_HISTORY:
        raise ConfigError(
            f"{len(earlier)} items were shown before, which is too many",
            hint=f"Start again from the first page after {_MAX_HISTORY} items.",
        )
    return earlier


def check_request_id(value: object) -> None:
    """Refuse what is no request id.

    Raises:
        ConfigError: It is no UUID.
    """
    if value is not None and not isinstance(value, UUID):
        raise ConfigError(
            f"request_id must be a uuid.UUID, got {value!r:.80}",
            hint="Pass page.request_id; what came from a form, as uuid.UUID(text).",
        )
