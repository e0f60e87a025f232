"""How a history becomes a query: the [model.NAME.query] table of recsys.toml."""

from __future__ import annotations

from dataclasses import dataclass

from recsys._config_read import suggest
from recsys._toml import listed, literal
from recsys.errors import ConfigError

ENCODERS = (
    "auto",
    "mean",
    "decay",
    "gated",
    "attention",
    "transformer",
)
INTEREST_SOURCES = ("clusters", "learned")
MOST_APART, MOST_ALIKE = 0.1, 10.0
"""Temperatures of re-ranking: near the closest item alone, and near the mean."""

RERANK_LEAD = 0.03
"""How much better re-ranking must be: each request pays for it, and what is held out at
random lies between what is known, where single items tell more than of what comes next
(ADR 32)."""


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """How a history becomes a query, or several.

    Attributes:
        encoder: "mean" of the history; "decay", a mean that learns how much older
            items count; "gated" between the long and the short run; "attention" from
            the newest item; a causal "transformer"; "auto" chooses on the validation
            slice. All but the mean learn to tell the next item of a sequence.
        length: Most items that an encoder other than the mean reads.
        layers: Layers of the transformer.
        heads: Heads of attention and transformer; of one that "auto" tries, the most.
        interests: Query vectors of a user, whose answers are merged.
        interests_from: "clusters" of the history's item vectors, or "learned" queries.
        share: Share of a page that is divided evenly among the interests.
        rerank: Temperature at which the first candidates are ranked again by the
            single items of the history; 0: they are not; negative chooses on the
            validation slice. Of a trained version it is what was chosen.
        kinds: Set by the training: the kinds of interaction that the encoder knows.
    """

    encoder: str = "auto"
    length: int = 50
    layers: int = 2
    heads: int = 2
    interests: int = 1
    interests_from: str = "clusters"
    share: float = 0.5
    rerank: float = -1.0
    kinds: tuple[str, ...] = ()

    @property
    def sequential(self) -> bool:
        """Whether the query depends on order, times and kinds of the history."""
        return self.encoder not in ("auto", "mean")

    @property
    def single(self) -> bool:
        """Whether one mean of rows makes the query, or may be chosen to."""
        return not self.sequential and self.interests == 1

    @property
    def headed(self) -> bool:
        """Whether the encoder named has heads, which must divide the dimensions."""
        return self.encoder in ("attention", "transformer")

    @property
    def clustered(self) -> bool:
        """Whether the queries are made of the item vectors of the history."""
        return self.interests > 1 and self.interests_from == "clusters"

    @property
    def beyond_mean(self) -> str:
        """Name what makes the queries where it is no mean of rows, else nothing."""
        if self.sequential:
            return self.encoder
        learned = self.interests > 1 and self.interests_from == "learned"
        return "learned interests" if learned else ""

    def check(self, where: str) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value is unknown or out of range.
        """
        if self.encoder not in ENCODERS:
            raise ConfigError(
                f"{where} encoder = {literal(self.encoder)} is not known",
                hint=suggest(self.encoder, ENCODERS)
                or f"Encoders: {listed(ENCODERS)}.",
            )
        learned = self.interests > 1 and self.interests_from == "learned"
        bad = (
            (
                self.interests_from not in INTEREST_SOURCES,
                'interests_from must be "clusters" or "learned"',
            ),
            (not 2 <= self.length <= 512, "length must be 2 to 512"),
            (not 1 <= self.layers <= 8, "layers must be 1 to 8"),
            (not 1 <= self.heads <= 16, "heads must be 1 to 16"),
            (not 1 <= self.interests <= 16, "interests must be 1 to 16"),
            (not 0 <= self.share <= 1, "share must be from 0 to 1"),
            (
                0 < self.rerank < MOST_APART or self.rerank > MOST_ALIKE,
                f"rerank = {literal(self.rerank)} must be 0, or {MOST_APART:g} to"
                f" {MOST_ALIKE:g}; leave it out to have it chosen",
            ),
            (
                self.rerank > 0 and not self.single,
                "rerank needs one mean of the history: leave it out, or set encoder ="
                ' "mean" and interests = 1',
            ),
            (
                learned and self.encoder not in ("auto", "mean"),
                'learned interests are an encoder of their own: encoder must be "mean"',
            ),
        )
        for wrong, message in bad:
            if wrong:
                raise ConfigError(f"{where} {message}")
