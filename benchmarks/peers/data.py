"""The split that all train on: two files of pairs, or a made-up shop of the same form.

A folder holds ``train.csv.gz`` and ``test.csv.gz`` with the columns user_id and
item_id, numbered from 0. It is read where it lies.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TRAIN, TEST = "train.csv.gz", "test.csv.gz"
_TASTES = 8


@dataclass(frozen=True)
class Pairs:
    """Interactions to learn from, each pair of user and item once.

    Attributes:
        user: Shape (n,), int64, 0 to ``users``.
        item: Shape (n,), int64, 0 to ``items``.
        users: Number of users.
        items: Number of items.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    users: int
    items: int

    def __len__(self) -> int:
        return len(self.user)


def train(folder: Path) -> Pairs:
    """Read the training part."""
    found = np.unique(read(folder / TRAIN), axis=0)
    users, items = (found.max(0) + 1).tolist()
    return Pairs(found[:, 0], found[:, 1], users, items)


def read(file: Path) -> NDArray[np.int64]:
    """Read pairs of user and item, shape (n, 2)."""
    with gzip.open(file, "rt") as text:
        rows = csv.reader(text)
        next(rows)
        return np.array([(int(user), int(item)) for user, item in rows], np.int64)


def cut(folder: Path, into: Path, share: float = 0.1, seed: int = 0) -> None:
    """Write the training part again as a split, to choose settings on.

    Args:
        folder: Its training part is cut; its test part is not looked at.
        into: Where the two files are written.
        share: Of each user's items that make the new test part, rounded down.
        seed: Of the draw.
    """
    pairs = train(folder)
    order = np.lexsort((np.random.default_rng(seed).random(len(pairs)), pairs.user))
    start = np.searchsorted(pairs.user, np.arange(pairs.users))
    count = np.bincount(pairs.user, minlength=pairs.users)
    owner = pairs.user[order]
    held = np.arange(len(pairs)) - start[owner] < (count[owner] * share).astype(int)
    both = np.stack([pairs.user, pairs.item], 1)[order]
    write(into / TRAIN, both[~held])
    write(into / TEST, both[held])


def shop(folder: Path, users: int, items: int, seed: int = 0) -> None:
    """Write a made-up shop: eight tastes, a long tail, a fifth of each list as test.

    A user chooses 15 items, four of five times among those of the own taste.
    """
    rng = np.random.default_rng(seed)
    popularity = 1 / (1 + rng.permutation(items)) ** 0.7
    taste_of_item = rng.integers(_TASTES, size=items)
    kept: list[tuple[int, int]] = []
    held: list[tuple[int, int]] = []
    for user in range(users):
        liking = np.where(taste_of_item == user % _TASTES, 4.0 * (_TASTES - 1), 1.0)
        chance = popularity * liking
        chosen = rng.choice(items, 15, replace=False, p=chance / chance.sum())
        held += [(user, int(item)) for item in chosen[:3]]
        kept += [(user, int(item)) for item in chosen[3:]]
    write(folder / TRAIN, np.array(kept))
    write(folder / TEST, np.array(held))


def write(file: Path, pairs: NDArray[np.int64]) -> None:
    """Write pairs as ``read`` reads them."""
    with gzip.open(file, "wt", compresslevel=1) as text:
        text.write("user_id,item_id\n")
        text.writelines(f"{user},{item}\n" for user, item in pairs.tolist())
