"""What is chosen, and how it is kept for going on after an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from recsys._query_config import QueryConfig
from recsys.config import ModelConfig
from recsys.popularity import Trend
from recsys.training.checkpoint import FREE
from recsys.training.choice.tried import first_settings
from recsys.training.cold import Placed
from recsys.training.rerank import Reranking
from recsys.training.settings import Settings

_AS_THEY_ARE = (
    "epochs", "lean", "validation", "curves", "segments", "samples", "run",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """What the validation slice chose.

    Attributes:
        settings: Hyper-parameters of the final fit.
        trend: Popularity dimension.
        lean: How far popularity counts more for some users than for others.
        rerank: Whether the first candidates are ranked again by single items.
        epochs: Passes over the data that were best, or the most worth trying.
        validation: Metrics of the model and both floors, and the number of users.
        curves: One row per look at a fit.
        cold: What becomes of items without a learned row; None without content.
        segments: Metrics of parts of the validation slice.
        samples: Lists of it to look at.
        run: Number of the fit that was chosen, as in the curves.
    """

    settings: Settings
    trend: Trend
    epochs: int
    lean: float = 0.0
    rerank: Reranking = field(default_factory=Reranking)
    validation: dict[str, Any] = field(default_factory=dict[str, Any])
    curves: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    cold: Placed | None = None
    segments: dict[str, Any] = field(default_factory=dict[str, Any])
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    run: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable copy; ``from_dict`` reads it back."""
        plain = (str, int, float)
        values = {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}
        return {
            "settings": {n: v for n, v in values.items() if isinstance(v, plain)},
            "query": asdict(self.settings.query),
            "trend": self.trend.to_dict(),
            "cold": None if self.cold is None else asdict(self.cold),
            "rerank": self.rerank.to_dict(),
            **{name: getattr(self, name) for name in _AS_THEY_ARE},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], model: ModelConfig) -> Choice:
        """Rebuild a choice; what it does not decide is that of the configuration."""
        values: dict[str, Any] = dict(data["query"])
        values["kinds"] = tuple(values["kinds"])
        query = QueryConfig(**values)
        # It may be gone on with on another device, or with another way to update.
        chosen = {n: v for n, v in data["settings"].items() if n not in FREE}
        return cls(
            settings=replace(first_settings(model), **chosen, query=query),
            trend=Trend.from_dict(data["trend"]),
            cold=None if data["cold"] is None else Placed(**data["cold"]),
            # Kept before there was any: none.
            rerank=Reranking(**data.get("rerank", {})),
            **{name: data[name] for name in _AS_THEY_ARE},
        )
