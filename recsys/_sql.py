"""The only module that opens files under ``sql/``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from psycopg import sql

_PLACEHOLDER = re.compile(r"@([a-z_]+)@")


@cache
def files() -> Path:
    """Return the folder that holds ``sql/`` and ``migrations/``.

    A wheel carries them under ``recsys/_files``; a checkout has them beside it.
    """
    packaged = Path(__file__).parent / "_files"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent


def read(name: str) -> str:
    """Return one file under ``sql/``, such as ``"tables/model.v1.sql"``."""
    return (files() / "sql" / name).read_text(encoding="utf-8")


def render(name: str, values: Mapping[str, str]) -> str:
    """Return a template under ``sql/model/`` with every ``@name@`` filled in.

    Values are inserted as they are: identifiers and types are checked by ``config``,
    literals come from ``literal``, source SQL is the application's own.

    Raises:
        KeyError: The template names a value that was not given.
    """

    def fill(match: re.Match[str]) -> str:
        return values[match.group(1)]

    return _PLACEHOLDER.sub(fill, read(name))


def escaped(text: str) -> str:
    """Return SQL of the application for a statement with parameters: % is psycopg's."""
    return text.replace("%", "%%")


def trusted(text: str) -> bytes:
    """Mark SQL that is composed from text, and is no injection, for execution.

    psycopg takes only literal strings, so that nobody composes SQL by accident. What
    is composed here is the application's own source SQL, suffixes and id types that
    ``config`` checked against patterns, and ``literal()``s: never a request's value.
    """
    return text.encode()


def literal(value: Any) -> str:
    """Return a value as an SQL literal, quoted without a connection."""
    return sql.Literal(value).as_string(None)
