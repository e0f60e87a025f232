"""What little time may choose: nothing is decided by fits that are too short."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys import make_config

from recsys._query_config import QueryConfig
from recsys.config import TrainConfig
from recsys.popularity import Trend
from recsys.training import tune
from recsys.training.loop import After, Epoch

DECAY, TRANSFORMER = QueryConfig(encoder="decay"), QueryConfig(encoder="transformer")


def search_of(seconds: float, epochs: int = 0, max_epochs: int = 120) -> tune._Search:
    """Return a search with so much time, of epochs of 1.5 s and looks of 1 s."""
    found = object.__new__(tune._Search)
    found.config = TrainConfig(epochs=epochs, max_epochs=max_epochs)
    found.deadline = time.perf_counter() + seconds
    found._seconds = [(1.5, 1.0)]
    return found


@pytest.mark.parametrize(
    ("seconds", "tried"),
    [(24, False), (36, False), (80, True), (500, True)],
)
def test_encoders_are_tried_when_there_is_time_to_judge_each(
    seconds: float, tried: bool
) -> None:
    # Half of the time, for two: six looks and four epochs are 12 s each.
    others = [DECAY, TRANSFORMER]

    assert search_of(seconds)._affordable_encoders(others) == (others if tried else [])


@pytest.mark.parametrize(
    ("most", "seconds", "tried"),
    [(3, 60, True), (1, 21, True), (2, 21, True), (2, 6, False)],
)
def test_few_epochs_at_most_leave_time_for_encoders(
    most: int, seconds: float, tried: bool
) -> None:
    # Two epochs and six looks are 9 s, four are 12 s.
    others = search_of(seconds, max_epochs=most)._affordable_encoders([DECAY])

    assert others == ([DECAY] if tried else [])


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


class Told(tune._Search):
    """A search whose look at each epoch is worth what it was told, a lean nothing."""

    def __init__(self, scores: list[float]) -> None:
        self.config = TrainConfig(epochs=len(scores))
        self.rows: Any = SimpleNamespace(pop=torch.ones(3), decayed=None)
        self.advance = lambda _epochs, _note: None
        self.curves, self._runs, self._seconds = [], 0, []
        self._scores = scores
        self._now = 0
        self.new: Any = SimpleNamespace(place=lambda *_: None)
        self.ahead: Any = SimpleNamespace(
            trend=lambda *_: Trend(0.1), lean=lambda *_: (0.2, None)
        )
        self.judge: Any = SimpleNamespace(
            rank=lambda *_: np.array([self._now]),
            lean=lambda *_: np.array([-1]),
            metrics=self._metrics,
        )

    def _metrics(self, ranked: int) -> dict[str, float]:
        score = 0.0 if ranked < 0 else self._scores[ranked]
        return {"recall@20": score, "ndcg@20": score}

    def _fit(
        self, settings: Any, epochs: int, after: After, limit_s: float = 0
    ) -> None:
        del settings, limit_s
        for self._now in range(epochs):
            last = self._now + 1 == epochs
            after(Epoch(self._now + 1, 0.0, 0.0, last), Any)


def test_looks_are_compared_without_the_lean_that_only_late_ones_have() -> None:
    """The lean is chosen on six days; on the first of them it may look worse."""
    search = Told([0.1, 0.2, 0.3, 0.4, 0.5])

    run = search._run(tune.first_settings(make_config()), 5, 6)

    assert (run.best, run.overfitted) == (5, False)
    assert run.score == 1.0
    assert [row["ndcg@20"] for row in search.curves] == search._scores
    # What is reported is what is published.
    assert run.lean == 0.2
    assert run.metrics["ndcg@20"] == 0.0
