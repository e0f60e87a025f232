"""Reading tables of recsys.toml into dataclasses; every surprise is a ConfigError."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast

from recsys import _statement
from recsys._toml import literal
from recsys.errors import ConfigError

_T = TypeVar("_T")
_KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple: "a list",
}
"""What the type of a default is called in a TOML file."""


def plain(
    cls: type[_T],
    table: Mapping[str, Any],
    key: str,
    where: str,
    without: tuple[str, ...] = (),
) -> _T:
    """Return a table as a dataclass whose fields all have defaults.

    Fields in ``without`` are not for the table to set.
    """
    here = f"[{where[1:-1]}.{key}]"
    part = table_of(table, key, where)
    names = [f.name for f in fields(cast(Any, cls)) if f.name not in without]
    keys(part, tuple(names), here)
    return cls(**typed(cls, part, here))


def typed(cls: type, part: Mapping[str, Any], here: str) -> dict[str, Any]:
    """Check each value against the type of the field's default."""
    out: dict[str, Any] = {}
    for item in fields(cls):
        if item.name not in part:
            continue
        value = part[item.name]
        default = (
            "" if item.default is MISSING or item.default is None else item.default
        )
        wanted = cast(type, type(default))
        if wanted is float and type(value) is int:
            value = float(value)
        if wanted is tuple and isinstance(value, list):
            out[item.name] = tuple(cast(list[object], value))
            continue
        if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
            raise ConfigError(
                f"{here} {item.name} must be {_KINDS[wanted]}, got {literal(value)}"
            )
        out[item.name] = value
    return out


def table_of(
    data: Mapping[str, Any], key: str, where: str, *, hint: str = ""
) -> Mapping[str, Any]:
    """Return a table inside a table, empty where there is none."""
    value = data.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} {key} must be a table", hint=hint)
    return cast(Mapping[str, Any], value)


def keys(data: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    """Refuse keys that mean nothing."""
    for key in data:
        if key not in allowed:
            raise ConfigError(
                f"unknown key {literal(key)} in {where}",
                hint=suggest(key, allowed) or f"Known keys: {', '.join(allowed)}.",
            )


def suggest(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return a hint that names the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {literal(close[0])}?" if close else ""


def sql_of(part: Mapping[str, Any], here: str) -> str:
    """Return the ``sql`` of a table, one statement without its semicolon."""
    value = part.get("sql")
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f'{here} needs sql = "select ..."')
    text = _statement.cut(value)
    if not text:
        raise ConfigError(f'{here} needs sql = "select ..."')
    return text
