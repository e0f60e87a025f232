"""What a training report says of its data in sentences, beside the verdicts.

Plain Python over the stored report: no torch, no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def remarks(report: Row) -> list[str]:
    """Return how much of its data a full update has learned from; else nothing.

    Args:
        report: The report of a training.
    """
    data, full = report.get("data", {}), report.get("full", {})
    if "new_interactions" not in data:
        return []
    return [
        f"{data['new_interactions']:,} of {data['interactions']:,} interactions came"
        f" since version {full.get('parent')} was trained"
    ]
