"""How many negatives of single queries each source gives a fit."""

from __future__ import annotations

import logging

from recsys.config import ModelConfig
from recsys.training.ragged import Ragged
from recsys.training.rows import QueryRows

logger = logging.getLogger(__name__)

_NONE = {
    "shown": "no answer logged in the last {days:g} days shows a user an item that was"
    " not chosen: log impressions, or raise negatives.shown_days",
    "neighbours": "no version is ready that was trained on nothing later and has the"
    " items: train again once one is",
    "disliked": "nobody has refused an item without liking it too: check"
    " interactions.dislikes",
}


def mined(rows: QueryRows, config: ModelConfig) -> dict[str, int]:
    """Count the pairs of each source that was asked for; warn of those without any.

    Args:
        rows: Of the fit.
        config: What was asked for.

    Returns:
        Pairs of a user and an item ("shown", "disliked"), or of items ("neighbours").
    """
    wanted, near = config.negatives, rows.neighbours
    found: dict[str, int] = {}
    if wanted.shown:
        found["shown"] = _pairs(rows.shown)
    if wanted.neighbours:
        found["neighbours"] = 0 if near is None else int((near >= 0).sum())
    if wanted.disliked and config.interactions.dislikes:
        found["disliked"] = _pairs(rows.disliked)
    for name, count in found.items():
        if not count:
            why = _NONE[name].format(days=wanted.shown_days)
            logger.warning("negatives.%s finds nothing: %s", name, why)
    return found


def _pairs(lists: Ragged | None) -> int:
    return 0 if lists is None else len(lists.values)
