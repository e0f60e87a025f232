"""What a version that was trained on interactions without times cannot do."""

from __future__ import annotations

from recsys.errors import TrainingError
from recsys.versions import ModelVersion


def is_untimed(version: ModelVersion) -> bool:
    """Say whether a version does not know until when its data went."""
    return version.spec.get("trained_until") is None


def no_news(version: ModelVersion) -> TrainingError:
    """Return why neither a full nor an incremental update can go on from a version."""
    return TrainingError(
        f"version {version.number} of model {version.model!r} was trained on"
        " interactions without times, so nothing says what is new to it",
        hint="Without times each version is trained from the start, by 'recsys train"
        f" {version.model}' alone. For updates select the time of each interaction as"
        " occurred_at in interactions.sql, and train once more.",
    )
