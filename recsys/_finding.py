"""What doctor says about one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Result = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        check: What was looked at.
        result: "ok", "warn" (works, but see the hint) or "fail".
        detail: What was found.
        hint: What to do; empty when all is well.
    """

    check: str
    result: Result
    detail: str
    hint: str = ""
