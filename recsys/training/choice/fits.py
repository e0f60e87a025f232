"""Fits on the training part, looked at on the validation slice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recsys._learning_config import TELLING_EPOCHS, noise
from recsys.config import TrainConfig
from recsys.popularity import Trend
from recsys.training.choice.clock import Clock
from recsys.training.choice.slice import Slice
from recsys.training.choice.tried import trends_of
from recsys.training.cold import Placed
from recsys.training.companions import Companions, closest
from recsys.training.lean import STRENGTHS, Lean, no_lean
from recsys.training.loop import After, Epoch, fit
from recsys.training.metrics import score_of
from recsys.training.model import Towers
from recsys.training.rerank import TEMPERATURES, Reranking, best_of
from recsys.training.settings import Settings
from recsys.training.svd import first_rows
from recsys.training.trend import bias

# A fit ends when this many looks found nothing better.
_PATIENCE = 3
# The first epochs lean more than the published fit should. Ranking again gains less
# after few epochs than later: it needs no waiting.
_LEANING_EPOCHS = 4


@dataclass(frozen=True, slots=True)
class Look:
    """What a fit reaches after some epoch, with the popularity that is best for it.

    Looks are compared by the score, which is without lean and re-ranking: only those
    that are the best so far try them.

    Attributes:
        score: Recall plus NDCG, without lean and re-ranking.
        epoch: After which it was.
        trend: The popularity.
        metrics: With lean and re-ranking.
        lists: Likewise, places among the trained items, shape (U, K).
        lean: How far popularity counts more for some users than for others.
        rerank: Whether the first candidates are ranked again by single items.
        cold: What becomes of items without a learned row; None without content.
    """

    score: float
    epoch: int
    trend: Trend
    metrics: dict[str, float]
    lists: NDArray[np.int64]
    lean: float = 0.0
    rerank: Reranking = field(default_factory=Reranking)
    cold: Placed | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One fit.

    Attributes:
        settings: Its hyper-parameters.
        best: The best look at it.
        number: As in the curves, from 1.
        epochs: Passes over the data.
        overfitted: Whether it ended worse than it was.
        epoch_s: Seconds of one of its epochs.
        look_s: Seconds of its last look.
    """

    settings: Settings
    best: Look
    number: int
    epochs: int
    overfitted: bool
    epoch_s: float = 0.0
    look_s: float = 0.0

    def beats(self, other: Run, lead: float = 0.0) -> bool:
        """Whether it wins by a relative lead; a negative one is how far it may lose."""
        return self.best.score > other.best.score * (1 + lead)


class Fits:
    """Makes fits on the training part, and keeps their curves.

    Args:
        part: What is learned from, and who judges.
        config: The seed.
        clock: Is told how long epochs and looks take.
        advance: Receives one unit per epoch.

    Attributes:
        curves: One row per look at a fit.
    """

    def __init__(
        self,
        part: Slice,
        config: TrainConfig,
        clock: Clock,
        advance: Callable[[int, str], None],
    ) -> None:
        self.part = part
        self.clock = clock
        self.advance = advance
        self.curves: list[dict[str, Any]] = []
        self._seed = config.seed
        self._starts: dict[int, Tensor] = {}
        self._near: Companions | None = None
        self._runs = 0

    def run(
        self, settings: Settings, epochs: int, looks: int, limit_s: float = math.inf
    ) -> Run:
        """Fit once, looking at the validation slice ``looks`` times."""
        self._runs += 1
        watch = _Watch(self, settings, epochs, looks, self._runs)
        self._fit(settings, epochs, watch.after, limit_s)
        return watch.run()

    def calibrate(self, settings: Settings) -> None:
        """Measure one epoch and one look."""

        def after(epoch: Epoch, towers: Towers) -> bool:
            started = time.perf_counter()
            self.part.ahead.trend(towers, trends_of(settings, self.part.rows))
            self.clock.measured(epoch.seconds, time.perf_counter() - started)
            return False

        self._fit(settings, 1, after)

    def _fit(
        self, settings: Settings, epochs: int, after: After, limit_s: float = math.inf
    ) -> None:
        if settings.companions > 0 and self._near is None:
            self._near = closest(self.part.rows)
        dim = settings.dim
        if dim not in self._starts:
            self._starts[dim] = first_rows(self.part.rows, dim, self._seed)
        fit(
            self.part.dataset,
            self.part.rows,
            settings,
            epochs,
            self._seed,
            self._starts[dim],
            after,
            limit_s,
            near=self._near,
        )


