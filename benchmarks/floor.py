"""The untrained linear item filter: what a trained model must beat.

    score = r A' A,   A = Du^-1/2 R Di^-1/2

with R the 0/1 interactions, r a user's row of it, and D the degrees of users and items.
It needs a table of item pairs to serve, not one vector per item; it is a floor of
quality only.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from recsys.evaluate import Holdout
from recsys.training.dataset import Dataset
from recsys.training.metrics import HIT_DEPTH, user_metrics
from recsys.training.rows import QueryRows, query_rows

_USERS_PER_STEP = 256


def linear_filter(
    dataset: Dataset, holdout: Holdout, history: int, k: int = 20
) -> dict[str, float]:
    """Return recall@k, ndcg@k and hr@10 over the users of a holdout.

    Args:
        dataset: What a model would be trained on.
        holdout: What counts as a hit.
        history: Most items of a user that count, as for the model.
        k: List length.
    """
    rows = query_rows(dataset, np.ones(len(dataset), bool), dataset.until, history)
    matrix, back = _matrices(rows)
    place = {dataset.item_ids[item]: at for at, item in enumerate(rows.items.tolist())}
    row = {dataset.user_ids[user]: at for at, user in enumerate(rows.users.tolist())}
    # A user or an item without taste in the training part cannot be found.
    users = [user for user, items in holdout.relevant.items() if items]
    wanted = [
        np.array([place.get(item, -1) for item in holdout.relevant[user]])
        for user in users
    ]
    depth = min(max(k, HIT_DEPTH), len(rows.items))
    found = np.full((len(users), depth), -2)
    known = [at for at, user in enumerate(users) if user in row]
    for first in range(0, len(known), _USERS_PER_STEP):
        some = known[first : first + _USERS_PER_STEP]
        chosen = torch.tensor([row[users[at]] for at in some])
        found[some] = _best(rows, matrix, back, chosen, depth).numpy()
    return {
        name: float(values.mean())
        for name, values in user_metrics(found, wanted, k).items()
    }


def _matrices(rows: QueryRows) -> tuple[Tensor, Tensor]:
    """Return A, shape (U, T), and its transpose, sparse."""
    history = rows.history
    user = torch.repeat_interleave(history.start.diff())
    by_user = history.start.diff().clamp(min=1).float()
    by_item = torch.bincount(history.values, minlength=len(rows.items)).clamp(min=1)
    value = (by_user[user] * by_item[history.values]).rsqrt()
    shape = (len(history), len(rows.items))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        matrix = torch.sparse_coo_tensor(
            torch.stack([user, history.values.long()]), value, shape
        )
        return matrix.to_sparse_csr(), matrix.t().to_sparse_csr()


def _best(
    rows: QueryRows, matrix: Tensor, back: Tensor, chosen: Tensor, depth: int
) -> Tensor:
    """Return the best unseen items of some users, shape (B, depth)."""
    history, seen = rows.history.take(chosen), rows.seen.take(chosen)
    taste = torch.zeros(len(rows.items), len(chosen))
    taste[history.values.long(), history.owner] = 1
    scores = (back @ (matrix @ taste)).T.contiguous()  # (B, T)
    scores[seen.owner, seen.values.long()] = -1
    return scores.topk(depth).indices
