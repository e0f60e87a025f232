"""Choosing temperature, dropout, epochs and trend on the validation slice.

Greedy: short fits try the temperatures, then at the best of them the dropouts, then
companions as further positives; one longer fit with the winner shows from which epoch
on it overfits. All of it takes a share of the budget. Whatever the configuration
fixes is not searched, and with ``epochs`` fixed nothing here looks at the clock.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys._learning_config import TELLING_EPOCHS
from recsys._query_config import QueryConfig
from recsys.config import ModelConfig, TrainConfig
from recsys.errors import TrainingError
from recsys.popularity import DAY_S, Trend
from recsys.progress import Progress
from recsys.training.ahead import Ahead
from recsys.training.blocks import users_per_item
from recsys.training.checkpoint import FREE
from recsys.training.cold import Newcomers, Placed
from recsys.training.companions import Companions, closest
from recsys.training.dataset import Dataset
from recsys.training.encoders import DROPOUT, first_query, sequential
from recsys.training.evaluation import Judge
from recsys.training.leaks import warn_of_leaks
from recsys.training.lean import STRENGTHS
from recsys.training.loop import After, Epoch, fit
from recsys.training.matryoshka import fitting
from recsys.training.metrics import score_of
from recsys.training.model import Towers
from recsys.training.rows import QueryRows, query_rows
from recsys.training.settings import Settings, settings_of
from recsys.training.split import Split, horizon_s, split
from recsys.training.svd import first_rows
from recsys.training.trend import bias, grid
from recsys.training.validated import samples, segments

logger = logging.getLogger(__name__)

TAUS = (0.1, 0.15, 0.2)
DROPOUTS = (0.5, 0.7, 0.3)
COMPANIONS = (0.0, 0.5)
SHARE = 0.4
# Without times there is no trend to choose, and the fit makes more of the time.
SHARE_WITHOUT_TIMES = 0.2
# What the floor calls recent.
RECENT_S = 30 * 86_400.0
_DEFAULT_EPOCHS = 20
_SHORT_EPOCHS = 6
# A fit is looked at this many times; it ends when this many looks found nothing better.
_LOOKS = 6
_PATIENCE = 3
# Below this relative gain over the last epoch an earlier best epoch is noise.
_OVERFIT = 0.005
# Share of the time for the search that its short fits take.
_SEARCH = 0.6
# A short fit flatters a low dropout: it learns faster and has no time to overfit. So
# shorter fits than this compare no dropouts and no leans; a lower dropout must win
# clearly.
_FAIR_EPOCHS = 4
_LEAD = 0.03
# Likewise it holds companions back, which need time to pay: they are taken unless they
# lose by more than this, divided by the number of epochs.
_SLACK = 0.05
# Share of the search that encoders of sequences get, and how much better one must be.
_ORDER = 0.5
_ORDER_LEAD = 0.01


_AS_THEY_ARE = (
    "epochs", "lean", "validation", "curves", "leaks", "segments", "samples", "run",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """What the validation slice chose.

    Attributes:
        settings: Hyper-parameters of the final fit.
        trend: Popularity dimension.
        lean: How far popularity counts more for some users than for others.
        epochs: Passes over the data that were best, or the most worth trying.
        validation: Metrics of the model and both floors, and the number of users.
        curves: One row per look at a fit.
        leaks: What is said of features that know the future.
        cold: What becomes of items without a learned row; None without content.
        segments: Metrics of parts of the validation slice.
        samples: Lists of it to look at.
        run: Number of the fit that was chosen, as in the curves.
    """

    settings: Settings
    trend: Trend
    epochs: int
    lean: float = 0.0
    validation: dict[str, Any] = field(default_factory=dict[str, Any])
    curves: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    leaks: list[str] = field(default_factory=list[str])
    cold: Placed | None = None
    segments: dict[str, Any] = field(default_factory=dict[str, Any])
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    run: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable copy; ``from_dict`` reads it back."""
        plain = (str, int, float)
        values = {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}
        return {
            "settings": {n: v for n, v in values.items() if isinstance(v, plain)},
            "query": asdict(self.settings.query),
            "trend": self.trend.to_dict(),
            "cold": None if self.cold is None else asdict(self.cold),
            **{name: getattr(self, name) for name in _AS_THEY_ARE},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], model: ModelConfig) -> Choice:
        """Rebuild a choice; what it does not decide is that of the configuration."""
        values: dict[str, Any] = dict(data["query"])
        values["kinds"] = tuple(values["kinds"])
        query = QueryConfig(**values)
        # It may be gone on with on another device, or with another way to update.
        chosen = {n: v for n, v in data["settings"].items() if n not in FREE}
        return cls(
            settings=replace(first_settings(model), **chosen, query=query),
            trend=Trend.from_dict(data["trend"]),
            cold=None if data["cold"] is None else Placed(**data["cold"]),
            **{name: data[name] for name in _AS_THEY_ARE},
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """The best look at one fit: without its lean the score, with it the metrics."""

    settings: Settings
    score: float
    trend: Trend
    metrics: dict[str, float]
    lists: NDArray[np.int64]
    number: int
    best: int
    epochs: int
    overfitted: bool
    lean: float = 0.0
    cold: Placed | None = None


def choose(dataset: Dataset, model: ModelConfig, progress: Progress) -> Choice:
    """Choose the settings of the final fit.

    Args:
        dataset: All the data.
        model: What is fixed, and the budget.
        progress: Receives one unit per epoch.
    """
    started = time.perf_counter()
    config = model.train
    query = model.query
    if query.encoder == "auto" and (model.update.every_s or config.int8):
        # Only the rows of a mean can be updated, and its tower has nothing to shrink.
        query = replace(query, encoder="mean")
    settings = replace(first_settings(model), query=first_query(query, dataset))
    serves_s = horizon_s(dataset, config.validation, config.horizon_days)
    cut = split(dataset, config.validation, config.seed, serves_s)
    if not len(cut.users):
        logger.warning("no user can be validated on; default settings are used")
        trend = grid(settings.tau, settings.beta, timed=dataset.until is not None)[-1]
        return Choice(settings, trend, config.epochs or _DEFAULT_EPOCHS)
    rows = query_rows(
        dataset, cut.train, cut.end, config.history, config.half_life_days * DAY_S
    )
    judge = Judge(dataset, rows, cut, config.seed)
    ahead = Ahead(dataset, rows, cut, judge, config, serves_s)
    share = SHARE_WITHOUT_TIMES if dataset.until is None else SHARE
    deadline = started + share * config.budget_s
    others = sequential(query, dataset, config.dim) if cut.by_time else []
    with progress.stage("choose settings") as stage:
        new = Newcomers(dataset, rows, cut, config.seed)
        search = _Search(
            dataset, rows, judge, ahead, new, config, deadline, stage.advance
        )
        best = search.run_all(settings, others)
    by_popularity = floor_lists(dataset, rows, judge, cut)
    lists = {"model": best.lists, **by_popularity}
    choice = Choice(
        settings=best.settings,
        trend=best.trend,
        lean=best.lean,
        epochs=_epochs(best, config),
        validation={
            "model": best.metrics,
            **{name: judge.metrics(each) for name, each in by_popularity.items()},
            "users": judge.users,
            "by_time": cut.by_time,
            "days": len(ahead),
        },
        curves=search.curves,
        leaks=[str(leak) for leak in warn_of_leaks(dataset, cut)],
        cold=best.cold,
        segments=segments(dataset, rows, cut, judge, lists),
        samples=samples(dataset, rows, judge, best.lists),
        run=best.number,
    )
    logger.info("chose %s, %s, %d epochs", best.settings, best.trend, choice.epochs)
    return choice


def first_settings(model: ModelConfig) -> Settings:
    """Return the settings that the search starts from."""
    config = model.train
    dropout = config.dropout if config.dropout >= 0 else DROPOUTS[0]
    settings = settings_of(model, config.tau or TAUS[0], dropout)
    return replace(settings, prefixes=fitting(config.prefixes, config.dim))


@dataclass(frozen=True, slots=True)
class _Look:
    """What a fit reaches after some epoch, with the popularity that is best for it.

    Looks are compared by the score, which is without a lean: only late looks try one.
    """

    score: float
    epoch: int
    trend: Trend
    metrics: dict[str, float]
    lists: NDArray[np.int64]
    lean: float = 0.0
    cold: Placed | None = None


class _Search:
    """Fits on the training part, within the time there is."""

    def __init__(
        self,
        dataset: Dataset,
        rows: QueryRows,
        judge: Judge,
        ahead: Ahead,
        new: Newcomers,
        config: TrainConfig,
        deadline: float,
        advance: Callable[[int, str], None],
    ) -> None:
        self.dataset = dataset
        self.rows = rows
        self.judge = judge
        self.ahead = ahead
        self.new = new
        self.config = config
        self.deadline = deadline
        self.advance = advance
        self.curves: list[dict[str, Any]] = []
        self.start = first_rows(rows, config.dim, config.seed)
        self._near: Companions | None = None
        self._runs = 0
        # Seconds of an epoch and of a look, measured again and again.
        self._seconds: list[tuple[float, float]] = []

    def run_all(self, settings: Settings, others: list[QueryConfig]) -> _Run:
        """Return the longest fit with the best settings and encoder found."""
        if not self.config.epochs:
            self._calibrate(settings)
        others, deadline = self._affordable_encoders(others), self.deadline
        if others:
            self.deadline -= _ORDER * (deadline - time.perf_counter())
        best = self._best_of(settings)
        return self._try_encoders(best, others, deadline)

    def _affordable_encoders(self, others: list[QueryConfig]) -> list[QueryConfig]:
        """Return the encoders that there is time to judge: all of them, or none."""
        if self.config.epochs or not others:
            return others
        each = _ORDER * (self.deadline - time.perf_counter()) / len(others)
        fair = min(_FAIR_EPOCHS, self.config.max_epochs)
        return others if self._epochs_in(each, _LOOKS) >= fair else []

    def _best_of(self, settings: Settings) -> _Run:
        """Return the longest fit with the best settings found, or a shorter one."""
        best = self._compare(settings)
        limit_s = math.inf
        if not self.config.epochs:
            limit_s = max(1.0, self.deadline - time.perf_counter())
        chosen = settings if best is None else best.settings
        long = self._run(chosen, self._long(), _LOOKS, limit_s)
        if best is None or long.score >= best.score:
            return long
        # More epochs were worse, or a machine that slowed down left no time for more.
        longer = long.epochs > max(best.epochs, TELLING_EPOCHS - 1)
        return replace(best, overfitted=longer)

    def _try_encoders(
        self, best: _Run, others: list[QueryConfig], deadline: float
    ) -> _Run:
        """Return a fit of an encoder of sequences where it is clearly better."""
        for left, query in zip(range(len(others), 0, -1), others, strict=True):
            # What sets alone are trained with does not go with places.
            settings = replace(
                best.settings, query=query, companions=0.0, recent_beta=0.0
            )
            if self.config.dropout < 0:
                settings = replace(settings, dropout=DROPOUT)
            epochs, limit_s = _DEFAULT_EPOCHS, math.inf
            if self.config.epochs:
                epochs = min(self.config.epochs, _SHORT_EPOCHS)
            else:
                limit_s = max(1.0, (deadline - time.perf_counter()) / left)
            try:
                other = self._run(settings, epochs, _LOOKS, limit_s)
            except TrainingError as exc:
                logger.info("no %s encoder: %s", query.encoder, exc)
                continue
            if other.score > best.score * (1 + _ORDER_LEAD):
                best = other
        return best

    def _compare(self, settings: Settings) -> _Run | None:
        """Return the best of the short fits; None when there is nothing to choose."""
        config = self.config
        taus = [] if config.tau else list(TAUS[1:])
        dropouts = [] if config.dropout >= 0 else list(DROPOUTS[1:])
        # Sequences are learned place by place, without either.
        whole = not settings.query.sequential
        weights = list(COMPANIONS[1:]) if whole and config.companions < 0 else []
        timed = whole and config.recent_beta < 0 and self.rows.periods is not None
        betas = [0.0] if timed else []
        always = 1 + len(betas) + len(taus)
        short = self._short(always + len(dropouts) + len(weights))
        if short < _FAIR_EPOCHS and not config.epochs:
            dropouts = []
            short = self._short(always + len(weights))
        if short < _FAIR_EPOCHS and not config.epochs:
            weights = []
            short = self._short(always)
        if not (betas or taus or dropouts or weights):
            return None
        # A machine that slows down must not take the time of the final fit.
        until = time.perf_counter() + _SEARCH * (self.deadline - time.perf_counter())
        best = self._run(settings, short, looks=1)
        for beta in betas:
            best = self._better(best, until, 0.0, short, recent_beta=beta)
        for tau in taus:
            best = self._better(best, until, 0.0, short, tau=tau)
        for share in dropouts:
            lead = _LEAD if share < settings.dropout else 0.0
            best = self._better(best, until, lead, short, dropout=share)
        for weight in weights:
            lead = -_SLACK / short
            best = self._better(best, until, lead, short, companions=weight)
        return best

    def _better(
        self, best: _Run, until: float, lead: float, epochs: int, **changes: float
    ) -> _Run:
        """Return a fit with other settings if it wins by a relative lead.

        A negative lead is how far it may lose. Nothing is tried when time is up.
        """
        if not self.config.epochs and time.perf_counter() > until:
            return best
        other = self._run(replace(best.settings, **changes), epochs, looks=1)
        return other if other.score > best.score * (1 + lead) else best

    def _calibrate(self, settings: Settings) -> None:
        """Measure one epoch and one look."""
        seconds = self._seconds

        def after(epoch: Epoch, towers: Towers) -> bool:
            started = time.perf_counter()
            self.ahead.trend(towers, trends_of(settings, self.rows))
            seconds.append((epoch.seconds, time.perf_counter() - started))
            return False

        self._fit(settings, 1, after)

    def _fit(
        self, settings: Settings, epochs: int, after: After, limit_s: float = math.inf
    ) -> None:
        if settings.companions > 0 and self._near is None:
            self._near = closest(self.rows)
        fit(
            self.dataset,
            self.rows,
            settings,
            epochs,
            self.config.seed,
            self.start,
            after,
            limit_s,
            near=self._near,
        )

    def _short(self, runs: int) -> int:
        if self.config.epochs:
            return min(self.config.epochs, _SHORT_EPOCHS)
        left = (self.deadline - time.perf_counter()) * _SEARCH
        return self._affordable(left / runs, looks=1)

    def _long(self) -> int:
        if self.config.epochs:
            return self.config.epochs
        return self._affordable(self.deadline - time.perf_counter(), looks=_LOOKS)

    def _affordable(self, seconds: float, looks: int) -> int:
        """Return how many epochs to make in some seconds: two are always made."""
        return min(max(2, self._epochs_in(seconds, looks)), self.config.max_epochs)

    def _epochs_in(self, seconds: float, looks: int) -> int:
        """Return how many epochs fit into some seconds, below 1 if none does."""
        epoch_s, look_s = self._seconds[-1]
        return int((seconds - looks * look_s) / max(epoch_s, 1e-4))

    def _run(
        self, settings: Settings, epochs: int, looks: int, limit_s: float = math.inf
    ) -> _Run:
        """Fit once, looking at the validation slice ``looks`` times."""
        self._runs += 1
        every = max(1, math.ceil(epochs / looks))
        trends = trends_of(settings, self.rows)
        if looks == 1:
            # Fits that are only compared do with some: each costs a ranking.
            trends = trends[::3]
        found: list[_Look] = []
        seconds: list[float] = []

        def after(epoch: Epoch, towers: Towers) -> bool:
            seconds.append(epoch.seconds)
            self.advance(1, f"tau {settings.tau:g} dropout {settings.dropout:g}")
            if epoch.number % every and not epoch.last:
                return False
            started = time.perf_counter()
            trend = self.ahead.trend(towers, trends)
            popularity = bias(trend, self.rows.pop, self.rows.decayed)
            cold = self.new.place(towers, popularity)
            ranked = self.judge.rank(towers, popularity.unsqueeze(0))[0]
            reached = self.judge.metrics(ranked)
            score = score_of(reached)
            look = _Look(score, epoch.number, trend, reached, ranked, cold=cold)
            # Each lean costs a look; the first half of a fit is not what is chosen,
            # and the first epochs lean more than the published fit should.
            late = epoch.number >= _FAIR_EPOCHS
            if looks > 1 and late and (epoch.last or 2 * epoch.number > epochs):
                look = self._with_lean(look, towers, popularity)
            found.append(look)
            self._note(settings, epoch, reached)
            average = sum(seconds) / len(seconds)
            self._seconds.append((average, time.perf_counter() - started))
            best = max(range(len(found)), key=lambda i: found[i].score)
            return len(found) - best > _PATIENCE

        self._fit(settings, epochs, after, limit_s)
        best = max(found, key=lambda look: look.score)
        return _Run(
            settings=settings,
            score=best.score,
            trend=best.trend,
            metrics=best.metrics,
            lists=best.lists,
            number=self._runs,
            best=best.epoch,
            epochs=len(seconds),
            overfitted=_fell([look.score for look in found], len(seconds)),
            lean=best.lean,
            cold=best.cold,
        )

    def _with_lean(self, look: _Look, towers: Towers, bias: Tensor) -> _Look:
        """Return the look with the lean that is best, if any is better than none."""
        strength, lean = self.ahead.lean(towers, look.trend, STRENGTHS)
        if not strength:
            return look
        ranked = self.judge.lean(towers, bias, [lean])[0]
        metrics = self.judge.metrics(ranked)
        return replace(look, metrics=metrics, lists=ranked, lean=strength)

    def _note(
        self, settings: Settings, epoch: Epoch, metrics: dict[str, float]
    ) -> None:
        self.curves.append(
            {
                "run": self._runs,
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


def _fell(scores: list[float], epochs: int) -> bool:
    """Say whether the last look at a fit of some epochs is worse than its best."""
    return epochs >= TELLING_EPOCHS and max(scores) > scores[-1] * (1 + _OVERFIT)


def _epochs(best: _Run, config: TrainConfig) -> int:
    if config.epochs:
        return config.epochs
    # Where time ended the fit before it overfitted, time also bounds the final one.
    return best.best if best.overfitted else config.max_epochs


def trends_of(settings: Settings, rows: QueryRows) -> list[Trend]:
    """Return the popularity dimensions to try."""
    return grid(settings.tau, settings.beta, timed=rows.decayed is not None)


def biases_of(settings: Settings, rows: QueryRows) -> Tensor:
    """Return the popularity dimensions to try as item biases, shape (G, T)."""
    trends = trends_of(settings, rows)
    return torch.stack([bias(trend, rows.pop, rows.decayed) for trend in trends])


def floor_lists(
    dataset: Dataset, rows: QueryRows, judge: Judge, cut: Split
) -> dict[str, NDArray[np.int64]]:
    """Return lists by popularity alone, for the same users."""

    def chosen(hits: NDArray[np.bool_]) -> Tensor:
        counts = users_per_item(dataset, hits)[rows.items]
        return torch.from_numpy(counts.astype(np.float32))

    hits = cut.train & dataset.target
    lists = {"most_popular": judge.floor(chosen(hits))}
    if cut.end is not None:
        hits = hits & (dataset.time >= cut.end - RECENT_S)
        lists["popular_30d"] = judge.floor(chosen(hits))
    return lists
