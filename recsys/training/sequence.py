"""Encoders of sequences in torch: the formulas of ``recsys.encoder.sequence``.

Here every place of a history is a query of its own, which sees what is older: one pass
over a window of a user's events trains all its prefixes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys._query_config import QueryConfig
from recsys.encoder.sequence import EPS, HIDDEN_LOGIT, POWERS, TIMES

_STD = 0.02
# The short run of a gated encoder starts as a mean of about the last five.
_SHORT = 0.2


@dataclass(frozen=True, slots=True)
class Past:
    """Histories of B users, newest first, padded to L places.

    Attributes:
        weights: 0 for padding, shape (B, L), float32.
        gaps: Seconds from each event to the newest, -1 unknown, shape (B, L), float32.
        pauses: Seconds from each event to the next one, for the newest to now, -1
            unknown, shape (B, L), float32.
        kinds: Number of its kind, 0 unknown, shape (B, L), int64.
        newer: Nearest newer place of the same item, -1 without one, shape (B, L):
            there the older event is no longer in the history. None: all differ.
    """

    weights: Tensor
    gaps: Tensor
    pauses: Tensor
    kinds: Tensor
    newer: Tensor | None = None


class _Times(nn.Module):
    """A table over times, linear between powers of two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(TIMES, width))

    def forward(self, seconds: Tensor) -> Tensor:
        known = seconds.clamp(min=0)
        octaves = (known + 1).log() * (1 / math.log(2))
        place = octaves.clamp(max=POWERS - 1e-3)
        floor = place.floor()
        index = floor.long()
        rest = (place - floor).unsqueeze(-1)
        low = F.embedding(index, self.table[1:-1])
        step = F.embedding(index, self.table.diff(dim=0)[1:])
        unknown = (seconds < 0).unsqueeze(-1)
        return torch.where(unknown, self.table[0], low + step * rest)


# Masks of the places that dropout is at, in their order; None drops nothing.
_Masks: TypeAlias = "Iterator[Tensor] | None"


def _masked(x: Tensor, masks: _Masks) -> Tensor:
    return x if masks is None else x * next(masks)


class _Block(nn.Module):
    """Causal attention with biases for distance and time, then a hidden layer."""

    def __init__(
        self, dim: int, length: int, heads: int, generator: torch.Generator, mlp: bool
    ) -> None:
        super().__init__()
        std = 1 / math.sqrt(dim)
        self.heads = heads
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.query, self.key, self.value = (
            nn.Parameter(torch.randn(dim, dim, generator=generator) * std)
            for _ in range(3)
        )
        self.out = nn.Parameter(torch.randn(dim, dim, generator=generator) * _STD)
        self.position = nn.Parameter(torch.zeros(length, heads))
        self.time = _Times(heads)
        self.mlp = nn.LayerNorm(dim, eps=EPS) if mlp else None
        if mlp:
            wide = 2 * dim
            self.w1 = nn.Parameter(torch.randn(dim, wide, generator=generator) * std)
            self.b1 = nn.Parameter(torch.zeros(wide))
            self.w2 = nn.Parameter(torch.randn(wide, dim, generator=generator) * _STD)
            self.b2 = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, pairs: _Pairs, masks: _Masks) -> Tensor:
        batch, length, dim = x.shape
        normal = self.norm(x)

        def cut(weight: Tensor) -> Tensor:
            return (normal @ weight).view(batch, length, self.heads, -1).transpose(1, 2)

        bias = self.position[pairs.distance] + self.time(pairs.seconds)  # (B, L, L, H)
        bias = bias.permute(0, 3, 1, 2) + pairs.hidden.unsqueeze(1)
        query, key, value = (cut(w) for w in (self.query, self.key, self.value))
        dot = query @ key.transpose(2, 3) / math.sqrt(dim / self.heads)
        mixed = (dot + bias).softmax(3) @ value  # (B, H, L, d / H)
        mixed = mixed.transpose(1, 2).reshape(batch, length, dim)
        x = x + _masked(mixed @ self.out, masks)
        if self.mlp is None:
            return x
        wide = torch.relu(self.mlp(x) @ self.w1 + self.b1)
        return x + _masked(wide @ self.w2 + self.b2, masks)

    def weights(self, name: str) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {
            f"{name}.norm.scale": self.norm.weight,
            f"{name}.norm.bias": self.norm.bias,
            f"{name}.query": self.query,
            f"{name}.key": self.key,
            f"{name}.value": self.value,
            f"{name}.out": self.out,
            f"{name}.position": self.position,
            f"{name}.time": self.time.table,
        }
        if self.mlp is not None:
            out |= {
                f"{name}.mlp.scale": self.mlp.weight,
                f"{name}.mlp.bias": self.mlp.bias,
                f"{name}.mlp.w1": self.w1,
                f"{name}.mlp.b1": self.b1,
                f"{name}.mlp.w2": self.w2,
                f"{name}.mlp.b2": self.b2,
            }
        return out


@dataclass(frozen=True, slots=True)
class _Pairs:
    """What one place knows of another: shapes (B, L, L) and, of distance, (L, L)."""

    distance: Tensor
    seconds: Tensor
    hidden: Tensor


