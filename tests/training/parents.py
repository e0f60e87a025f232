"""Days of interactions, and the version that a full update goes on from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from toys import make_config

from recsys._parent import Parent
from recsys.config import Feature, ModelConfig, Source
from recsys.training.dataset import Dataset
from recsys.training.trained import TrainedModel
from recsys.updates.settings import UpdateConfig

DAY = 86_400.0
BRANDS = ("left", "right")


def config_of(features: bool, **update: Any) -> ModelConfig:
    config = make_config()
    train_ = replace(config.train, epochs=6, dim=8)
    items = config.items
    if features:
        items = Source("select 1", (Feature("brand", "category", min_count=1),))
    return replace(config, train=train_, items=items, update=UpdateConfig(**update))


def data(
    config: ModelConfig, days: tuple[int, ...], *, items: int = 30, brands: Any = None
) -> Dataset:
    """Even users choose even items; item n comes up on day n // 10 and later."""
    rng = np.random.default_rng(0)
    users, chosen, times = [], [], []
    for day in days:
        for user in range(40):
            own = np.arange(user % 2, min(items, 10 * (day + 2)), 2)
            for item in rng.choice(own, 4, replace=False).tolist():
                users.append(user)
                chosen.append(item)
                times.append(DAY * day + user)
    names = brands or [BRANDS[i % 2] for i in range(items)]
    columns = {"brand": names} if config.items.features else None
    return Dataset.from_arrays(
        config, users, chosen, times=times, item_ids=list(range(items)),
        item_columns=columns,
    )  # fmt: skip


def parent_of(config: ModelConfig, model: TrainedModel, until: float) -> Parent:
    known = np.flatnonzero(model.trained)
    return Parent(
        number=1,
        until=until,
        item_ids=[model.item_ids[i] for i in known],
        served=model.id_served[known],
        history=model.id_history[known],
        weights=model.weights,
        vocabularies={
            f"item.{f.feature.name}": f.vocabulary for f in model.items.features
        },
        settings=model.report["settings"],
    )
