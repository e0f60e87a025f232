"""What a full update goes on from, and on which data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from recsys._parent import Parent
from recsys.config import ModelConfig, checked
from recsys.errors import ConfigError, TrainingError
from recsys.training.choice.tried import first_settings
from recsys.training.dataset import Dataset
from recsys.training.model import Towers
from recsys.training.rows import QueryRows, fit_rows
from recsys.training.settings import Settings
from recsys.types import ItemId

_LEARNED = ("tau", "dropout", "beta", "recent_beta", "lr", "companions")


@dataclass(frozen=True, slots=True)
class Basis:
    """A parent and the data to go on with.

    Attributes:
        dataset: Everything, old and new.
        config: The model's configuration, with the length of its vectors.
        parent: The version to go on from.
        settings: Its hyper-parameters, where the configuration fixes none.
    """

    dataset: Dataset
    config: ModelConfig
    parent: Parent
    settings: Settings

    @classmethod
    def of(cls, dataset: Dataset, config: ModelConfig, parent: Parent) -> Basis:
        """Put both together.

        Raises:
            TrainingError: They do not go together.
        """
        if not config.train.dim:
            dim = parent.served.shape[1]
            config = _of_length(config, dim)
        _check(config, parent)
        return cls(dataset, config, parent, _settings(config, parent))

    def rows(self, keep: NDArray[np.bool_], end: float | None) -> QueryRows:
        """Return the query rows of some of the interactions."""
        return fit_rows(self.dataset, keep, end, self.config.train)

    def towers(self, served: NDArray[np.float32]) -> Towers:
        """Return towers as a training from the start begins with them."""
        data = self.dataset
        return Towers(
            torch.from_numpy(served),
            data.items,
            data.users,
            data.contexts,
            torch.Generator().manual_seed(self.config.train.seed),
            self.settings.content,
        )

    def ids(self, rows: QueryRows) -> list[ItemId]:
        """Return the ids of the trained items, shape (T,)."""
        places: list[int] = rows.items.tolist()
        return [self.dataset.item_ids[place] for place in places]


def _of_length(config: ModelConfig, dim: int) -> ModelConfig:
    """Return the configuration with the length of the parent's vectors.

    Raises:
        TrainingError: It asks for prefixes or heads that do not go with it.
    """
    try:
        return checked(replace(config, train=replace(config.train, dim=dim)))
    except ConfigError as exc:
        raise TrainingError(
            f"vectors stay as long as those of the parent, {dim}: {exc}",
            hint="Train from the start: leave out --full.",
        ) from exc


def _check(config: ModelConfig, parent: Parent) -> None:
    """Refuse what a full update cannot go on from, or could not arrive at."""
    if parent.served.shape[1] != config.train.dim:
        raise TrainingError(
            f"version {parent.number} has {parent.served.shape[1]} dimensions,"
            f" train.dim is {config.train.dim}",
            hint="Train from the start: leave out --full.",
        )
    if parent.query.beyond_mean:
        raise TrainingError(
            f"version {parent.number} makes its queries with"
            f" {parent.query.beyond_mean}: a full update goes on from a mean alone",
            hint='Train from the start, or set query.encoder = "mean" and train once.',
        )
    if config.query.beyond_mean:
        raise TrainingError(
            f"recsys.toml asks for {config.query.beyond_mean}: a full update makes its"
            " queries by a mean alone",
            hint='Train from the start, or set query.encoder = "mean" and'
            ' query.interests_from = "clusters".',
        )


def _settings(config: ModelConfig, parent: Parent) -> Settings:
    """Return the parent's hyper-parameters where the configuration fixes none."""
    settings = first_settings(config)
    known = {
        name: float(parent.settings[name])
        for name in _LEARNED
        if name in parent.settings
    }
    if config.train.tau:
        known.pop("tau", None)
    if config.train.dropout >= 0:
        known.pop("dropout", None)
    if config.train.companions >= 0:
        known.pop("companions", None)
    if config.train.recent_beta >= 0:
        known.pop("recent_beta", None)
    query = replace(config.query, encoder="mean")
    return replace(settings, query=query, **known)
