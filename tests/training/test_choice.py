"""What little time may choose: nothing is decided by fits that are too short."""

from __future__ import annotations

import time

import pytest

from recsys._query_config import QueryConfig
from recsys.config import TrainConfig
from recsys.training import tune

DECAY, TRANSFORMER = QueryConfig(encoder="decay"), QueryConfig(encoder="transformer")


def search_of(seconds: float, epochs: int = 0) -> tune._Search:
    """Return a search with so much time, of epochs of 1.5 s and looks of 1 s."""
    found = object.__new__(tune._Search)
    found.config = TrainConfig(epochs=epochs)
    found.deadline = time.perf_counter() + seconds
    found._seconds = [(1.5, 1.0)]
    return found


@pytest.mark.parametrize(
    ("seconds", "tried"),
    [(36, False), (47, False), (49, True), (500, True)],
)
def test_encoders_are_tried_when_there_is_time_to_judge_each(
    seconds: float, tried: bool
) -> None:
    # Half of the time, for two: six looks and four epochs are 12 s each.
    others = [DECAY, TRANSFORMER]

    assert search_of(seconds)._affordable_encoders(others) == (others if tried else [])


def test_fixed_epochs_try_encoders_whatever_the_clock_says() -> None:
    assert search_of(1, epochs=3)._affordable_encoders([DECAY]) == [DECAY]


@pytest.mark.parametrize(
    ("scores", "epochs", "fell"),
    [
        ([0.30, 0.20], 2, False),  # the rate falls to 0 in two epochs
        ([0.20, 0.30, 0.25], 9, True),
        ([0.20, 0.30, 0.2995], 9, False),
    ],
)
def test_only_a_long_fit_can_overfit(
    scores: list[float], epochs: int, fell: bool
) -> None:
    assert tune._fell(scores, epochs) is fell
