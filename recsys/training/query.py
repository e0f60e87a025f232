"""History encoders: the items of a history to one vector of taste, or to several."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys._query_config import QueryConfig
from recsys.training.ragged import Selection
from recsys.training.sequence import Past, SequenceEncoder

# Dropout inside the blocks of attention and transformer.
DROP = 0.1


class Taste(nn.Module):
    """What encodes histories; one of the classes below.

    Attributes:
        masks: Places that dropout is at, S; 0 without dropout.
    """

    masks = 0

    def forward(self, rows: Tensor, history: Selection) -> Tensor:
        """Return the taste of B histories, shape (B, d) or (B, K, d)."""
        raise NotImplementedError

    def every(
        self, rows: Tensor, history: Selection, masks: Tensor | None = None
    ) -> Tensor:
        """Return the taste at each entry: of the history from there on, (n, d).

        Args:
            rows: History-side item rows, shape (R, d).
            history: Their entries, by row.
            masks: What dropout makes of them, shape (n, S, d); None drops nothing.
        """
        raise NotImplementedError

    def named(self) -> dict[str, Tensor]:
        """Return the weights under the names that the published tower uses."""
        return {}


def taste_of(
    config: QueryConfig, dim: int, most_recency: float, generator: torch.Generator
) -> Taste:
    """Return the encoder that a configuration names, untrained.

    Args:
        config: With the kinds that are told apart.
        dim: d.
        most_recency: Pauses beyond count as unknown, seconds.
        generator: Draws the first weights.
    """
    if config.sequential:
        return SequenceQuery(config, dim, most_recency, generator)
    if config.interests > 1 and config.interests_from == "learned":
        return InterestQuery(config.interests, dim, generator)
    return MeanQuery()


class MeanQuery(Taste):
    """The weighted mean of the history-side rows."""

    def forward(self, rows: Tensor, history: Selection) -> Tensor:
        """Return the taste of B histories.

        Args:
            rows: History-side item rows, shape (R, d).
            history: Their entries, by row; lists may be empty.

        Returns:
            Shape (B, d); 0 for an empty history.
        """
        weight = history.weights(rows)
        total = rows.new_zeros(len(history.start)).index_add_(0, history.owner, weight)
        return F.embedding_bag(
            history.values,
            rows,
            history.start,
            mode="sum",
            per_sample_weights=weight / total[history.owner],
        )


class InterestQuery(Taste):
    """K weighted means, each with attention of its own."""

    def __init__(self, count: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        # Large enough that the interests differ from the start: alike, one takes all.
        self.attention = nn.Parameter(torch.randn(dim, count, generator=generator))

    def forward(self, rows: Tensor, history: Selection) -> Tensor:
        """Return the interests of B histories, shape (B, K, d); 0 for an empty one."""
        entries = F.embedding(history.values, rows)  # (n, d)
        weight = (history.weights(rows) + 1e-30).log().unsqueeze(1)
        logits = entries @ self.attention + weight  # (n, K)
        lists, count = len(history.start), logits.shape[1]
        owner = history.owner.unsqueeze(1).expand(-1, count)
        top = logits.new_full((lists, count), -torch.inf)
        top = top.scatter_reduce(0, owner, logits.detach(), "amax")
        share = (logits - top[history.owner]).exp()
        total = rows.new_zeros(lists, count).index_add(0, history.owner, share)
        share = share / total[history.owner]
        flat = (share.unsqueeze(2) * entries.unsqueeze(1)).flatten(1)  # (n, K d)
        out = rows.new_zeros(lists, flat.shape[1]).index_add(0, history.owner, flat)
        return out.view(lists, count, -1)

    def named(self) -> dict[str, Tensor]:
        """Return the weights under the names that the published tower uses."""
        return {"query.interests": self.attention}


class SequenceQuery(Taste):
    """An encoder of ``recsys.training.sequence`` over lists of different lengths."""

    def __init__(
        self,
        config: QueryConfig,
        dim: int,
        most_recency: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        kinds = len(config.kinds)
        self.encoder = SequenceEncoder(config, dim, kinds, most_recency, generator)
        self.masks = self.encoder.masks

    def forward(self, rows: Tensor, history: Selection) -> Tensor:
        """Return the taste of B histories, shape (B, d); 0 for an empty one."""
        past, items, _ = self._dense(history, repeats=False)
        return self.encoder(F.embedding(items, rows), past)[:, 0]

    def every(
        self, rows: Tensor, history: Selection, masks: Tensor | None = None
    ) -> Tensor:
        """Return the taste at each entry: of the history from there on, (n, d)."""
        past, items, place = self._dense(history, repeats=True)
        if masks is not None:
            dense = masks.new_zeros(items.numel(), *masks.shape[1:])
            dense[place] = masks
            masks = dense.view(*items.shape, *masks.shape[1:])
        found = self.encoder(F.embedding(items, rows), past, masks)
        return found.flatten(0, 1)[place]

    def named(self) -> dict[str, Tensor]:
        """Return the weights under the names that the published tower uses."""
        return self.encoder.named()

    def _dense(
        self, history: Selection, *, repeats: bool
    ) -> tuple[Past, Tensor, Tensor]:
        """Return histories, items and the place of each entry, padded to B lists.

        Entries beyond the length that the encoder reads share the last place.
        """
        longest = int(history.counts.max()) if len(history.counts) else 0
        length = max(1, min(self.encoder.length, longest))
        within = torch.arange(len(history.owner), device=history.owner.device)
        within = within - history.start[history.owner]
        place = history.owner * length + within.clamp(max=length - 1)
        read = within < length
        shape = (len(history.start), length)

        def padded(values: Tensor | None, empty: float, like: Tensor) -> Tensor:
            out = like.new_full((shape[0] * length,), empty)
            if values is not None:
                out[place[read]] = values[read].to(out.dtype)
            return out.view(shape)

        like = torch.zeros((), device=history.owner.device)
        age = padded(history.age, -1, like)
        items = padded(history.values, 0, history.owner)
        newest = age[:, :1]
        known = (age >= 0) & (newest >= 0)
        gaps = torch.where(known, (age - newest).clamp(min=0), -1.0)
        between = torch.where(known[:, 1:], gaps[:, 1:] - gaps[:, :-1], -1.0)
        weights = padded(history.weights(like), 0, like)
        past = Past(
            weights=weights,
            gaps=gaps,
            pauses=torch.cat([newest, between], 1),
            kinds=padded(history.kind, 0, history.owner),
            newer=_newer(items, weights) if repeats else None,
        )
        return past, items, place


def _newer(items: Tensor, weights: Tensor) -> Tensor:
    """Return the nearest newer place of the same item, -1 without one, (B, L)."""
    length = items.shape[1]
    place = torch.arange(length, device=items.device)
    same = items.unsqueeze(2) == items.unsqueeze(1)  # older place, newer place
    same = same & (place < place.unsqueeze(1)) & (weights > 0).unsqueeze(1)
    return torch.where(same, place, -1).amax(2)
