"""One of the processes of tests/training/test_processes.py."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_next_item import chains
from test_next_item import config as next_config
from toys import FAST, checkerboard, make_config

from recsys._parent import Parent
from recsys.config import Feature, ModelConfig, Source
from recsys.errors import TrainingError
from recsys.training.dataset import Dataset
from recsys.training.device import Device
from recsys.training.processes import together
from recsys.training.trainer import train


def board() -> tuple[Dataset, ModelConfig]:
    """A toy with features, and the settings that the processes use."""
    items = Source("select 1", (Feature("colour", "category"),))
    # So low a temperature is computed in float32, which rounds parts and wholes alike.
    fast = replace(FAST, tau=0.04, epochs=3, companions=0.5)
    config = make_config(items=items, train=fast)
    users, chosen = checkerboard()
    ids = sorted(set(chosen))
    columns = {"colour": [str(i % 3) for i in ids]}
    dataset = Dataset.from_arrays(
        config, users, chosen, item_ids=ids, item_columns=columns
    )
    return dataset, config


def half_a_teacher(dim: int = 24) -> Parent:
    """Rows of most items of the toy: an even item is like an even one."""
    rng = np.random.default_rng(0)
    rows = 0.3 * rng.normal(size=(30, dim)).astype(np.float32)
    rows[np.arange(30), np.arange(30) % 2] += 1
    weights = {"default_query": np.zeros(dim, np.float32)}
    return Parent(7, 1.0, list(range(30)), rows, rows, weights)


MORE: dict[str, dict[str, Any]] = {
    "endless": {"epochs": 0, "budget_s": 120.0, "max_epochs": 10**6},
    "dense": {"item_updates": "dense"},
    "sparse": {"item_updates": "sparse"},
    "taught": {"dim": 8},
}


def job(how: str) -> tuple[Dataset, ModelConfig, Parent | None]:
    """The data and the settings, and whom to learn from."""
    if how == "transformer":
        config = next_config(encoder=how)
        config = replace(config, train=replace(config.train, epochs=2))
        return chains(40)[0], config, None
    if how != "taught":
        dataset, config = board()
        train_ = replace(config.train, **MORE[how])
        return dataset, replace(config, train=train_), None
    config = make_config(train=replace(FAST, epochs=3, **MORE[how]))
    return Dataset.from_arrays(config, *checkerboard()), config, half_a_teacher()


def main(out: Path, how: str) -> None:
    """Train once, and write what was learned where this process leads."""
    torch.set_num_threads(1)
    # Sums of other parts round in other ways, in bfloat16 by much.
    Device.products = lambda self, tau: torch.float32
    with together() as leads:
        if not leads:
            return
        (out / "ready").write_text(str(os.getpid()))
        dataset, config, parent = job(how)
        model = train(dataset, config, distil_from=parent)
    np.savez(out / "rows.npz", served=model.id_served, history=model.id_history)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except TrainingError as exc:
        sys.exit(f"{exc} {exc.hint}")
