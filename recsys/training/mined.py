"""Which negatives of single queries a fit has, of those that were asked for."""

from __future__ import annotations

import logging
from typing import Any

from recsys.config import ModelConfig
from recsys.training.dataset import Dataset
from recsys.training.ragged import Ragged
from recsys.training.rows import QueryRows

logger = logging.getLogger(__name__)


def mined(dataset: Dataset, rows: QueryRows, config: ModelConfig) -> dict[str, Any]:
    """Count the pairs that negatives of single queries are drawn from.

    Args:
        dataset: Where they were read to.
        rows: Of the fit.
        config: What was asked for.

    Returns:
        "shown" and "disliked" pairs of a user and an item, "neighbours" pairs of items
        and, as "neighbours_of", the version they are from; only what was asked for.
    """
    wanted = config.negatives
    found: dict[str, Any] = {}
    if wanted.shown:
        found["shown"] = _pairs(rows.shown)
    if wanted.neighbours:
        near = rows.neighbours
        found["neighbours"] = 0 if near is None else int((near >= 0).sum())
        if dataset.neighbours is not None:
            found["neighbours_of"] = dataset.neighbours.version
    if wanted.disliked and config.interactions.dislikes:
        found["disliked"] = _pairs(rows.disliked)
    return found


def warn_of_none(found: dict[str, Any], config: ModelConfig) -> None:
    """Warn of each kind that was asked for, and that there is none of."""
    days = config.negatives.shown_days
    reasons = {
        "shown": f"no logged answer of the last {days:g} days of the data shows a user"
        " an item that was not chosen",
        "neighbours": f"version {found['neighbours_of']} has none of a trained item"
        if "neighbours_of" in found
        else "no version is ready that was trained on nothing later",
        "disliked": "nobody has refused an item without liking it, too",
    }
    for name, why in reasons.items():
        if found.get(name) == 0:
            logger.warning("negatives.%s finds nothing: %s", name, why)


def _pairs(lists: Ragged | None) -> int:
    return 0 if lists is None else len(lists.values)
