"""The two towers in torch; the published ONNX towers compute the same (export.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.encoder.values import Side
from recsys.errors import TrainingError
from recsys.training.features import EncodedSide, Tokens
from recsys.training.query import MeanQuery
from recsys.training.ragged import Ragged
from recsys.training.step import Step

_TABLE_STD = 0.02


class Content(nn.Module):
    """Features of one side to one vector: pooled tables, a linear map and a block.

    x = sum_f pool(table_f[index_f]) + dense @ W + b; out = x + relu(x w1 + b1) w2,
    where the pool is a sum over the tokens divided by the root of their number.
    """

    def __init__(self, side: EncodedSide, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self._names = list(side.tokens)
        self._inputs = _inputs(side)
        sizes = side.fitted.table_sizes
        self.tables = nn.ParameterList(
            _normal((sizes[name], dim), _TABLE_STD, generator) for name in self._names
        )
        with torch.no_grad():
            for table in self.tables:
                table[0] = 0  # padding; never looked up, so it stays
        width = side.dense.shape[1]
        self.dense_weight = _normal((width, dim), _TABLE_STD, generator)
        self.dense_bias = nn.Parameter(torch.zeros(dim))
        self.w1 = _normal((dim, dim), 1 / math.sqrt(dim), generator)
        self.b1 = nn.Parameter(torch.zeros(dim))
        self.w2 = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the content vectors of some rows of the data; shape (n, d)."""
        self._inputs = self._inputs.to(self.w1.device)
        return self._content(self._inputs, rows)

    def encode(self, side: EncodedSide) -> Tensor:
        """Return the content vectors of other rows; shape (N, d)."""
        where = self.w1.device
        rows = torch.arange(len(side), device=where)
        return self._content(_inputs(side).to(where), rows)

    def _content(self, inputs: _Inputs, rows: Tensor) -> Tensor:
        x = inputs.dense[rows] @ self.dense_weight + self.dense_bias
        for name, table in zip(self._names, self.tables, strict=True):
            tokens = inputs.tokens[name].take(rows)
            pooled = F.embedding_bag(
                tokens.values.long(), table, tokens.start, mode="sum"
            )
            x = x + pooled * tokens.counts.clamp(min=1).rsqrt().unsqueeze(1)
        return x + torch.relu(x @ self.w1 + self.b1) @ self.w2

    def named(self, side: Side) -> dict[str, nn.Parameter]:
        """Return the weights under the names that the published towers use."""
        named: dict[str, nn.Parameter] = {
            f"{side}.{name}.table": table
            for name, table in zip(self._names, self.tables, strict=True)
        }
        named[f"{side}.dense.weight"] = self.dense_weight
        named[f"{side}.dense.bias"] = self.dense_bias
        named[f"{side}.hidden.w1"] = self.w1
        named[f"{side}.hidden.b1"] = self.b1
        named[f"{side}.hidden.w2"] = self.w2
        return named


@dataclass(frozen=True, slots=True)
class _Inputs:
    tokens: dict[str, Ragged]
    dense: Tensor

    def to(self, where: torch.device) -> _Inputs:
        if self.dense.device == where:
            return self
        tokens = {name: value.to(where) for name, value in self.tokens.items()}
        return _Inputs(tokens, self.dense.to(where))


def _inputs(side: EncodedSide) -> _Inputs:
    tokens = {name: _ragged(value) for name, value in side.tokens.items()}
    return _Inputs(tokens, torch.from_numpy(np.ascontiguousarray(side.dense)))


class Towers(nn.Module):
    """Item rows on both sides, content of item, user and context, the empty query.

    Attributes:
        served: Served item rows E_V, shape (T, d).
        history: History-side item rows E_H, shape (T, d).
        taste: Encodes a history.
        default_query: What stands for an empty history, shape (d,).
        history_weight: Maps item content to the history side, shape (d, d).
    """

    def __init__(
        self,
        start: Tensor,
        items: EncodedSide | None,
        users: EncodedSide | None,
        contexts: EncodedSide | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        dim = start.shape[1]
        self.served = nn.Parameter(start.clone())
        self.history = nn.Parameter(start.clone())
        self.taste = MeanQuery()
        self.default_query = _normal((dim,), 1 / math.sqrt(dim), generator)
        self.item = Content(items, dim, generator) if items else None
        self.user = Content(users, dim, generator) if users else None
        self.context = Content(contexts, dim, generator) if contexts else None
        self.history_weight = nn.Parameter(torch.eye(dim)) if items else None

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the unit queries and the served item rows of a step.

        Shapes (B, d) and (R, d); R are the items of the step, or every trained item.
        """
        served, history_rows = self.served, self.history
        used = step.used
        if used is not None:
            content, from_content = self.item_rows(used.content)
            served = content + F.embedding(used.rows, served) * used.known
            from_id = F.embedding(used.rows, history_rows) * used.known
            history_rows = from_content + from_id
        taste = self.taste(history_rows, step.history)
        empty = step.history.counts == 0
        return self.query(taste, empty, step.user, step.context), served

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
            taste: Weighted mean of the history, shape (B, d); ignored where empty.
            empty: Marks queries without history, shape (B,), bool.
            user: Row of the user features, shape (B,).
            context: Row of the context features, shape (B,), or None.

        Returns:
            Shape (B, d), float32, L2-normalised.
        """
        out = torch.where(empty.unsqueeze(1), self.default_query, taste)
        if self.user is not None:
            out = out + self.user(user)
        if self.context is not None and context is not None:
            out = out + self.context(context)
        return F.normalize(out, dim=1, eps=1e-12)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights of all sides but the item rows, by published name."""
        return {name: array(value) for name, value in self._named().items()}

    @torch.no_grad()
    def set_weights(self, named: Mapping[str, NDArray[np.float32]]) -> None:
        """Set weights by published name, and the item rows "served" and "history".

        Raises:
            TrainingError: There is no weight of that name and shape.
        """
        known = {**self._named(), "served": self.served, "history": self.history}
        for name, value in named.items():
            if name not in known or known[name].shape != value.shape:
                raise TrainingError(
                    f"the weight {name!r} of shape {value.shape} does not fit",
                    hint="Features or train.dim have changed: train without it.",
                )
            known[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def _named(self) -> dict[str, nn.Parameter]:
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


def array(value: Tensor) -> NDArray[np.float32]:
    """Return a contiguous float32 copy as numpy."""
    return value.detach().to("cpu", torch.float32).contiguous().numpy().copy()


def _ragged(tokens: Tokens) -> Ragged:
    return Ragged(torch.from_numpy(tokens.start), torch.from_numpy(tokens.index))


def _normal(
    shape: tuple[int, ...], std: float, generator: torch.Generator
) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=generator) * std)
