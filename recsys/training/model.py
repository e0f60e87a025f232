"""The two towers in torch; the published ONNX towers compute the same (parity.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.config import ContentConfig
from recsys.encoder.values import Side
from recsys.errors import TrainingError
from recsys.training.content import Content, array, normal
from recsys.training.features import EncodedSide
from recsys.training.lean import Lean, no_lean
from recsys.training.query import MeanQuery, Taste
from recsys.training.step import Step

__all__ = ["AFTER_THE_FIT", "Content", "Towers", "array"]

# Published weights that no fit starts from: each fit is followed by its own.
AFTER_THE_FIT = ("cold_bias", "lean.weight", "lean.constant")


class Towers(nn.Module):
    """Item rows on both sides, content of item, user and context, the empty query.

    Attributes:
        served: Served item rows E_V, shape (T, d).
        history: History-side item rows E_H, shape (T, d).
        taste: Encodes a history.
        default_query: What stands for an empty history, shape (d,).
        history_weight: Maps item content to the history side, shape (d, d).
        lean: How much popularity counts for a query; set after the fit.
    """

    def __init__(
        self,
        start: Tensor,
        items: EncodedSide | None,
        users: EncodedSide | None,
        contexts: EncodedSide | None,
        generator: torch.Generator,
        content: ContentConfig = ContentConfig(),  # noqa: B008 # frozen
        taste: Taste | None = None,
    ) -> None:
        super().__init__()
        dim = start.shape[1]
        self.served = nn.Parameter(start.clone())
        self.history = nn.Parameter(start.clone())
        self.taste = taste or MeanQuery()
        self.default_query = normal((dim,), 1 / math.sqrt(dim), generator)
        self.item = _content(items, dim, content, generator)
        self.user = _content(users, dim, content, generator)
        self.context = _content(contexts, dim, content, generator)
        self.history_weight = nn.Parameter(torch.eye(dim)) if items else None
        self.lean: Lean = no_lean(start)

    def forward(
        self, step: Step, rows: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the unit queries and the served item rows of a step.

        Shapes (B, d) and (R, d); R are the items of the step, or every trained item.

        Args:
            step: Its queries and items.
            rows: Stand for the served and history rows of ``step.used``, each of shape
                (R, d); None takes them from the tables.
        """
        used = step.used
        served, history_rows = rows or (self.served, self.history)
        if used is not None and rows is None:
            served = F.embedding(used.rows, served)
            history_rows = F.embedding(used.rows, history_rows)
        if used is not None and used.content is not None:
            known = used.content.known
            content, from_content = self.item_rows(used.content.rows)
            served = content + served * known
            history_rows = from_content + history_rows * known
        taste, empty = self._taste(history_rows, step)
        return self.query(taste, empty, step.user, step.context), served

    def _taste(self, rows: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Return the taste of each query, and which have no history."""
        if step.places is None:
            return self.taste(rows, step.history), step.history.counts == 0
        empty = step.places < 0
        if not len(step.history.values):
            return rows.new_zeros(len(empty), rows.shape[1]), empty
        every = self.taste.every(rows, step.history, step.masks)
        return every[step.places.clamp(min=0)], empty

    def item_rows(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the content part of both rows of items; each of shape (n, d)."""
        if self.item is None or self.history_weight is None:
            nothing = self.served.new_zeros(len(items), self.served.shape[1])
            return nothing, nothing
        content = self.item(items)
        return content, content @ self.history_weight

    def query(
        self, taste: Tensor, empty: Tensor, user: Tensor, context: Tensor | None
    ) -> Tensor:
        """Return unit query vectors.

        Args:
            taste: What was made of the history, shape (B, d) or, of K interests,
                (B, K, d); ignored where empty.
            empty: Marks queries without history, shape (B,), bool.
            user: Row of the user features, shape (B,).
            context: Row of the context features, shape (B,), or None.

        Returns:
            Shape of the taste, float32, L2-normalised.
        """
        shape = (len(taste), *[1] * (taste.dim() - 2), -1)
        out = torch.where(empty.view(shape), self.default_query, taste)
        if self.user is not None:
            out = out + self.user(user).view(shape)
        if self.context is not None and context is not None:
            out = out + self.context(context).view(shape)
        return F.normalize(out, dim=-1, eps=1e-12)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights of all sides but the item rows, by published name."""
        named = {**self.named(), **self.taste.named()}
        out = {name: array(value) for name, value in named.items()}
        out["lean.weight"] = array(self.lean.weight)
        out["lean.constant"] = array(self.lean.constant)
        return out

    @torch.no_grad()
    def set_weights(self, named: Mapping[str, NDArray[np.float32]]) -> None:
        """Set weights by published name, and the item rows "served" and "history".

        Raises:
            TrainingError: There is no weight of that name and shape.
        """
        known: dict[str, Tensor] = {**self.named(), **self.taste.named()}
        known |= {"served": self.served, "history": self.history}
        for name, value in named.items():
            if name in AFTER_THE_FIT:
                continue
            if name not in known or known[name].shape != value.shape:
                raise TrainingError(
                    f"the weight {name!r} of shape {value.shape} does not fit",
                    hint="Features or train.dim have changed: train without it.",
                )
            known[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def named(self) -> dict[str, nn.Parameter]:
        """Return the weights of all sides but item rows and history, by name."""
        out: dict[str, nn.Parameter] = {}
        sides: dict[Side, Content | None] = {
            "item": self.item,
            "user": self.user,
            "context": self.context,
        }
        for name, content in sides.items():
            if content is not None:
                out |= content.named(name)
        if self.history_weight is not None:
            out["item.history.weight"] = self.history_weight
        out["default_query"] = self.default_query
        return out


def _content(
    side: EncodedSide | None,
    dim: int,
    config: ContentConfig,
    generator: torch.Generator,
) -> Content | None:
    return Content(side, dim, generator, config) if side else None
