"""What a training report says of its data in sentences, beside the verdicts.

Plain Python over the stored report: no torch, no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys._query_config import RERANK_LEAD
from recsys._wording import counted

Row = Mapping[str, Any]
MINED = {
    "shown": "shown and not chosen",
    "neighbours": "neighbours of items",
    "disliked": "disliked",
}
"""Sources of negatives of single queries, and what they are called."""


def remarks(report: Row) -> list[str]:
    """Return who judged, what a fit had of news and negatives, how it is ranked again.

    Args:
        report: The report of a training; one of an older release says less.
    """
    return [
        *_judges(report),
        *_news(report),
        *_mined(report),
        *_reranked(report),
    ]


def _judges(report: Row) -> list[str]:
    """Say of how many users the metrics are."""
    users = report.get("validation", {}).get("users")
    if not users:
        return []
    return [f"measured on {counted(users, 'user')} of the validation slice"]


def _news(report: Row) -> list[str]:
    """Say how much of its data a full update has learned from."""
    data, full = report.get("data", {}), report.get("full", {})
    if "new_interactions" not in data:
        return []
    every = counted(data["interactions"], "interaction")
    return [
        f"{data['new_interactions']:,} of {every} came"
        f" since version {full.get('parent')} was trained"
    ]


def _mined(report: Row) -> list[str]:
    """Say which negatives there were; a warning was about those there were none of."""
    mined: Row = report.get("mined", {})
    parts = [f"{mined[n]:,} {name}" for n, name in MINED.items() if mined.get(n)]
    if not parts:
        return []
    return [f"negatives of single queries, in pairs: {', '.join(parts)}"]


def _reranked(report: Row) -> list[str]:
    """Say that the first candidates are ranked again; that they are not is no news."""
    if not report.get("rerank", {}).get("temperature"):
        return []
    return [said] if (said := reranked(report)) else []


def reranked(report: Row) -> str:
    """Say whether the first candidates are ranked again, and what that is worth.

    Returns:
        Nothing where it was not tried.
    """
    again: Row = report.get("rerank", {})
    scores: Mapping[str, float] = again.get("scores", {})
    if len(scores) < 2:
        return ""
    without = scores["0"]
    at, best = max(((t, s) for t, s in scores.items() if t != "0"), key=lambda x: x[1])
    compared = f"score {best:.4f} at rerank = {at}, {without:.4f} without"
    if not again["temperature"]:
        compared += f"; {RERANK_LEAD:.0%} more is asked for"
        return f"the first candidates are not ranked by single items: {compared}"
    if best < without:
        compared += ". Without is better: leave rerank out, or set it to 0"
    return f"the first candidates are ranked again by single items: {compared}"
