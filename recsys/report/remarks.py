"""What a training report says of its data in sentences, beside the verdicts.

Plain Python over the stored report: no torch, no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys._wording import counted

Row = Mapping[str, Any]
MINED = {
    "shown": "shown and not chosen",
    "neighbours": "neighbours of items",
    "disliked": "disliked",
}
"""Sources of negatives of single queries, and what they are called."""


def remarks(report: Row) -> list[str]:
    """Return how many users judged, and what a fit had of news and of own negatives.

    Args:
        report: The report of a training; one of an older release says less.
    """
    return [*_judges(report), *_news(report), *_mined(report)]


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
