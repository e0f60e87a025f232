"""Query rows, put together from those of blocks of users."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.training.columns import Column, Lists
from recsys.training.periods import Cutter, beginnings
from recsys.training.ragged import Ragged
from recsys.training.rows.block import Block
from recsys.training.rows.trained import Trained
from recsys.training.rows.view import QueryRows


class Collector:
    """Puts the rows of blocks of users together."""

    def __init__(self, trained: Trained, end: float | None) -> None:
        self._trained = trained
        items = len(trained.items)
        starts = None
        if end is not None and trained.first is not None:
            starts = beginnings(trained.first, end, items)
        self._cutter = None
        if starts is not None and end is not None:
            self._cutter = Cutter(starts, end, items)
        self._users = 0
        self._user, self._context = Column(np.int64), Column(np.int64)
        self._lists: dict[str, Lists] = {}
        self._sums: dict[str, Tensor] = {}

    def add(self, block: Block) -> None:
        """Take the rows of the users that come next."""
        if self._cutter is not None:
            events = block.events
            self._cutter.add(events, len(self._user))
        self._user.add(block.user.numpy() + self._users)
        if block.context is not None:
            self._context.add(block.context.numpy())
        self._users += block.users
        lists = {
            "targets": block.targets,
            "history": block.history,
            "seen": block.seen,
            "shown": block.own.shown,
            "disliked": block.own.disliked,
        }
        for name, part in lists.items():
            if part is not None:
                self._lists.setdefault(name, Lists()).add(part)
        for name, counts in (("pop", block.pop), ("decayed", block.decayed)):
            if counts is not None:
                before = self._sums.get(name)
                self._sums[name] = counts if before is None else before + counts

    def rows(self, keep: NDArray[np.bool_]) -> QueryRows:
        """Return all rows, and forget them."""

        def lists(name: str) -> Ragged | None:
            found = self._lists.pop(name, None)
            return None if found is None else found.ragged()

        targets, history, seen = lists("targets"), lists("history"), lists("seen")
        assert targets is not None
        assert history is not None
        assert seen is not None
        context = (
            torch.from_numpy(self._context.array()) if len(self._context) else None
        )
        return QueryRows(
            items=self._trained.items,
            users=self._trained.users,
            user=torch.from_numpy(self._user.array()),
            context=context,
            targets=targets,
            history=history,
            seen=seen,
            pop=self._sums["pop"],
            decayed=self._sums.get("decayed"),
            shown=lists("shown"),
            disliked=lists("disliked"),
            periods=None if self._cutter is None else self._cutter.periods(),
            keep=keep,
        )
