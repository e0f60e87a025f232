"""How long the parts of a training take."""

from __future__ import annotations

import time


class Laps:
    """A clock that runs from part to part.

    Attributes:
        seconds: Of each part that has ended, as "<name>_s".
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @property
    def passed_s(self) -> float:
        """Seconds since the beginning."""
        return sum(self.seconds.values()) + time.perf_counter() - self._since

    def end(self, name: str) -> float:
        """End a part, and begin the next; returns the seconds of all so far."""
        now = time.perf_counter()
        self.seconds[f"{name}_s"] = now - self._since
        self._since = now
        return sum(self.seconds.values())
