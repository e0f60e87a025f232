"""The one evaluator of all peers: factors to metrics, numpy only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.data import Pairs
from recsys.training.metrics import ranking_metrics

K = 20
_USERS_PER_STEP = 512


def score(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    train: Pairs,
    test: NDArray[np.int64],
    k: int = K,
) -> dict[str, float]:
    """Rank by inner product the items of the training part the user has not met there.

    Args:
        users: Shape (U, f), finite; a user without a vector has zeros.
        items: Shape (N, f), likewise.
        train: What is left out of the lists.
        test: Pairs of user and item to be found, shape (m, 2); items that are not in
            the training part count as missed.
        k: Length of the lists.

    Returns:
        "recall@k", "ndcg@k" and "hr@10", averaged over the users of ``test``.

    Raises:
        ValueError: A factor is missing or not finite: a training that broke would
            otherwise get the rank of chance.
    """
    if (len(users), len(items)) != (train.users, train.items):
        raise ValueError(
            f"factors of {len(users)} users and {len(items)} items, "
            f"not {train.users} and {train.items}"
        )
    if not (np.isfinite(users).all() and np.isfinite(items).all()):
        raise ValueError("a factor is not finite")
    test = np.unique(test[test[:, 0] < train.users], axis=0)  # by user
    asked, first = np.unique(test[:, 0], return_index=True)
    relevant = np.split(test[:, 1], first[1:])
    lists = np.concatenate(list(_lists(users, items, train, asked, k)))
    return ranking_metrics(lists, relevant, k)


def _lists(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    train: Pairs,
    asked: NDArray[np.int64],
    k: int,
) -> Iterator[NDArray[np.int64]]:
    """Yield the best k items of some users at a time, best first, (B, k)."""
    start = np.searchsorted(train.user, np.arange(train.users + 1))
    k = min(k, train.items)
    # Nobody has learned anything of an item that only has a number.
    nothing = np.bincount(train.item, minlength=train.items) == 0
    for first in range(0, len(asked), _USERS_PER_STEP):
        some = asked[first : first + _USERS_PER_STEP]
        scores = users[some] @ items.T  # (B, N)
        count = start[some + 1] - start[some]
        place = np.repeat(start[some], count) + _within(count)
        row = np.repeat(np.arange(len(some)), count)
        scores[row, train.item[place]] = -np.inf
        scores[:, nothing] = -np.inf
        best = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
        value = np.take_along_axis(scores, best, 1)
        order = np.argsort(-value, axis=1, kind="stable")
        found = np.take_along_axis(best, order, 1)
        value = np.take_along_axis(value, order, 1)
        yield np.where(value == -np.inf, -1, found)


def _within(count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, ... within each run of these lengths."""
    ends = np.cumsum(count)
    return np.arange(int(count.sum())) - np.repeat(ends - count, count)


def floor(train: Pairs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the factors of "most popular": one number for everyone."""
    count = np.bincount(train.item, minlength=train.items)
    return np.ones((train.users, 1), np.float32), count[:, None].astype(np.float32)
