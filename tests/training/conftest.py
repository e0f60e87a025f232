from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from toys import checkerboard, make_config

from recsys.config import ModelConfig
from recsys.training.dataset import Dataset


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def board() -> Callable[..., Dataset]:
    def build(config: ModelConfig | None = None, **columns: Any) -> Dataset:
        users, items = checkerboard()
        return Dataset.from_arrays(config or make_config(), users, items, **columns)

    return build