def _pairs(past: Past) -> _Pairs:
    length = past.weights.shape[1]
    place = torch.arange(length, device=past.weights.device)
    own, other = place.unsqueeze(1), place.unsqueeze(0)
    to, mine = past.gaps.unsqueeze(1), past.gaps.unsqueeze(2)
    seconds = torch.where(to < 0, -1.0, (to - mine).clamp(min=0))
    gone = (past.weights == 0).unsqueeze(1) | (other < own)
    if past.newer is not None:
        gone = gone | (past.newer.unsqueeze(1) >= own)
    hidden = torch.where(gone, HIDDEN_LOGIT, 0.0)
    return _Pairs((other - own).clamp(min=0), seconds, hidden)


class _Gate(nn.Module):
    """Mixes the long and the short run, dimension by dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.recency = _Times(dim)

    def forward(self, long: Tensor, short: Tensor, recency: Tensor) -> Tensor:
        linear = torch.cat([long, short], 2) @ self.weight + self.bias
        gate = (linear + self.recency(recency)).sigmoid()
        return short + gate * (long - short)

    def weights(self) -> dict[str, Tensor]:
        return {
            "query.gate.weight": self.weight,
            "query.gate.bias": self.bias,
            "query.gate.recency": self.recency.table,
        }


class _Blocks(nn.Module):
    """What causal blocks make of a history, to be added to its mean."""

    def __init__(
        self, config: QueryConfig, dim: int, kinds: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        mlp = config.encoder == "transformer"
        self.blocks = [
            _Block(dim, config.length, config.heads, generator, mlp)
            for _ in range(config.layers if mlp else 1)
        ]
        self.registered = nn.ModuleList(self.blocks)
        self.kind = nn.Parameter(torch.zeros(kinds + 1, dim))
        self.pause = _Times(dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        # The start is the mean; what the blocks know comes on top of it.
        self.out = nn.Parameter(torch.zeros(dim, dim))
        self.masks = 1 + len(self.blocks) * (2 if mlp else 1)

    def forward(
        self, rows: Tensor, past: Past, recency: Tensor, pairs: _Pairs, masks: _Masks
    ) -> Tensor:
        x = _masked(rows + self.kind[past.kinds] + self.pause(recency), masks)
        for block in self.blocks:
            x = block(x, pairs, masks)
        return self.norm(x) @ self.out

    def weights(self) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {
            "query.kind": self.kind,
            "query.pause": self.pause.table,
            "query.out.scale": self.norm.weight,
            "query.out.bias": self.norm.bias,
            "query.out.weight": self.out,
        }
        for number, block in enumerate(self.blocks):
            out |= block.weights(f"query.{number}")
        return out


class SequenceEncoder(nn.Module):
    """The history as a query; see ``recsys.encoder.sequence`` for the formulas.

    Args:
        config: Names the encoder and its sizes.
        dim: d.
        kinds: Kinds besides the unknown one.
        most_recency: Longest pause that counts as known, seconds.
        generator: Draws the first weights.

    Attributes:
        masks: Places that dropout is at, S.
    """

    def __init__(
        self,
        config: QueryConfig,
        dim: int,
        kinds: int,
        most_recency: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        name = config.encoder
        runs = 2 if name == "gated" else 1
        self.length = config.length
        self.most_recency: Tensor
        self.register_buffer("most_recency", torch.tensor(most_recency))
        self.position = nn.Parameter(torch.zeros(config.length, runs))
        self.time = _Times(runs)
        self.kind = nn.Parameter(torch.zeros(kinds + 1, runs))
        self.gate = _Gate(dim) if name == "gated" else None
        if self.gate is not None:
            with torch.no_grad():
                self.position[:, 1] = -_SHORT * torch.arange(config.length)
        stacked = name in ("attention", "transformer")
        self.blocks = _Blocks(config, dim, kinds, generator) if stacked else None
        self.masks = self.blocks.masks if self.blocks else 0

    def forward(self, rows: Tensor, past: Past, masks: Tensor | None = None) -> Tensor:
        """Return what every place of the histories asks for.

        Args:
            rows: History rows, shape (B, L, d).
            past: Their weights, times and kinds.
            masks: What dropout makes of each number inside the blocks, shape
                (B, L, S, d); None: nothing is dropped.

        Returns:
            Shape (B, L, d): entry i is the query of the history from place i on.
        """
        pairs = _pairs(past)
        recency = torch.where(past.pauses > self.most_recency, -1.0, past.pauses)
        base = (past.weights + 1e-30).log().unsqueeze(1).unsqueeze(3)
        logits = (
            self.position[pairs.distance]
            + self.time(pairs.seconds)
            + (self.kind[past.kinds].unsqueeze(1) + base)
            + pairs.hidden.unsqueeze(3)
        )  # (B, L, L, runs)
        share = logits.softmax(2).permute(3, 0, 1, 2)
        pools = [part @ rows for part in share]  # (B, L, d) each
        if self.gate is not None:
            return self.gate(pools[0], pools[1], recency)
        if self.blocks is None:
            return pools[0]
        each = None if masks is None else iter(masks.unbind(2))
        return pools[0] + self.blocks(rows, past, recency, pairs, each)

    def named(self) -> dict[str, Tensor]:
        """Return the weights under the names that the published tower uses."""
        out: dict[str, Tensor] = {
            "query.pool.position": self.position,
            "query.pool.time": self.time.table,
            "query.pool.kind": self.kind,
            "query.recency.most": self.most_recency,
        }
        if self.gate is not None:
            out |= self.gate.weights()
        if self.blocks is not None:
            out |= self.blocks.weights()
        return out
