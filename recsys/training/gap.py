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

# More than this share of the interactions are no stragglers: the data go on there.
_MOST_ALONE = 0.01
# A gap is judged by how long so many interactions before it took, at least.
_FEWEST_BEFORE = 10


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


def find_gap(dataset: Dataset, share: float) -> Gap | None:
    """Return the gap before the newest interactions, if it is out of all proportion.

    It is where it lasts longer than the validation share of the interactions before it
    took, and than a day.

    Args:
        dataset: The interactions.
        share: What is held out at least, of all of them.
    """
    times = Times(dataset.time)
    if times.count < 2 * _FEWEST_BEFORE or times.first == times.last:
        return None
    most = max(1, int(_MOST_ALONE * times.count))
    border = times.at(times.count - most - 1)
    newest = np.append(border, times.all_after(border))
    if len(newest) == 1:
        return None
    place = int(np.diff(newest).argmax())
    ends, since = float(newest[place]), float(newest[place + 1])
    alone = len(newest) - 1 - place
    before = times.count - alone
    took = ends - times.at(before - max(_FEWEST_BEFORE, int(share * before)))
    return Gap(ends, since, alone) if since - ends > max(took, DAY_S) else None


def warn_of_gap(
    dataset: Dataset, config: TrainConfig, *, sliced: bool = True
) -> list[dict[str, Any]]:
    """Log that the newest interactions lie alone; returns it for the report.

    Args:
        dataset: The interactions.
        config: Says how the validation slice is cut.
        sliced: Whether there is one; a full update validates on its news instead.
    """
    gap = find_gap(dataset, config.validation)
    if gap is None:
        return []
    message = f"{gap}. {_moved(dataset, config, sliced)} {gap.advice}"
    logger.warning("%s", message)
    return [
        {"side": "interaction", "feature": "", "problem": "alone", "message": message}
    ]


def _moved(dataset: Dataset, config: TrainConfig, sliced: bool) -> str:
    """Say what counts back from the newest interaction, and what that does."""
    begins = begins_at(dataset, config) if sliced else None
    if begins is None:
        return "Popularity and ages count back from the newest."
    held = int((dataset.time >= begins).sum())  # unknown times are none
    return (
        "The validation slice, popularity and ages count back from the newest, so the"
        f" slice holds {held:,} of {len(dataset):,} interactions, from {_utc(begins)}"
        " on: metrics are not comparable with those of before."
    )


def _utc(time: float) -> str:
    # Postgres knows years that Python's datetime does not.
    return f"{np.datetime64(int(time // 60), 'm')} UTC".replace("T", " ", 1)
