"""Our side: the public trainer with its defaults, and the floor of popularity.

Its budget is the time limit, and choosing the settings on a slice of the training part
is inside it, as is the export. Speed is that of the final fit on all interactions; the
epochs of the short fits before it are not counted. Factors are what the exported towers
give.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.data import Pairs
from benchmarks.peers.job import Clock, Job, Trained, run
from benchmarks.peers.score import floor
from recsys.config import ModelConfig, from_mapping

_USERS_PER_STEP = 256


def default(job: Job, pairs: Pairs) -> Trained:
    """Train as ``recsys train`` does."""
    import torch

    from recsys.training.dataset import Dataset
    from recsys.training.trainer import train

    torch.set_num_threads(job.threads)
    config = _config(job)
    dataset = Dataset.from_arrays(config, pairs.user, pairs.item)
    clock = Clock(job.seconds)
    model = train(dataset, config)
    report = model.report
    settings, fit_s = report["settings"], report["timing"]["fit_s"]
    note = (
        f"torch {torch.__version__.split('+')[0]}, defaults; of the time "
        f"{report['timing']['choose_s']:.0f} s chose tau {settings['tau']:g}, dropout "
        f"{settings['dropout']:g}, d = {settings['dim']}, companions "
        f"{settings['companions']:g}"
    )
    seen = settings["epochs"] * report["data"]["positives"]
    measured = clock.stop(pairs, seen, note, fit_s)
    return measured, *_factors(model, dataset, config, pairs)


def most_popular(job: Job, pairs: Pairs) -> Trained:
    """Count; the same list for everyone."""
    clock = Clock(job.seconds)
    users, items = floor(pairs)
    return clock.stop(pairs, len(pairs), "no training: a count"), users, items


def _config(job: Job) -> ModelConfig:
    source = {"items": {"sql": "select 1"}, "interactions": {"sql": "select 1"}}
    train = {"dim": job.dim, "budget_s": job.seconds, "seed": job.seed}
    mapping = {"model": {"peers": {**source, "train": train}}}
    return from_mapping(mapping).model("peers")


def _factors(
    model: object, dataset: object, config: ModelConfig, pairs: Pairs
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return query vectors (U, d + 1) and item vectors (N, d + 1) of the towers."""
    from recsys._tower import ItemTower, QueryTower
    from recsys.training.rows import query_rows

    train = replace(config.train, dim=model.dim)
    config = replace(config, query=model.query, train=train)
    tower = ItemTower(model.item_tower, (), model.dim)
    count = len(model.item_ids)
    vectors, rows_of = tower.encode(
        {}, count, model.id_served, model.id_history, model.bias
    )
    items = np.zeros((pairs.items, vectors.shape[1]), np.float32)
    items[np.array(model.item_ids)] = vectors
    every = np.ones(len(dataset), np.bool_)
    rows = query_rows(dataset, every, dataset.until, config.history)
    rows_of = rows_of[rows.items]
    query = QueryTower.of(model.query_tower, config)
    users = np.zeros((pairs.users, vectors.shape[1]), np.float32)
    ids = np.array(dataset.user_ids)[rows.users]
    for first in range(0, len(ids), _USERS_PER_STEP):
        some = range(first, min(first + _USERS_PER_STEP, len(ids)))
        lists = [rows.history.entries(user) for user in some]
        history = np.zeros(
            (len(lists), max(len(v) for v, _ in lists), model.dim), np.float32
        )
        weight = np.zeros(history.shape[:2], np.float32)
        for at, (places, weights) in enumerate(lists):
            history[at, : len(places)] = rows_of[places.numpy()]
            weight[at, : len(places)] = weights.numpy()
        users[ids[first : first + len(lists)]] = query.encode(history, weight)
    return users, items


if __name__ == "__main__":
    run({"default": default, "most_popular": most_popular})
