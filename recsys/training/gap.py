"""Newest interactions that lie alone, long after all others.

The validation slice, popularity and ages count back from the newest interaction. One
that is recorded today, over data that end in spring, moves all of them, and with them
every metric; nothing else in a training would say so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys._wording import counted
from recsys.config import TrainConfig
from recsys.popularity import DAY_S
from recsys.training.dataset import Dataset
from recsys.training.split import Times, begins_at

logger = logging.getLogger(__name__)

# More than so many, and more than this share, are no stragglers: the data go on there.
_FEW, _MOST_ALONE = 5, 0.01
# In fewer than so many interactions it says little that some lie apart.
_FEWEST = 50
# Holidays last days, and sparse data pause now and then: a gap is longer than this,
# and so many times as long as any before it.
_LEAST_S, _TIMES = 7 * DAY_S, 3


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without interactions near the end of the data.

    Attributes:
        ends: The last interaction before it, in seconds since 1970.
        since: The first one after it, likewise.
        alone: How many come after it.
    """

    ends: float
    since: float
    alone: int

    def __str__(self) -> str:
        what = counted(self.alone, "interaction lies", "interactions lie")
        days = (self.since - self.ends) / DAY_S
        return (
            f"{what} alone, {days:,.0f} days after all others: at"
            f" {_utc(self.since)}, while the others end at {_utc(self.ends)}"
        )

    @property
    def advice(self) -> str:
        """What to do about it."""
        them = "it" if self.alone == 1 else "them"
        until = np.datetime64(int(self.since // 1), "s")
        return f"Leave {them} out by --until {until}, or train when more have come."


def find_gap(dataset: Dataset) -> Gap | None:
    """Return the gap before the newest interactions, if it is out of all proportion.

    It is where it lasts longer than a week, and three times as long as any before it,
    and where five come after it at most, or one in a hundred.
    """
    times = Times(dataset.time)
    if times.count < _FEWEST or times.first == times.last:
        return None
    border = times.at(times.count - 1 - max(_FEW, int(_MOST_ALONE * times.count)))
    newest = np.append(border, times.all_after(border))
    gaps = np.diff(newest)
    longest = np.maximum.accumulate(np.append(times.longest_gap(border), gaps))[:-1]
    (places,) = np.nonzero(gaps > np.maximum(_LEAST_S, _TIMES * longest))
    if not len(places):
        return None
    place = int(places[0])
    return Gap(float(newest[place]), float(newest[place + 1]), len(gaps) - place)


def warn_of_gap(dataset: Dataset, config: TrainConfig) -> list[dict[str, Any]]:
    """Log that the newest interactions lie alone; returns it for the report.

    Args:
        dataset: The interactions.
        config: Says how the validation slice is cut.
    """
    gap = find_gap(dataset)
    if gap is None:
        return []
    message = f"{gap}. {_moved(dataset, config)} {gap.advice}"
    logger.warning("%s", message)
    return [
        {"side": "interaction", "feature": "", "problem": "alone", "message": message}
    ]


def _moved(dataset: Dataset, config: TrainConfig) -> str:
    """Say what counts back from the newest interaction, and what that does."""
    begins = begins_at(dataset, config)
    if begins is None:
        return "Popularity and ages count back from the newest."
    held = int((dataset.time >= begins).sum())  # unknown times are none
    return (
        "Popularity, ages and the validation slice count back from the newest, so"
        " metrics may be others than without; the slice holds"
        f" {held:,} of {len(dataset):,} interactions, from {_utc(begins)} on."
    )


def _utc(time: float) -> str:
    # Postgres knows years that Python's datetime does not.
    return f"{np.datetime64(int(time // 60), 'm')} UTC".replace("T", " ", 1)
