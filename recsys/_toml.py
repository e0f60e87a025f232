"""Values as TOML writes them: for messages about a file, and for lines of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, time
from typing import cast

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def literal(value: object) -> str:
    """Return a value as it stands in a TOML file.

    Example:
        >>> literal(("age", True))
        '["age", true]'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON strings are TOML strings, but for a character that TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        table = cast(Mapping[object, object], value)
        pairs = [f"{key(str(name))} = {literal(each)}" for name, each in table.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, Sequence):
        return f"[{listed(cast(Sequence[object], value))}]"
    if isinstance(value, date | time):
        return value.isoformat()
    if value is None:
        return "nothing"  # as a mapping may have it, never a file
    return repr(value)  # every digit of a number, also inf and nan


def key(name: str) -> str:
    """Return a name as a key of a TOML file, quoted where it must be.

    Example:
        >>> key("on sale")
        '"on sale"'
    """
    return name if _BARE.fullmatch(name) else literal(name)


def listed(values: Sequence[object]) -> str:
    """Return values one after the other, as in a TOML list."""
    return ", ".join(map(literal, values))


def alternatives(values: Sequence[object]) -> str:
    """Return values as a choice: '"mean" or "decay"'."""
    *rest, last = map(literal, values)
    return f"{', '.join(rest)} or {last}" if rest else last
