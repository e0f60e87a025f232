"""From a fit to a model: what a training from the start and a full update share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from recsys.config import ModelConfig
from recsys.popularity import Counts, Trend
from recsys.training.dataset import Dataset
from recsys.training.evaluation import lean_of
from recsys.training.export import export
from recsys.training.model import Towers
from recsys.training.quantise import with_int8_towers
from recsys.training.rotation import rotate
from recsys.training.rows import QueryRows
from recsys.training.settings import Settings
from recsys.training.trained import TrainedModel
from recsys.training.trend import bias


@dataclass(frozen=True, slots=True)
class Finish:
    """What a fit is published with.

    Attributes:
        settings: Hyper-parameters of the fit.
        trend: Popularity dimension.
        lean: How far popularity counts more for some users than for others.
        rerank: Temperature of re-ranking by single items of the history; 0: none.
        level: Quantile of the popularity dimension that newcomers get.
    """

    settings: Settings
    trend: Trend
    lean: float
    rerank: float
    level: float

    def said(self, epochs: int) -> dict[str, Any]:
        """Return what the report says of it, and a full update goes on with."""
        settings = self.settings
        return {
            "dim": settings.dim,
            "tau": settings.tau,
            "dropout": settings.dropout,
            "beta": settings.beta,
            "recent_beta": settings.recent_beta,
            "lr": settings.lr,
            "batch": settings.batch,
            "negatives": settings.negatives,
            "id_dropout": settings.id_dropout,
            "objective": settings.objective,
            "companions": settings.companions,
            "encoder": settings.query.encoder,
            "epochs": epochs,
            "trend": self.trend.to_dict(),
            "prefixes": list(settings.prefixes),
            "lean": self.lean,
            "rerank": self.rerank,
        }


def finish(
    dataset: Dataset,
    rows: QueryRows,
    towers: Towers,
    config: ModelConfig,
    how: Finish,
) -> TrainedModel:
    """Turn a fit into a model, checked against torch.

    Args:
        dataset: All the data.
        rows: What the towers were fitted to.
        towers: The fit; it is turned in place.
        config: The model's configuration.
        how: What it is published with.

    Returns:
        The model; its report holds ``rotated`` and what was checked.

    Raises:
        ArtifactError: The published towers do not compute what torch computes.
    """
    query = replace(how.settings.query, rerank=how.rerank)
    turned = not how.settings.prefixes and rotate(towers, rows)
    popularity = bias(how.trend, rows.pop, rows.decayed)
    towers.lean = lean_of(towers, rows, popularity, how.lean, config.train.seed)
    history = replace(config, query=query).history
    model = export(dataset, rows, towers, popularity, history, how.level)
    model = replace(model, query=query)
    if config.train.int8:
        model = with_int8_towers(model, dataset)
    counts = _ageing_counts(dataset, rows, how.trend)
    if counts is not None:
        model = replace(model, trend=how.trend, counts=counts)
    model.report["rotated"] = turned
    return model


def _ageing_counts(dataset: Dataset, rows: QueryRows, trend: Trend) -> Counts | None:
    """Return what makes the popularity dimension; None where it does not age."""
    if rows.decayed is None or dataset.until is None or not any(trend.recent):
        return None
    trained: list[int] = rows.items.tolist()
    return Counts(
        item_ids=[dataset.item_ids[i] for i in trained],
        pop=rows.pop.numpy(),
        decayed=rows.decayed.numpy(),
        end=dataset.until,
    )
