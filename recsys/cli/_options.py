"""Kinds of values that options of several commands take."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import click


class Moment(click.ParamType[datetime]):
    """A date or time; without a zone it is UTC."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Read ISO 8601."""
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-03-01T12:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Lengths(click.ParamType[tuple[int, ...]]):
    """Lengths of vectors, such as 64,32,16."""

    name = "lengths"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Read whole numbers between commas."""
        if isinstance(value, tuple):
            return cast(tuple[int, ...], value)
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list such as 64,32,16", param, ctx)