class _Watch:
    """Looks at one fit now and then, and ends it when it gets no better."""

    def __init__(
        self, fits: Fits, settings: Settings, epochs: int, looks: int, number: int
    ) -> None:
        self._fits = fits
        self._part = fits.part
        self._settings = settings
        self._number = number
        self._every = max(1, math.ceil(epochs / looks))
        self._compared = looks == 1
        trends = trends_of(settings, fits.part.rows)
        # Fits that are only compared do with some: each costs a ranking.
        self._trends = trends[::3] if self._compared else trends
        self._found: list[Look] = []
        self._seconds: list[float] = []
        self._look_s = 0.0

    def after(self, epoch: Epoch, towers: Towers) -> bool:
        """Look where it is time to; whether the fit should end."""
        settings = self._settings
        self._seconds.append(epoch.seconds)
        self._fits.advance(1, f"tau {settings.tau:g} dropout {settings.dropout:g}")
        if epoch.number % self._every and not epoch.last:
            return False
        started = time.perf_counter()
        self._found.append(self._look(epoch, towers))
        self._look_s = time.perf_counter() - started
        self._fits.clock.measured(self._epoch_s, self._look_s)
        best = max(range(len(self._found)), key=lambda i: self._found[i].score)
        return len(self._found) - best > _PATIENCE

    @property
    def _epoch_s(self) -> float:
        return sum(self._seconds) / len(self._seconds)

    def run(self) -> Run:
        """Return what the fit was, when it has ended."""
        return Run(
            settings=self._settings,
            best=max(self._found, key=lambda look: look.score),
            number=self._number,
            epochs=len(self._seconds),
            overfitted=overfitted(
                [look.score for look in self._found],
                len(self._seconds),
                self._part.judge.users,
            ),
            epoch_s=self._epoch_s,
            look_s=self._look_s,
        )

    def _look(self, epoch: Epoch, towers: Towers) -> Look:
        part = self._part
        trend = part.ahead.trend(towers, self._trends)
        popularity = bias(trend, part.rows.pop, part.rows.decayed)
        cold = part.new.place(towers, popularity)
        ranked = part.judge.rank(towers, popularity.unsqueeze(0))[0]
        reached = part.judge.metrics(ranked)
        look = Look(score_of(reached), epoch.number, trend, reached, ranked, cold=cold)
        self._note(epoch, reached)
        # No look is chosen that is not the best so far.
        if any(each.score >= look.score for each in self._found):
            return look
        return self._completed(look, towers, popularity)

    def _completed(self, look: Look, towers: Towers, popularity: Tensor) -> Look:
        """Return the look with the lean and the re-ranking that are best, if any is."""
        judge = self._part.judge
        strength, lean = 0.0, no_lean(towers.served.detach())
        if not self._compared and look.epoch >= _LEANING_EPOCHS:
            strength, lean = self._part.ahead.lean(towers, look.trend, STRENGTHS)
        again = self._rerank(towers, look.trend, lean)
        ranked = look.lists
        if again.temperature:
            ranked = judge.rerank(towers, popularity, lean, (again.temperature,))[0]
        elif strength:
            ranked = judge.lean(towers, popularity, [lean])[0]
        return replace(
            look,
            metrics=judge.metrics(ranked),
            lists=ranked,
            lean=strength,
            rerank=again,
        )

    def _rerank(self, towers: Towers, trend: Trend, lean: Lean) -> Reranking:
        """Return the temperature that is fixed, or the best, and what it is worth."""
        query = self._settings.query
        if not query.single or query.rerank == 0:
            return Reranking()
        fixed = query.rerank > 0
        tried = (0.0, query.rerank) if fixed else (0.0, *TEMPERATURES)
        scores = self._part.ahead.rerank(towers, trend, lean, tried)
        found = best_of(dict(zip(tried, scores, strict=True)))
        return replace(found, temperature=query.rerank) if fixed else found

    def _note(self, epoch: Epoch, metrics: dict[str, float]) -> None:
        settings = self._settings
        self._fits.curves.append(
            {
                "run": self._number,
                "dim": settings.dim,
                "tau": settings.tau,
                "dropout": settings.dropout,
                "recent_beta": settings.recent_beta,
                "companions": settings.companions,
                "encoder": settings.query.encoder,
                "epoch": epoch.number,
                "seconds": round(epoch.seconds, 4),
                "train_loss": epoch.loss,
                "recall@20": metrics["recall@20"],
                "ndcg@20": metrics["ndcg@20"],
            }
        )


def overfitted(scores: list[float], epochs: int, users: int) -> bool:
    """Say whether the last look at a fit of some epochs is worse than its best."""
    fell = max(scores) > scores[-1] * (1 + noise(users))
    return epochs >= TELLING_EPOCHS and fell
