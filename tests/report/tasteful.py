"""A shop whose users have tastes, and a version trained on it for real."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import world

from recsys import _db, pipeline
from recsys import config as configuration
from recsys.backfill import backfill
from recsys.config import ProjectConfig

# Another temperature is tried: a search to be shown.
TRAIN = {"dim": 8, "epochs": 4, "dropout": 0.3, "validation": 0.2}


@dataclass(frozen=True)
class Reported:
    """A database with version 1 of model "shop", ready."""

    dsn: str
    project: ProjectConfig


def fill(dsn: str, *, users: int = 90, items: int = 80) -> None:
    """Six tastes: a user chooses among a sixth of the items, the first ones most."""
    world.fill_shop(dsn, items=items, users=users, events=0)
    rng = np.random.default_rng(0)
    with _db.connect(dsn) as conn, conn.cursor().copy("copy event from stdin") as copy:
        for user in range(1, users + 1):
            taste = np.arange(items)[np.arange(items) % 6 == user % 6]
            share = 1 / (1 + np.arange(len(taste)))
            many = min(len(taste), 3 + user % 9)
            for n, item in enumerate(
                rng.choice(taste, many, replace=False, p=share / share.sum())
            ):
                at = world.NOW - timedelta(hours=int(rng.integers(1, 900)) + n)
                kind = ("view", "cart", "purchase")[int(rng.integers(3))]
                copy.write_row((user, int(item) + 1, kind, at))


def make(dsn: str, folder: Path, **train: object) -> Reported:
    """Fill the shop, train and backfill."""
    fill(dsn)
    data = world.toml(features=True, train={**TRAIN, **train})
    path = folder / "recsys.toml"
    project = dataclasses.replace(
        configuration.from_mapping(data), path=path, versions=folder / "versions"
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pipeline.train_version(dsn, project, "shop", revision=False)
    finally:
        torch.set_num_threads(before)
    backfill(dsn, "shop", 1)
    return Reported(dsn, project)
