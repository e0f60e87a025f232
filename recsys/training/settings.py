"""The hyper-parameters of one fit."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys._query_config import QueryConfig
from recsys.config import ContentConfig, ModelConfig, NegativesConfig

# Where the configuration leaves the weight of the negatives to the objective.
_NEGATIVE_WEIGHT = {"cosine": 100.0, "logistic": 1.0}


RECENT_BETA = 1.2
"""Weight of the popularity of the time, where it is to be chosen."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Hyper-parameters of one fit; see the configuration."""

    dim: int
    tau: float
    dropout: float
    beta: float
    lr: float
    batch: int
    negatives: int
    id_dropout: float
    recent_beta: float = 0.0
    companions: float = 0.0
    objective: str = "ranking"
    content: ContentConfig = field(default_factory=ContentConfig)
    prefixes: tuple[int, ...] = ()
    query: QueryConfig = field(default_factory=lambda: QueryConfig(encoder="mean"))
    margin: float = 0.8
    negative_weight: float = 1.0
    pairs: int = 4
    sources: NegativesConfig = field(default_factory=NegativesConfig)
    device: str = "cpu"
    item_updates: str = "auto"
    half_life_days: float = 0.0
    distil: float = 0.0


def settings_of(model: ModelConfig, tau: float, dropout: float) -> Settings:
    """Return what the configuration says, with a temperature and a dropout."""
    config = model.train
    weight = config.negative_weight or _NEGATIVE_WEIGHT.get(config.objective, 1.0)
    return Settings(
        dim=config.first_dim,
        tau=tau,
        dropout=dropout,
        beta=config.beta,
        recent_beta=RECENT_BETA if config.recent_beta < 0 else config.recent_beta,
        lr=config.lr,
        batch=config.batch,
        negatives=config.negatives,
        id_dropout=config.id_dropout,
        companions=max(0.0, config.companions),
        objective=config.objective,
        content=model.content,
        margin=config.margin,
        negative_weight=weight,
        pairs=config.pairs,
        sources=model.negatives,
        device=config.device,
        item_updates=config.item_updates,
        half_life_days=config.half_life_days,
        distil=config.distil,
    )
