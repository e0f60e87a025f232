"""How many epochs and looks there is time for."""

from __future__ import annotations

import math
import time

from recsys.config import TrainConfig

LOOKS = 6
"""A fit that is not only compared is looked at this many times."""
# Epochs of a fit that is only compared, where their number is fixed.
_SHORT_EPOCHS = 6
# Share of the time for the search that its short fits take.
_SEARCH = 0.6
# The final fit learns from more than the training part of the slice.
_WHOLE = 1.1


class Clock:
    """The time of a search. Where the epochs are fixed, nothing looks at it.

    Args:
        config: The epochs, and how many there are at most.
        deadline: When the search ends, by ``time.perf_counter``.
        end: When the final fit ends, likewise.

    Attributes:
        deadline: It may be moved while a part of the search runs.
        fixed: Whether the epochs are fixed.
    """

    def __init__(
        self, config: TrainConfig, deadline: float, end: float = -math.inf
    ) -> None:
        self.deadline = deadline
        self._end = end
        self.fixed = bool(config.epochs)
        self._epochs = config.epochs
        self._most = config.max_epochs
        self._epoch_s = self._look_s = 0.0

    def measured(self, epoch_s: float, look_s: float) -> None:
        """Take the newest measure of an epoch and of a look."""
        self._epoch_s, self._look_s = epoch_s, look_s

    def take_spare(self) -> None:
        """Move the deadline to where the longest final fit would begin, if later.

        At the pace measured: where slower settings win, that fit has fewer epochs.
        """
        longest = _WHOLE * self._most * self._epoch_s
        self.deadline = max(self.deadline, self._end - longest)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, below 0 after it."""
        return self.deadline - time.perf_counter()

    def limit_s(self, fits: int = 1) -> float:
        """Return how long one of several fits may take that share what is left."""
        return math.inf if self.fixed else max(1.0, self.left_s / fits)

    def end_of_short_fits(self) -> float:
        """Return until when fits that are only compared may begin.

        A machine that slows down must not take the time of the final fit.
        """
        if self.fixed:
            return math.inf
        return time.perf_counter() + _SEARCH * self.left_s

    def short(self, fits: int) -> int:
        """Return the epochs of each of several fits that are only compared."""
        if self.fixed:
            return min(self._epochs, _SHORT_EPOCHS)
        return self._affordable(_SEARCH * self.left_s / fits, looks=1)

    def long(self) -> int:
        """Return the epochs of the longest fit there is time for."""
        if self.fixed:
            return self._epochs
        return self._affordable(self.left_s, LOOKS)

    def _affordable(self, seconds: float, looks: int) -> int:
        """Return how many epochs to make in some seconds: two are always made."""
        return min(max(2, self.epochs_in(seconds, looks)), self._most)

    def epochs_in(self, seconds: float, looks: int) -> int:
        """Return how many epochs fit into some seconds, below 1 if none does."""
        return int((seconds - looks * self._look_s) / max(self._epoch_s, 1e-4))
