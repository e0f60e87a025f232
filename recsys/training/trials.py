"""The trials of a search: fits on the training part, judged on the validation slice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from recsys.config import ModelConfig
from recsys.errors import TrainingError
from recsys.progress import Stage
from recsys.training import study as studies
from recsys.training.choice.tried import biases_of, first_settings
from recsys.training.dataset import Dataset
from recsys.training.evaluation import Judge
from recsys.training.loop import Epoch, fit
from recsys.training.metrics import score_of
from recsys.training.model import Towers
from recsys.training.rows import fit_rows
from recsys.training.settings import Settings
from recsys.training.space import Dimension, from_json
from recsys.training.split import held_out
from recsys.training.study import Study, Trial
from recsys.training.svd import first_rows

_LOOKS = 6
# A budget is meant for about this many whole fits; bad ones end early and make it more.
_WHOLE_FITS = 15
_FEWEST_EPOCHS = 6
# The final fit of 'recsys train' has about this share of train.budget_s.
_FIT_SHARE = 0.55


@dataclass(slots=True)
class Look:
    """The best look at one fit so far."""

    score: float = -math.inf
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict[str, float])


class TimeOver(Exception):
    """The time of the search is over in the middle of a trial."""


@dataclass(slots=True)
class Clock:
    """Tells the progress bar, and when to stop.

    Attributes:
        stage: The progress bar.
        started: When the search began, by ``time.perf_counter``.
        deadline: When it ends, likewise.
        seconds: The bar counts seconds; else trials.
    """

    stage: Stage
    started: float
    deadline: float
    seconds: bool
    _shown: int = 0

    @property
    def over(self) -> bool:
        """Whether the time of the search is over."""
        return time.perf_counter() >= self.deadline

    def left_s(self) -> float:
        """Return the seconds until the deadline, below 0 after it."""
        return self.deadline - time.perf_counter()

    def tick(self, note: str) -> None:
        """Show what is going on."""
        if not self.seconds:
            return self.stage.advance(0, note)
        passed = int(time.perf_counter() - self.started)
        self.stage.advance(passed - self._shown, note)
        self._shown = passed
        return None

    def trial_done(self) -> None:
        """Count a trial."""
        if not self.seconds:
            self.stage.advance(1)


class Runner:
    """Fits trials on the training part and judges them on the validation slice.

    Args:
        dataset: All the data.
        model: Today's settings.

    Attributes:
        rows: What is learned from.
        judge: Ranks for the users of the validation slice.
        epochs: Epochs of a whole trial.
        current: Today's settings by name.

    Raises:
        TrainingError: Nobody can be validated on.
    """

    def __init__(self, dataset: Dataset, model: ModelConfig) -> None:
        config = model.train
        cut = held_out(dataset, config)
        if not len(cut.users):
            raise TrainingError(
                "no user can be validated on, so settings cannot be compared",
                hint="Tuning needs users with interactions before and after the cut:"
                " raise train.validation, or collect more data.",
            )
        self.dataset = dataset
        self.model = model
        self.config = config
        self.rows = fit_rows(dataset, cut.train, cut.end, config)
        self.judge = Judge(dataset, self.rows, cut, config.seed)
        self.epochs = 0
        self.space: list[Dimension] = []
        settings = first_settings(model)
        self.current: dict[str, Any] = {
            name: getattr(settings, name, getattr(config, name))
            for name in type(config).__dataclass_fields__
        }
        self._start: dict[int, torch.Tensor] = {}

    def take(self, study: Study) -> None:
        """Take over what the study compares."""
        self.epochs = int(study.facts["epochs"])
        self.space = from_json(study.facts["space"])

    def affordable(self, budget_s: float | None) -> int:
        """Return the epochs of a trial: those of a real fit, or what time allows."""
        config = self.config
        if config.epochs:
            return config.epochs
        epoch_s = self._epoch_s()
        real = _FIT_SHARE * config.budget_s / epoch_s
        if budget_s is not None:
            real = min(real, budget_s / _WHOLE_FITS / epoch_s)
        return max(min(_FEWEST_EPOCHS, config.max_epochs),
                   min(config.max_epochs, int(real)))  # fmt: skip

    def _epoch_s(self) -> float:
        """Measure an epoch with its share of a look."""
        seconds: list[float] = []

        def after(epoch: Epoch, towers: Towers) -> bool:
            del towers
            seconds.append(epoch.seconds)
            return False

        self._fit(first_settings(self.model), 1, self.config.seed, after)
        return max(seconds[0], 1e-4)

    def trial(self, trial: Trial, clock: Clock, best: float) -> Look:
        """Run one trial; it may be ended early.

        Raises:
            TimeOver: The time is over.
            studies.Pruned: The learning curve is below that of the others.
        """
        values = {d.name: trial.suggest(d) for d in self.space}

        def seen(look: Look, epoch: int, score: float) -> None:
            top = max(best, look.score)
            shown = f"trial {trial.number}: {score:.4f} at {epoch}, best {top:.4f}"
            clock.tick(shown)
            if trial.report(score, epoch) and epoch < self.epochs:
                raise studies.Pruned

        return self.judged(values, self.config.seed, seen, clock)

    def judged(
        self,
        values: Mapping[str, Any],
        seed: int,
        seen: Callable[[Look, int, float], None],
        clock: Clock,
    ) -> Look:
        """Fit once and return the best look at it.

        Raises:
            TimeOver: The time is over.
        """
        train = replace(self.config, **values)
        settings = first_settings(replace(self.model, train=train))
        biases = biases_of(settings, self.rows)
        every = max(1, math.ceil(self.epochs / _LOOKS))
        best = Look()

        def after(epoch: Epoch, towers: Towers) -> bool:
            if clock.over and not epoch.last:
                raise TimeOver
            if epoch.number % every and not epoch.last:
                return False
            found = self.judge.score(towers, biases)
            score, place = max((score_of(m), i) for i, m in enumerate(found))
            if score > best.score:
                best.score, best.epoch = score, epoch.number
                best.metrics = found[place]
            seen(best, epoch.number, score)
            return False

        self._fit(settings, self.epochs, seed, after)
        return best

    def _fit(
        self,
        settings: Settings,
        epochs: int,
        seed: int,
        after: Callable[[Epoch, Towers], bool],
    ) -> None:
        if settings.dim not in self._start:
            self._start[settings.dim] = first_rows(
                self.rows, settings.dim, self.config.seed
            )
        start = self._start[settings.dim]
        fit(self.dataset, self.rows, settings, epochs, seed, start, after)
