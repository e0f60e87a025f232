from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.config import Interactions, ModelConfig, Source, TrainConfig
from recsys.progress import SILENT, Stage

FAST = TrainConfig(
    dim=16,
    history=32,
    epochs=20,
    tau=0.15,
    dropout=0.3,
    companions=0.0,
    negatives=64,
    budget_s=20,
)


class BeforeTheSearch:
    """Progress that keeps what was logged before the first stage of a training."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.text: str | None = None

    def stage(
        self, name: str, total: int | None = None
    ) -> AbstractContextManager[Stage]:
        if self.text is None:
            self.text = self._caplog.text
        return SILENT.stage(name, total)


def make_config(**changes: Any) -> ModelConfig:
    config = ModelConfig(
        name="toy",
        item_id="bigint",
        user_id="bigint",
        items=Source("select 1"),
        users=Source(),
        context=Source(),
        interactions=Interactions("select 1"),
        train=FAST,
    )
    return replace(config, **changes)


def checkerboard(
    users: int = 120, items: int = 40, share: float = 0.5, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Even users choose even items, odd users odd ones."""
    rng = np.random.default_rng(seed)
    pairs = [
        (user, item)
        for user in range(users)
        for item in range(items)
        if user % 2 == item % 2 and rng.random() < share
    ]
    return [u for u, _ in pairs], [i for _, i in pairs]
