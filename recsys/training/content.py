"""The content of one side in torch: its features to one vector per row.

The published towers compute the same (``recsys.encoder.content``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.config import ContentConfig
from recsys.encoder.values import Side
from recsys.training.features import EncodedSide, Tokens
from recsys.training.ragged import Ragged, Selection

_TABLE_STD = 0.02


class Content(nn.Module):
    """Features of one side to one vector: pooled tables, a linear map and two blocks.

    A field is what one feature with a table, or all dense features together, say as a
    vector: pool(table_f[index_f]), or dense @ W + b. The pool is a sum over the tokens
    divided by the root of their number. A vector v with ``fine_tune`` adds a network of
    its own to the dense field: relu(v a1 + c1) a2. Then

        x = sum of the fields;  deep = x + relu(x w1 + b1) w2
        y_0 = the fields side by side;  y_{l+1} = y_0 * (y_l W_l + b_l) + y_l
        out = deep + y_L P

    The cross layers (DCN-v2) see the fields apart: a sum cannot tell a cheap item of a
    dear brand from a dear one of a cheap brand. Without layers there is no P.

    Source:
        Wang et al., "DCN V2", WWW 2021, https://arxiv.org/abs/2008.13535
    """

    def __init__(
        self,
        side: EncodedSide,
        dim: int,
        generator: torch.Generator,
        config: ContentConfig = ContentConfig(),  # noqa: B008 # frozen
    ) -> None:
        super().__init__()
        self._names = list(side.tokens)
        self._inputs = _inputs(side)
        sizes = side.fitted.table_sizes
        self.tables = nn.ParameterList(
            normal((sizes[name], dim), _TABLE_STD, generator) for name in self._names
        )
        with torch.no_grad():
            for table in self.tables:
                table[0] = 0  # padding; never looked up, so it stays
        width = side.dense.shape[1]
        self.dense_weight = normal((width, dim), _TABLE_STD, generator)
        self.dense_bias = nn.Parameter(torch.zeros(dim))
        hidden = config.hidden or dim
        columns = side.fitted.vector_columns
        self._adapted = [
            (f.name, columns[f.name]) for f in side.fitted.declared if f.fine_tune
        ]
        self.adapters = nn.ModuleList(
            _Adapter(part.stop - part.start, hidden, dim, generator)
            for _, part in self._adapted
        )
        self.w1 = normal((dim, hidden), 1 / math.sqrt(dim), generator)
        self.b1 = nn.Parameter(torch.zeros(hidden))
        self.w2 = nn.Parameter(torch.zeros(hidden, dim))
        fields = len(self._names) + bool(width)
        self.cross = Cross(fields * dim, dim, config, generator)

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
        fields = [
            self._pooled(inputs.tokens[name].take(rows), table)
            for name, table in zip(self._names, self.tables, strict=True)
        ]
        dense = inputs.dense[rows] @ self.dense_weight + self.dense_bias
        for (_, part), adapter in zip(self._adapted, self.adapters, strict=True):
            dense = dense + adapter(inputs.dense[rows, part])
        x = sum(fields, start=dense)  # (n, d)
        deep = x + torch.relu(x @ self.w1 + self.b1) @ self.w2
        if not self.cross.layers:
            return deep
        if inputs.dense.shape[1]:
            fields.append(dense)
        return deep + self.cross(torch.cat(fields, 1))

    @staticmethod
    def _pooled(tokens: Selection, table: Tensor) -> Tensor:
        total = F.embedding_bag(tokens.values.long(), table, tokens.start, mode="sum")
        return total * tokens.counts.clamp(min=1).rsqrt().unsqueeze(1)

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
        for (name, _), adapter in zip(self._adapted, self.adapters, strict=True):
            for key, value in adapter.named_parameters():
                named[f"{side}.{name}.adapter.{key}"] = value
        for name, value in self.cross.named().items():
            named[f"{side}.cross.{name}"] = value
        return named


class _Adapter(nn.Module):
    """What is learned over a pretrained vector; it starts as nothing."""

    def __init__(
        self, width: int, hidden: int, dim: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        # The vectors are of length 1, so that their numbers shrink with the width.
        self.w1 = normal((width, hidden), 1.0, generator)
        self.b1 = nn.Parameter(torch.zeros(hidden))
        self.w2 = nn.Parameter(torch.zeros(hidden, dim))

    def forward(self, vector: Tensor) -> Tensor:
        return torch.relu(vector @ self.w1 + self.b1) @ self.w2


class Cross(nn.Module):
    """Cross layers over n numbers, and the map of their result to d.

    The map starts at zero, so that a fit starts as one without them.

    Args:
        width: n, the fields side by side.
        dim: d.
        config: Number of layers, and the rank of their matrices.
        generator: Of the first weights.
    """

    def __init__(
        self, width: int, dim: int, config: ContentConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        count = config.cross if width else 0
        rank = min(config.rank, width) if config.rank else 0
        self.layers = nn.ModuleList(
            _CrossLayer(width, rank, generator) for _ in range(count)
        )
        self.out = nn.Parameter(torch.zeros(width, dim)) if count else None

    def forward(self, first: Tensor) -> Tensor:
        """Return the crossed fields; (n, width) to (n, d)."""
        value = first
        for layer in self.layers:
            value = first * layer(value) + value
        return value if self.out is None else value @ self.out

    def named(self) -> dict[str, nn.Parameter]:
        """Return the weights by what follows "<side>.cross." in their name."""
        named: dict[str, nn.Parameter] = {
            f"{place}.{name}": value
            for place, layer in enumerate(self.layers)
            for name, value in layer.named_parameters()
        }
        return named if self.out is None else {**named, "out": self.out}


class _CrossLayer(nn.Module):
    """y W + b, where W is a full matrix or the product of two thin ones."""

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        std = 1 / math.sqrt(width)
        if rank:
            self.down = normal((width, rank), std, generator)
            self.up = normal((rank, width), 1 / math.sqrt(rank), generator)
        else:
            self.weight = normal((width, width), std, generator)
        self.bias = nn.Parameter(torch.zeros(width))
        self._rank = rank

    def forward(self, value: Tensor) -> Tensor:
        if self._rank:
            return value @ self.down @ self.up + self.bias
        return value @ self.weight + self.bias


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


def _ragged(tokens: Tokens) -> Ragged:
    return Ragged(torch.from_numpy(tokens.start), torch.from_numpy(tokens.index))


def array(value: Tensor) -> NDArray[np.float32]:
    """Return a contiguous float32 copy as numpy."""
    return value.detach().to("cpu", torch.float32).contiguous().numpy().copy()


def normal(
    shape: tuple[int, ...], std: float, generator: torch.Generator
) -> nn.Parameter:
    """Return a parameter of normal numbers."""
    return nn.Parameter(torch.randn(shape, generator=generator) * std)
