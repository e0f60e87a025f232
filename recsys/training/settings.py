"""The hyper-parameters of one fit."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys._query_config import QueryConfig
from recsys.config import ContentConfig


@dataclass(frozen=True, slots=True)
class Settings:
    """Hyper-parameters of one fit; see ``TrainConfig``."""

    dim: int
    tau: float
    dropout: float
    beta: float
    lr: float
    batch: int
    negatives: int
    id_dropout: float
    objective: str = "ranking"
    content: ContentConfig = field(default_factory=ContentConfig)
    prefixes: tuple[int, ...] = ()
    query: QueryConfig = field(default_factory=lambda: QueryConfig(encoder="mean"))
