"""Keys of what a process remembers of requests: digests, so that none is large."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import cast
from uuid import UUID

MOST_VALUES = 2_000
MOST_TEXT = 65_536
"""A request of more values or characters than these has no key: it would cost time."""

_ATOMS: frozenset[type] = frozenset(
    {type(None), bool, int, float, str, bytes, UUID, Decimal, date, timedelta}
)
"""Types of which ``repr`` tells every two values, and their types, apart."""
_SESSION = re.compile(
    r"current_setting|current_user|current_role|session_user|current_schema",
    re.IGNORECASE,
)


def key_of(*parts: object) -> bytes | None:
    """Return a digest that equals another's only if all values are the same.

    Returns:
        None when there are too many values, or some that cannot be told apart safely.
    """
    if _ATOMS.issuperset(map(type, parts)):
        text = repr(parts)  # most requests: it is one call
    else:
        try:
            text = _told(parts, _Room())
        except TypeError:
            return None
    return blake2b(text.encode(), digest_size=16).digest()


class _Room:
    """How much a key may still take up."""

    __slots__ = ("text", "values")

    def __init__(self) -> None:
        self.values = MOST_VALUES
        self.text = MOST_TEXT

    def take(self, values: int, text: int = 0) -> None:
        """Take some of it.

        Raises:
            TypeError: There is not as much.
        """
        self.values -= values
        self.text -= text
        if self.values < 0 or self.text < 0:
            raise TypeError("too large for a key")


def _told(value: object, room: _Room) -> str:
    """Return text that no other value has.

    Raises:
        TypeError: Two values of this type cannot be told apart safely.
    """
    kind = type(value)
    if kind in _ATOMS:
        if kind is str or kind is bytes:
            room.take(0, len(cast("str | bytes", value)))
        return repr(value)
    if isinstance(value, datetime | time):
        # A time zone is what it makes of the time: so the driver writes it, too.
        return f"{kind.__name__}({value.isoformat()})"
    if isinstance(value, Enum):
        return f"{kind.__module__}.{kind.__qualname__}.{value.name!r}"
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value)
        room.take(len(pairs))
        told = [f"{_told(k, room)}:{_told(v, room)}" for k, v in pairs.items()]
        return f"{{{','.join(told)}}}"
    if isinstance(value, set | frozenset):
        members = cast("Collection[object]", value)
        room.take(len(members))
        return f"set({','.join(sorted(_told(one, room) for one in members))})"
    if isinstance(value, list | tuple):
        listed = cast("Sequence[object]", value)
        room.take(len(listed))
        if _ATOMS.issuperset(map(type, listed)):
            text = repr(listed)
            room.take(0, len(text))
            return text
        return f"[{','.join([_told(one, room) for one in listed])}]"
    raise TypeError(f"{kind.__name__} has no key")


@lru_cache(256)
def of_session(text: str) -> bool:
    """Say whether SQL names what a session sets: its result is not the next one's."""
    return _SESSION.search(text) is not None
