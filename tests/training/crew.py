"""One of the processes of tests/training/test_processes.py."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from toys import FAST, checkerboard, make_config

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


MORE = {
    "endless": {"epochs": 0, "budget_s": 120.0, "max_epochs": 10**6},
    "dense": {"item_updates": "dense"},
    "sparse": {"item_updates": "sparse"},
}


def main(out: Path, how: str) -> None:
    """Train once, and write what was learned where this process leads."""
    torch.set_num_threads(1)
    # Sums of other parts round in other ways, in bfloat16 by much.
    Device.products = lambda self, tau: torch.float32
    more = MORE[how]
    with together() as leads:
        if not leads:
            return
        (out / "ready").write_text(str(os.getpid()))
        dataset, config = board()
        config = replace(config, train=replace(config.train, **more))
        model = train(dataset, config)
    np.savez(out / "rows.npz", served=model.id_served, history=model.id_history)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except TrainingError as exc:
        sys.exit(f"{exc} {exc.hint}")
