"""What little time may choose: nothing is decided by fits that are too short."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys import make_config

from recsys._query_config import QueryConfig
from recsys.config import TrainConfig
from recsys.popularity import Trend
from recsys.training.choice import clock as clock_module
from recsys.training.choice import search as search_module
from recsys.training.choice.clock import Clock
from recsys.training.choice.fits import Fits, Look, Run, overfitted
from recsys.training.choice.search import Search
from recsys.training.choice.tried import changes, first_settings
from recsys.training.loop import After, Epoch
from recsys.training.settings import Settings

DECAY, TRANSFORMER = QueryConfig(encoder="decay"), QueryConfig(encoder="transformer")


def search_of(seconds: float, epochs: int = 0, max_epochs: int = 120) -> Search:
    """Return a search with so much time, of epochs of 1.5 s and looks of 1 s."""
    config = TrainConfig(epochs=epochs, max_epochs=max_epochs)
    clock = Clock(config, time.perf_counter() + seconds)
    clock.measured(1.5, 1.0)
    fits: Any = None
    return Search(fits, clock, config)


@pytest.mark.parametrize(
    ("seconds", "tried"),
    [(24, False), (36, False), (80, True), (500, True)],
)
def test_encoders_are_tried_when_there_is_time_to_judge_each(
    seconds: float, tried: bool
) -> None:
    # Half of the time, for two: six looks and four epochs are 12 s each.
    others = [DECAY, TRANSFORMER]

    assert search_of(seconds).affordable(others) == (others if tried else [])


@pytest.mark.parametrize(
    ("most", "seconds", "tried"),
    [(3, 60, True), (1, 21, True), (2, 21, True), (2, 6, False)],
)
def test_few_epochs_at_most_leave_time_for_encoders(
    most: int, seconds: float, tried: bool
) -> None:
    # Two epochs and six looks are 9 s, four are 12 s.
    others = search_of(seconds, max_epochs=most).affordable([DECAY])

    assert others == ([DECAY] if tried else [])


def test_fixed_epochs_try_encoders_whatever_the_clock_says() -> None:
    assert search_of(1, epochs=3).affordable([DECAY]) == [DECAY]


@pytest.mark.parametrize(
    ("scores", "epochs", "users", "fell"),
    [
        ([0.30, 0.20], 2, 3000, False),  # the rate falls to 0 in two epochs
        ([0.20, 0.30, 0.25], 9, 3000, True),
        ([0.20, 0.30, 0.2995], 9, 3000, False),
        ([0.20, 0.30, 0.297], 9, 3000, True),
        ([0.20, 0.30, 0.297], 9, 200, False),  # of few users a mean varies more
    ],
)
def test_only_a_long_fit_can_overfit(
    scores: list[float], epochs: int, users: int, fell: bool
) -> None:
    assert overfitted(scores, epochs, users) is fell


class Told(Fits):
    """Fits whose look at each epoch is worth what it was told; additions, nothing."""

    def __init__(self, scores: list[float], temperature: float = 0.0) -> None:
        self.clock = Clock(TrainConfig(epochs=len(scores)), 0.0)
        self.advance = lambda _epochs, _note: None
        self.curves, self._runs = [], 0
        self._scores = scores
        self._now = 0
        self.part: Any = SimpleNamespace(
            rows=SimpleNamespace(pop=torch.ones(3), decayed=None),
            new=SimpleNamespace(place=lambda *_: None),
            ahead=SimpleNamespace(
                trend=lambda *_: Trend(0.1),
                lean=lambda *_: (0.2, None),
                rerank=lambda *given: [1.0 + (t == temperature) for t in given[-1]],
            ),
            judge=SimpleNamespace(
                users=3000,
                rank=lambda *_: np.array([self._now]),
                lean=lambda *_: np.array([-1]),
                rerank=lambda *_: np.array([-1]),
                metrics=self._metrics,
            ),
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
            towers: Any = SimpleNamespace(served=torch.ones(1, 1))
            after(Epoch(self._now + 1, 0.0, 0.0, last), towers)


def test_looks_are_compared_without_the_lean_that_only_the_best_have() -> None:
    """The lean is chosen on six days; on the first of them it may look worse."""
    fits = Told([0.1, 0.2, 0.3, 0.4, 0.5])

    run = fits.run(first_settings(make_config()), 5, 6)

    assert (run.best.epoch, run.overfitted) == (5, False)
    assert run.best.score == 1.0
    assert [row["ndcg@20"] for row in fits.curves] == fits._scores
    # What is reported is what is published.
    assert run.best.lean == 0.2
    assert run.best.metrics["ndcg@20"] == 0.0


@pytest.mark.parametrize(
    ("scores", "lean"),
    [
        ([0.1, 0.2, 0.3, 0.6, 0.5, 0.4, 0.3, 0.2], 0.2),
        ([0.1, 0.7, 0.3, 0.6, 0.5, 0.4, 0.3, 0.2], 0.0),
    ],
)
def test_the_best_look_is_complete_wherever_it_is(
    scores: list[float], lean: float
) -> None:
    """The first epochs lean more than a published fit, and have none."""
    run = Told(scores, 0.7).run(first_settings(make_config()), len(scores), 8)

    assert run.best.score == 2 * max(scores)
    assert (run.best.lean, run.best.rerank.temperature) == (lean, 0.7)
    assert run.best.rerank.scores == {"0": 1, "1": 1, "0.7": 2}


def test_several_interests_are_never_ranked_again() -> None:
    config = make_config(query=QueryConfig(interests=2))

    settings = replace(first_settings(config), query=config.query)

    run = Told([0.1] * 4 + [0.2], 0.7).run(settings, 5, 6)

    assert (run.best.lean, run.best.rerank.temperature) == (0.2, 0.0)
    assert run.best.rerank.scores == {}


class Scored(Fits):
    """Fits that are worth what a table says of one of their settings."""

    def __init__(self, scores: dict[float, float], name: str = "dropout") -> None:
        self.part: Any = SimpleNamespace(rows=SimpleNamespace(periods=None, items=[0]))
        self.tried: list[float] = []
        self._scores = scores
        self._name = name

    def run(
        self, settings: Settings, epochs: int, looks: int, limit_s: float = 0
    ) -> Run:
        self.tried.append(getattr(settings, self._name))
        score = self._scores[self.tried[-1]]
        look = Look(score, epochs, Trend(0.1), {}, np.zeros((0, 20), np.int64))
        return Run(settings, look, len(self.tried), epochs, overfitted=False)


@pytest.mark.parametrize(
    ("scores", "tried", "chosen"),
    [
        ({0.5: 1.0, 0.3: 1.005, 0.7: 0.9}, [0.5, 0.3, 0.7], 0.5),
        ({0.5: 1.0, 0.3: 1.005, 0.7: 1.001}, [0.5, 0.3, 0.7], 0.7),
        ({0.5: 1.0, 0.3: 1.02}, [0.5, 0.3, 0.15], 0.3),
        ({0.5: 1.0, 0.3: 1.02, 0.15: 1.021}, [0.5, 0.3, 0.15], 0.15),
    ],
)
def test_a_lower_dropout_must_win_clearly_once(
    scores: dict[float, float], tried: list[float], chosen: float
) -> None:
    config = TrainConfig(dim=8, tau=0.1, companions=0.0, epochs=6)
    fits = Scored({0.15: 0.0, **scores})
    search = Search(fits, Clock(config, 0.0), config)

    best = search.best(first_settings(make_config(train=config)), [])

    assert fits.tried[:-1] == tried  # the last one is the long fit
    assert best.settings.dropout == fits.tried[-1] == chosen


@pytest.mark.parametrize(
    ("scores", "tried"),
    [
        ({0.1: 1.0, 0.15: 0.9}, [0.1, 0.15]),
        ({0.1: 1.0, 0.15: 1.1, 0.2: 1.2}, [0.1, 0.15, 0.2]),
        ({0.1: 1.0, 0.15: 1.1, 0.2: 1.0}, [0.1, 0.15, 0.2]),
    ],
)
def test_a_higher_temperature_is_tried_behind_one_that_won(
    scores: dict[float, float], tried: list[float]
) -> None:
    config = TrainConfig(dim=8, dropout=0.5, companions=0.0, epochs=6)
    fits = Scored(scores, "tau")
    search = Search(fits, Clock(config, 0.0), config)

    best = search.best(first_settings(make_config(train=config)), [])

    assert fits.tried[:-1] == tried
    assert best.settings.tau == max(tried, key=lambda tau: scores[tau])


def test_what_is_tried_in_any_case_comes_first() -> None:
    settings = first_settings(make_config(train=TrainConfig()))

    tried = changes(settings, TrainConfig(), timed=False)

    assert [(change.name, change.value) for change in tried] == [
        ("tau", 0.15), ("dropout", 0.3), ("companions", 0.5), ("dim", 256),
        ("tau", 0.2), ("dropout", 0.15), ("dropout", 0.7),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fits", "names", "sure"),
    [
        # What is started from, a temperature, a dropout, companions, one behind these.
        (5, {"tau", "dropout", "companions"}, False),
        (4, {"tau", "dropout"}, False),
        (3, {"tau", "dropout"}, True),
        (2, {"tau"}, True),
    ],
)
def test_what_needs_time_gives_way(fits: int, names: set[str], sure: bool) -> None:
    config = TrainConfig(dim=8)
    search = search_of(seconds=0)
    # So many fits of four epochs of 1.5 s and a look of 1 s, in 60 % of the time.
    search._clock.deadline = time.perf_counter() + fits * 7.2 / 0.6

    settings = first_settings(make_config(train=config))
    tried, epochs = search._telling(changes(settings, config, timed=False))

    assert {change.name for change in tried} == names
    assert all(change.sure for change in tried) == sure
    assert epochs == 4


class Timed(Fits):
    """Fits that take their time on a made-up clock, and are best at two values."""

    now = 0.0

    def __init__(self, clock: Clock, tau: float, dropout: float) -> None:
        self.part: Any = SimpleNamespace(rows=SimpleNamespace(periods=None, items=[0]))
        self.clock = clock
        self.made: list[Settings] = []
        self._best = {tau, dropout}

    def calibrate(self, settings: Settings) -> None:
        self.clock.measured(1.0, 0.5)

    def run(
        self, settings: Settings, epochs: int, looks: int, limit_s: float = 0
    ) -> Run:
        Timed.now += (1.4 if settings.dim == 256 else 1.0) * epochs + 0.5 * looks
        self.made.append(settings)
        score = 1.0 + len({settings.tau, settings.dropout} & self._best)
        look = Look(score, epochs, Trend(0.1), {}, np.zeros((0, 20), np.int64))
        return Run(settings, look, len(self.made), epochs, False, 1.0, 0.5)


@pytest.mark.parametrize("best", [(0.1, 0.5), (0.1, 0.3), (0.15, 0.3)])
@pytest.mark.parametrize("budget_s", range(60, 400, 17))
def test_what_is_tried_in_any_case_has_its_time(
    budget_s: float, best: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever wins before, and whatever is tried behind it."""
    here = SimpleNamespace(perf_counter=lambda: Timed.now)
    monkeypatch.setattr(search_module, "time", here)
    monkeypatch.setattr(clock_module, "time", here)
    Timed.now = 0.0
    config = TrainConfig()
    fits = Timed(Clock(config, budget_s), *best)
    search = Search(fits, fits.clock, config)
    settings = first_settings(make_config(train=config))
    fits.calibrate(settings)
    wanted, _ = search._telling(changes(settings, config, timed=False))

    search.best(settings, [])

    for change in wanted:
        if change.sure:
            made = {getattr(each, change.name) for each in fits.made}
            assert change.value in made, change
