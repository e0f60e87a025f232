"""Which version a smaller one may be distilled from."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from recsys import _parent, versions
from recsys._db import Connection
from recsys._parent import Parent
from recsys.config import ModelConfig
from recsys.errors import TrainingError, UnknownModel, UnknownVersion
from recsys.versions import ModelVersion


def find(
    conn: Connection, config: ModelConfig, number: int, until: datetime | None
) -> Parent:
    """Return the version that a training is to learn from.

    Args:
        conn: An open connection.
        config: Of the student.
        number: The version's.
        until: The student leaves out interactions from this time on; None: it does not.

    Raises:
        TrainingError: There is no such version, or it cannot teach this student.
    """
    try:
        version = versions.get(conn, config.name, number)
    except (UnknownModel, UnknownVersion) as exc:
        raise TrainingError(
            f"there is no version {number} of model {config.name!r} to distil from",
            hint=f"Those there are: recsys versions {config.name}.",
        ) from exc
    _check(version, config)
    parent = _parent.load(conn, version)
    if until is not None:
        _not_later(parent, until.replace(tzinfo=until.tzinfo or UTC))
    return parent


def _check(version: ModelVersion, config: ModelConfig) -> None:
    """Refuse queries that are no means; other types of ids no model may have."""
    beyond = version.config.query.beyond_mean
    if beyond:
        raise TrainingError(
            f"version {version.number} makes its queries with {beyond}:"
            " only means of histories can be distilled",
            hint='Train the large one with query.encoder = "mean".',
        )
    if config.query.beyond_mean:
        raise TrainingError(
            f"recsys.toml asks for {config.query.beyond_mean}: a distilled version"
            " makes its queries by a mean",
            hint='Set query.encoder = "mean" and query.interests_from = "clusters",'
            " or leave out --distil-from.",
        )


def _not_later(parent: Parent, until: datetime) -> None:
    """Refuse a teacher that would give away what the student must not know."""
    if math.isnan(parent.until):
        raise TrainingError(
            f"version {parent.number} does not know until when it was trained: it may"
            " know what came after --until",
            hint="Distil from a version trained with the same --until, or leave out"
            " --until.",
        )
    if parent.until > until.timestamp():
        end = datetime.fromtimestamp(parent.until, UTC).isoformat()
        raise TrainingError(
            f"version {parent.number} was trained on data until {end}, after --until",
            hint="Distil from a version trained with the same --until.",
        )
