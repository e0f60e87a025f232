"""What a training report says of its data in sentences, beside the verdicts.

Plain Python over the stored report: no torch, no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def remarks(report: Row) -> list[str]:
    """Return what a fit was made of that its settings alone do not tell.

    Args:
        report: The report of a training; one of an older release says less.
    """
    return [*_news(report), *_mined(report)]


def _news(report: Row) -> list[str]:
    """Say how much of the data a full update has learned from."""
    data, full = report.get("data", {}), report.get("full", {})
    if "new_interactions" not in data:
        return []
    return [
        f"{data['new_interactions']:,} of {data['interactions']:,} interactions came"
        f" since version {full.get('parent')} was trained"
    ]


def _mined(report: Row) -> list[str]:
    """Say which negatives of single queries there were."""
    mined: Row = report.get("mined", {})
    names = {
        "shown": "shown and not chosen",
        "neighbours": f"neighbours by version {mined.get('neighbours_of')}",
        "disliked": "disliked",
    }
    parts = [f"{mined[n]:,} {name}" for n, name in names.items() if mined.get(n)]
    return [f"negatives of single queries: {', '.join(parts)}"] if parts else []
