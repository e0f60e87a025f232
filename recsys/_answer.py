"""One answer as it is logged: what the row says, and its JSON text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from numbers import Integral, Real
from typing import cast
from uuid import UUID

from recsys._arguments import MAX_UNIT
from recsys.types import Recommendation, UserId

_MAX_TEXT = 1000
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False, default=str)
_encode = cast("Callable[[object], str]", _ENCODER.encode)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is logged of one answer, or of one that failed.

    Attributes:
        request_id: ``page.request_id``.
        model: Name of the model.
        k: How many items were asked for.
        version: The version that answered; None when it failed before that was known.
        user_id: The application's user id.
        unit: What was bucketed into a version; None for nobody in particular.
        items: What is shown, best first.
        channel: Where the items came from.
        page_offset: Items shown on pages before this one.
        context: Request-time features.
        experiment: A running experiment that the unit is part of.
        arm: Its arm.
        took_ms: Milliseconds from the call to the answer.
        degraded: Why it is less than a full answer.
        error: What the caller got instead.
        occurred_at: When; default now, by the clock of the database.
    """

    request_id: UUID
    model: str
    k: int
    version: int | None = None
    user_id: UserId | None = None
    unit: str | None = None
    items: Sequence[Recommendation] = ()
    channel: str = "two-tower"
    page_offset: int = 0
    context: Mapping[str, object] | None = None
    experiment: str | None = None
    arm: str | None = None
    took_ms: float | None = None
    degraded: str | None = None
    error: str | None = None
    occurred_at: datetime | None = None


def encode(answer: Answer) -> str:
    """Return an answer as a JSON object in ASCII, with the table's column names.

    Nothing in it keeps the database from storing it: text is cleaned of what Postgres
    cannot hold, long text is cut, values of the context that JSON has no word for are
    logged as text.
    """
    items = answer.items
    return _encode(
        {
            "request_id": answer.request_id,
            "model": answer.model,
            "version": answer.version,
            "user_id": _id(answer.user_id),
            "unit": _unit(answer.unit),
            "occurred_at": answer.occurred_at,
            "item_ids": [item.item_id for item in items],
            "scores": [item.score for item in items],
            "channels": [answer.channel] if items else [],
            "page_offset": answer.page_offset,
            "k": answer.k,
            "experiment": answer.experiment,
            "arm": answer.arm,
            "context": _context(answer.context),
            "took_ms": answer.took_ms,
            "degraded": _text(answer.degraded),
            "error": _text(answer.error),
        }
    )


def encode_exposure(experiment: str, unit: str, arm: str) -> str:
    """Return the first exposure of a unit as a JSON object in ASCII."""
    return _encode({"experiment": experiment, "unit": _unit(unit), "arm": arm})


def _id(value: UserId | None) -> str | None:
    return None if value is None else _text(str(value))


def _unit(text: str | None) -> str | None:
    """Return a unit as it is logged: one that an index could not hold, by its hash."""
    kept = _text(text)
    if text is None or kept is None or len(kept) * 4 <= MAX_UNIT:
        return kept
    full = text.encode("utf-8", "replace")
    return kept if len(full) <= MAX_UNIT else f"sha256:{sha256(full).hexdigest()}"


def _text(text: str | None) -> str | None:
    """Return text that Postgres can hold: no NUL, no lone surrogate, bounded."""
    if text is None:
        return None
    text = text[:_MAX_TEXT]
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "�") if "\0" in text else text


def _context(context: Mapping[str, object] | None) -> dict[str, object] | None:
    if not context:
        return None
    return {_text(str(name)) or "": _plain(value) for name, value in context.items()}


def _plain(value: object) -> object:
    """Return a value as JSON has it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral) and -(2**63) <= int(value) < 2**63:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, Integral):
        number = float(value)
        if math.isfinite(number):
            return number
    try:
        return _text(str(value))
    except Exception:
        # Somebody else's __str__ is no reason to lose the answer.
        return f"<{type(value).__name__}>"
