"""Progress of long steps: a protocol, and silence as the default.

The library reports; only the command line draws.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Stage(Protocol):
    """One long step that is under way."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Report n more units of work and, optionally, a short remark."""
        ...


class Progress(Protocol):
    """Receives the progress of long steps."""

    def stage(
        self, name: str, total: int | None = None
    ) -> AbstractContextManager[Stage]:
        """Open a step of ``total`` units (None: unknown)."""
        ...


class _SilentStage:
    def advance(self, n: int = 1, note: str = "") -> None:
        pass


class _Silent:
    def stage(
        self, name: str, total: int | None = None
    ) -> AbstractContextManager[Stage]:
        return nullcontext(_SilentStage())


SILENT: Progress = _Silent()
