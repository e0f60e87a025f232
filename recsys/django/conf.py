"""The setting RECSYS of a Django project, and nothing else of its settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from recsys.errors import ConfigError
from recsys.impressions import Mode

KEYS: Mapping[str, tuple[type, ...]] = {
    "CONFIG": (str, Path),
    "DATABASE": (str,),
    "READS": (list, tuple),
    "TIMEOUT_MS": (int, float),
    "FALLBACK": (bool,),
    "IMPRESSIONS": (str,),
    "SESSION_ITEMS": (int,),
    "SESSION_KEY": (str,),
    "HAND_OVER": (bool,),
}


@dataclass(frozen=True, slots=True)
class DjangoSettings:
    """RECSYS, read and checked.

    Attributes:
        config: CONFIG: path of recsys.toml, which alone declares models.
        database: DATABASE: alias of the database that recsys lives in.
        reads: READS: aliases or connection strings of replicas to read from.
        timeout_ms: TIMEOUT_MS: the budget of an answer; None for none.
        fallback: FALLBACK: degrade instead of raising when the database fails.
        impressions: IMPRESSIONS: "off", "transaction" or "background".
        session_items: SESSION_ITEMS: items kept in the session of a visitor.
        session_key: SESSION_KEY: the key of the session that they are kept under.
        hand_over: HAND_OVER: at a login, record what the session holds for the user.
    """

    config: Path = Path("recsys.toml")
    database: str = DEFAULT_DB_ALIAS
    reads: tuple[str, ...] = ()
    timeout_ms: float | None = None
    fallback: bool = True
    impressions: Mode = "off"
    session_items: int = 50
    session_key: str = "_recsys"
    hand_over: bool = True


def current() -> DjangoSettings:
    """Read the setting.

    Raises:
        ConfigError: It has an unknown key, or a value of the wrong kind.
    """
    given = given_mapping()
    problems = list(complaints(given))
    if problems:
        message, hint = problems[0]
        raise ConfigError(message, hint=hint)
    values: dict[str, Any] = {
        key.lower(): value for key, value in given.items() if value is not None
    }
    base = getattr(settings, "BASE_DIR", None)
    config = Path(values.pop("config", "recsys.toml"))
    if base is not None:
        config = Path(base) / config
    reads = tuple(values.pop("reads", ()))
    return DjangoSettings(config=config, reads=reads, **values)


def given_mapping() -> Mapping[str, Any]:
    """Return RECSYS as it stands in the settings; empty without one.

    Raises:
        ConfigError: It is no mapping.
    """
    given = getattr(settings, "RECSYS", {})
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"the setting RECSYS must be a dict, got {type(given).__name__}",
            hint='Such as RECSYS = {"CONFIG": BASE_DIR / "recsys.toml"}.',
        )
    return cast("Mapping[str, Any]", given)


def complaints(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with RECSYS, each with a hint."""
    found: list[tuple[str, str]] = []
    for key, value in given.items():
        if key == "MODELS":
            found.append(
                (
                    "RECSYS may not declare MODELS",
                    "Models are declared in recsys.toml only, so that training, the "
                    "command line and every process read the same.",
                )
            )
        elif key not in KEYS:
            close = difflib.get_close_matches(str(key), list(KEYS), n=1)
            found.append(
                (
                    f"unknown key {key!r} in RECSYS",
                    f"Did you mean {close[0]!r}?"
                    if close
                    else f"Known keys: {', '.join(KEYS)}.",
                )
            )
        elif problem := _problem(key, value):
            found.append((f"RECSYS[{key!r}] {problem}", _HINTS.get(key, "")))
    return found


_HINTS = {
    "CONFIG": 'Such as "CONFIG": BASE_DIR / "recsys.toml".',
    "DATABASE": "Name an alias of DATABASES.",
    "READS": 'Such as ["replica"]: aliases of DATABASES, or connection strings.',
    "TIMEOUT_MS": "Such as 200.",
    "IMPRESSIONS": 'One of "off", "transaction" and "background".',
}


def _problem(key: str, value: object) -> str:
    """Return what is wrong with one value, or nothing."""
    if value is None:
        return ""
    wanted = KEYS[key]
    if not isinstance(value, wanted) or (
        isinstance(value, bool) and bool not in wanted
    ):
        names = " or ".join(kind.__name__ for kind in wanted)
        return f"must be {names}, got {type(value).__name__}"
    if key == "IMPRESSIONS" and value not in ("off", "transaction", "background"):
        return f"is unknown: {value!r}"
    if key == "READS":
        reads = cast("Sequence[object]", value)
        if not all(isinstance(read, str) and read for read in reads):
            return "must hold aliases or connection strings"
    if key == "TIMEOUT_MS" and cast("float", value) < 1:
        return f"must be milliseconds, 1 or more, got {value!r}"
    if key == "SESSION_ITEMS" and not 1 <= cast("int", value) <= 1000:
        return f"must be 1 to 1000, got {value!r}"
    if key == "DATABASE" and value not in connections.settings:
        return f"names no database: {value!r}"
    return ""
