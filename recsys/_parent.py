"""What a training goes on from, or learns from: a version as it was trained.

Its artifacts, never its tables: rows that incremental updates moved are left behind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import artifacts, embeddings, versions
from recsys._db import Connection
from recsys._last import ends_before
from recsys._query_config import QueryConfig
from recsys._untimed import is_untimed, no_news
from recsys.config import ContentConfig, ModelConfig
from recsys.errors import TrainingError, UnknownModel, UnknownVersion
from recsys.types import ItemId
from recsys.versions import ModelVersion

_FEATURES_WITH_VALUES = ("category", "categories")
_MEDIAN = 0.5
"""Level of newcomers in versions that chose none."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A version as it was trained.

    Attributes:
        number: Its number.
        until: End of its training data in seconds since 1970; NaN where unknown.
        item_ids: Items with learned rows, shape (N,).
        served: Served rows, shape (N, d), float32.
        history: History-side rows, likewise.
        weights: All other weights, by published name.
        vocabularies: Values of each "<side>.<feature>" that has some, by table row
            from the third on.
        settings: Hyper-parameters it was fitted with.
        query: How it makes its queries.
        content: How it makes vectors of features.
        level: Quantile of the popularity dimension that its newcomers get.
    """

    number: int
    until: float
    item_ids: Sequence[ItemId]
    served: NDArray[np.float32]
    history: NDArray[np.float32]
    weights: Mapping[str, NDArray[np.float32]]
    vocabularies: Mapping[str, Sequence[str]] = field(
        default_factory=dict[str, Sequence[str]]
    )
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    query: QueryConfig = field(default_factory=lambda: QueryConfig(encoder="mean"))
    content: ContentConfig = field(default_factory=ContentConfig)
    level: float = _MEDIAN


def find(conn: Connection, model: str, number: int | None) -> Parent:
    """Return the version to go on from: the given one, or the base that serves.

    Where nothing serves it is the newest version that is ready.

    Raises:
        TrainingError: There is none, or it cannot be gone on from.
    """
    try:
        if number is None:
            number = versions.serving_number(conn, model)
        if number is None:
            number = versions.newest(conn, model, states=("ready",))
        version = versions.get(conn, model, number)
    except (UnknownModel, UnknownVersion) as exc:
        if number is not None and isinstance(exc, UnknownVersion):
            raise
        raise TrainingError(
            f"there is no version of model {model!r} to go on from",
            hint=f"Train the first one: recsys train {model}.",
        ) from exc
    if is_untimed(version):
        raise no_news(version)
    return load(conn, version)


def check_news(conn: Connection, config: ModelConfig, parent: Parent) -> None:
    """Refuse to go on from a version that all interactions are older than.

    A training finds out by itself, but late: after reading, and with a number. It
    costs one more pass over the source, only of a full update.

    Raises:
        TrainingError: Nothing came since.
        SourceError: The source fails.
    """
    end = datetime.fromtimestamp(parent.until, UTC)
    if ends_before(conn, config, end):
        raise nothing_new(parent)


def nothing_new(parent: Parent) -> TrainingError:
    """Return why a full update has nothing to go on with."""
    end = f"{datetime.fromtimestamp(parent.until, UTC):%Y-%m-%d %H:%M} UTC"
    return TrainingError(
        f"nothing to learn from came after {end}, where the data of version"
        f" {parent.number} end",
        hint="Run it again when more has come, or leave out --full.",
    )


def load(conn: Connection, version: ModelVersion) -> Parent:
    """Return a version as it was trained.

    Raises:
        TrainingError: It was made without some of what is needed.
    """
    until = version.spec.get("trained_until")
    if "weights" not in version.artifacts:
        raise _unusable(version, "was made without the weights of its towers")
    from safetensors.numpy import load

    config = version.config
    rows = embeddings.unpack(
        artifacts.get(conn, version.artifacts["embeddings"]),
        config.item_id,
        config.train.dim,
    )
    sides = (("item", config.items), ("user", config.users),
             ("context", config.context))  # fmt: skip
    valued = [
        f"{side}.{feature.name}"
        for side, source in sides
        for feature in source.features
        if feature.type in _FEATURES_WITH_VALUES
    ]
    known = _json(conn, version, "vocabularies")
    if any(name not in known for name in valued):
        raise _unusable(version, "does not say which values its features had")
    report = _json(conn, version, "report")
    return Parent(
        number=version.number,
        until=datetime.fromisoformat(until).timestamp() if until else math.nan,
        item_ids=rows.item_ids,
        served=rows.served.astype(np.float32),
        history=rows.history.astype(np.float32),
        weights=load(artifacts.get(conn, version.artifacts["weights"])),
        vocabularies=known,
        settings=report.get("settings", {}),
        query=config.query,
        content=config.content,
        level=float(report.get("cold", {}).get("quantile", _MEDIAN)),
    )


def _json(conn: Connection, version: ModelVersion, name: str) -> dict[str, Any]:
    digest = version.artifacts.get(name)
    return {} if digest is None else json.loads(artifacts.get(conn, digest))


def _unusable(version: ModelVersion, why: str) -> TrainingError:
    return TrainingError(
        f"version {version.number} of {version.model!r} {why}",
        hint=f"Train once from the start: recsys train {version.model}.",
    )
