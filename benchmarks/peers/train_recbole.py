"""RecBole: BPR and LightGCN with the settings of the library.

Its data set is read from a file in its own format, which is written to a scratch
folder. There is no validation part, so nothing stops early: it trains the library's 300
epochs or until the time limit, which may come in the middle of an epoch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from benchmarks.peers.data import Pairs
from benchmarks.peers.job import Clock, Job, Trained, run

EPOCHS = 300
NAME = "peers"


class _Until:
    """The batches of a loader, until the time limit; counts their interactions."""

    def __init__(self, loader: Any, clock: Clock) -> None:
        self._loader, self._clock = loader, clock
        self.seen = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield batch
            self.seen += len(batch)
            if self._clock.over:
                return


def bpr(job: Job, pairs: Pairs) -> Trained:
    """Matrix factorisation with the pairwise loss."""
    return _fit("BPR", job, pairs)


def light_gcn(job: Job, pairs: Pairs) -> Trained:
    """Embeddings propagated over the graph of interactions."""
    return _fit("LightGCN", job, pairs)


def _fit(name: str, job: Job, pairs: Pairs) -> Trained:
    torch.set_num_threads(job.threads)
    os.chdir(job.out)  # it leaves logs where it runs
    sys.argv = sys.argv[:1]  # it reads them
    config = Config(model=name, dataset=NAME, config_dict=_settings(job, pairs))
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    loader, _, _ = data_preparation(config, dataset)
    model = get_model(name)(config, loader.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    clock = Clock(job.seconds)
    until, epochs = _Until(loader, clock), 0
    while epochs < EPOCHS and not clock.over:
        # Of one epoch each: the loop of the library knows no time limit.
        trainer.fit(until, saved=False, verbose=False)
        epochs += 1
    ended = "time limit" if clock.over else "default number of epochs"
    layers = f", {config['n_layers']} layers" if name == "LightGCN" else ""
    note = f"torch {torch.__version__.split('+')[0]}, defaults{layers}; {ended}"
    measured = clock.stop(pairs, until.seen, note)
    return measured, *_factors(name, model, dataset, pairs, job.dim)


def _settings(job: Job, pairs: Pairs) -> dict[str, Any]:
    """Write the data as the library reads it; return what differs from its defaults."""
    folder = job.out / NAME
    folder.mkdir()
    with (folder / f"{NAME}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\n")
        both = np.stack([pairs.user, pairs.item], 1).tolist()
        file.writelines(f"{user}\t{item}\n" for user, item in both)
    return {
        "data_path": str(job.out),
        "load_col": {"inter": ["user_id", "item_id"]},
        "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "RO"},
        "use_gpu": False,
        "seed": job.seed,
        "embedding_size": job.dim,
        "epochs": 1,
        "show_progress": False,
        "checkpoint_dir": str(job.out / "saved"),
        "state": "ERROR",
    }


@torch.no_grad()
def _factors(
    name: str, model: Any, dataset: Any, pairs: Pairs, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what scores are the inner products of, in the order of the files."""
    if name == "LightGCN":
        found = model.forward()  # propagated
    else:
        found = model.user_embedding.weight, model.item_embedding.weight
    out = []
    for vectors, field, count in (
        (found[0], dataset.uid_field, pairs.users),
        (found[1], dataset.iid_field, pairs.items),
    ):
        tokens = np.array([int(t) for t in dataset.field2id_token[field][1:]])
        factors = np.zeros((count, dim), np.float32)
        factors[tokens] = vectors.numpy()[1:]  # row 0 is padding
        out.append(factors)
    return out[0], out[1]


if __name__ == "__main__":
    run({"bpr": bpr, "light_gcn": light_gcn})
