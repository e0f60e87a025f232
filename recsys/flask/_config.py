"""The RECSYS_* keys of ``app.config``, and nothing else of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from recsys.errors import ConfigError
from recsys.impressions import MODES, Mode

_PREFIX = "RECSYS_"
_KEYS: Mapping[str, tuple[type, ...]] = {
    "DSN": (str,),
    "CONFIG": (str, Path),
    "READS": (list, tuple),
    "TIMEOUT_MS": (int, float),
    "FALLBACK": (bool,),
    "IMPRESSIONS": (str,),
    "SESSION_KEY": (str,),
    "SESSION_ITEMS": (int,),
}
_HINTS = {
    "DSN": "Such as 'postgresql://localhost/shop'.",
    "READS": "Such as ['host=replica dbname=shop'].",
    "TIMEOUT_MS": "Milliseconds, such as 200 for 0.2 s.",
    "IMPRESSIONS": f"One of {', '.join(MODES)}.",
}


@dataclass(frozen=True, slots=True)
class FlaskSettings:
    """The keys, read and checked.

    Attributes:
        dsn: RECSYS_DSN: connection string of own connections, which are then used
            even where the application has a ``db``; None: see ``Recsys``.
        config: RECSYS_CONFIG: path of recsys.toml for ``flask recsys``.
        reads: RECSYS_READS: connection strings of replicas to read from.
        timeout_ms: RECSYS_TIMEOUT_MS: the budget of an answer; None for none.
        fallback: RECSYS_FALLBACK: degrade instead of raising when the database fails.
        impressions: RECSYS_IMPRESSIONS: "off", "transaction" or "background".
        session_key: RECSYS_SESSION_KEY: where the visitor is in ``flask.session``.
        session_items: RECSYS_SESSION_ITEMS: items of a visitor that are kept there.
    """

    dsn: str | None = None
    config: Path | None = None
    reads: tuple[str, ...] = ()
    timeout_ms: float | None = None
    fallback: bool = True
    impressions: Mode = "off"
    session_key: str = "recsys"
    session_items: int = 50

    def options(self) -> dict[str, Any]:
        """Return the arguments of a Recommender that differ from its defaults."""
        given: dict[str, Any] = {"impressions": self.impressions}
        if self.reads:
            given["reads"] = self.reads
        if self.timeout_ms is not None:
            given["timeout_ms"] = self.timeout_ms
        if not self.fallback:
            given["fallback"] = False
        return given


def read(config: Mapping[str, Any]) -> FlaskSettings:
    """Read the keys of an application.

    Raises:
        ConfigError: A key is unknown, or its value of the wrong kind.
    """
    values: dict[str, Any] = {}
    for name, value in config.items():
        if not name.startswith(_PREFIX) or value is None:
            continue
        key = name.removeprefix(_PREFIX)
        if key not in _KEYS:
            raise _unknown(name)
        if problem := _problem(key, value):
            raise ConfigError(f"{name} {problem}", hint=_HINTS.get(key, ""))
        values[key.lower()] = value
    if "config" in values:
        values["config"] = Path(values["config"])
    values["reads"] = tuple(values.get("reads", ()))
    return FlaskSettings(**values)


def _unknown(name: str) -> ConfigError:
    if name == "RECSYS_MODELS":
        hint = "Models are declared in recsys.toml, and there only."
    else:
        close = difflib.get_close_matches(name.removeprefix(_PREFIX), _KEYS, n=1)
        known = [_PREFIX + key for key in close or _KEYS]
        hint = f"Did you mean {known[0]}?" if close else f"Known: {', '.join(known)}."
    return ConfigError(f"unknown configuration key {name}", hint=hint)


def _problem(key: str, value: object) -> str:
    """Return what is wrong with one value, or nothing."""
    wanted = _KEYS[key]
    if not isinstance(value, wanted) or (
        isinstance(value, bool) and bool not in wanted
    ):
        names = " or ".join(kind.__name__ for kind in wanted)
        return f"must be {names}, got {type(value).__name__}"
    if key == "IMPRESSIONS" and value not in MODES:
        return f"is unknown: {value!r}"
    if key == "READS":
        reads = cast("Sequence[object]", value)
        if not all(isinstance(one, str) and one for one in reads):
            return "must hold connection strings"
    if key == "TIMEOUT_MS" and not cast("float", value) >= 1:
        return f"must be 1 or more, got {value!r}"
    if key == "SESSION_ITEMS" and not 1 <= cast("int", value) <= 1000:
        return f"must be 1 to 1000, got {value!r}"
    return ""
