"""What a search starts from, and what it tries beside that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys.config import ModelConfig, TrainConfig
from recsys.popularity import Trend
from recsys.training.choice.length import LARGER_DIM
from recsys.training.matryoshka import fitting
from recsys.training.rows import QueryRows
from recsys.training.settings import Settings, settings_of
from recsys.training.trend import bias, grid

TAUS = (0.1, 0.15, 0.2)
DROPOUTS = (0.5, 0.3, 0.15)
MOST_DROPOUT = 0.7
COMPANIONS = (0.0, 0.5)
# A value is tried where the one before it is the best so far: what is worse on the way
# there is seldom better behind it, and each fit that is spared makes others longer.
_AFTER = {
    ("tau", TAUS[2]): TAUS[1],
    ("dropout", DROPOUTS[2]): DROPOUTS[1],
    ("dropout", MOST_DROPOUT): DROPOUTS[0],
}


def first_settings(model: ModelConfig) -> Settings:
    """Return the settings that the search starts from."""
    config = model.train
    dropout = config.dropout if config.dropout >= 0 else DROPOUTS[0]
    settings = settings_of(model, config.tau or TAUS[0], dropout)
    return replace(settings, prefixes=fitting(config.prefixes, config.first_dim))


@dataclass(frozen=True, slots=True)
class Change:
    """Another value of one of the settings."""

    name: str
    value: float | int

    def of(self, settings: Settings) -> Settings:
        """Return the settings with the value."""
        return replace(settings, **{self.name: self.value})

    @property
    def sure(self) -> bool:
        """Whether it is tried whatever was found before."""
        return (self.name, self.value) not in _AFTER

    def worth_trying(self, settings: Settings) -> bool:
        """Whether it may be better than the best so far."""
        before = _AFTER.get((self.name, self.value))
        return before is None or getattr(settings, self.name) == before


def changes(settings: Settings, config: TrainConfig, *, timed: bool) -> list[Change]:
    """Return what is tried one after the other: whatever is not fixed.

    What is tried in any case comes first, so that it has its time.

    Args:
        settings: What is started from.
        config: What is fixed.
        timed: Whether query rows are cut by time.
    """
    # Sequences are learned place by place, without companions or times of rows.
    whole = not settings.query.sequential
    tried: list[Change] = []
    if whole and timed and config.recent_beta < 0:
        tried.append(Change("recent_beta", 0.0))
    if not config.tau:
        tried += [Change("tau", tau) for tau in TAUS[1:]]
    if config.dropout < 0:
        shares = (*DROPOUTS[1:], MOST_DROPOUT)
        tried += [Change("dropout", share) for share in shares]
    if whole and config.companions < 0:
        tried += [Change("companions", weight) for weight in COMPANIONS[1:]]
    if whole and not config.dim:
        tried.append(Change("dim", LARGER_DIM))
    return sorted(tried, key=lambda change: not change.sure)


def trends_of(settings: Settings, rows: QueryRows) -> list[Trend]:
    """Return the popularity dimensions to try."""
    return grid(settings.tau, settings.beta, timed=rows.decayed is not None)


def biases_of(settings: Settings, rows: QueryRows) -> Tensor:
    """Return the popularity dimensions to try as item biases, shape (G, T)."""
    trends = trends_of(settings, rows)
    return torch.stack([bias(trend, rows.pop, rows.decayed) for trend in trends])
