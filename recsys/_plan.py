"""From a trained model to the plan of its version: artifacts, and what they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys import artifacts, embeddings
from recsys._db import Connection
from recsys.config import ModelConfig
from recsys.versions import VersionPlan

if TYPE_CHECKING:
    from recsys.training.trained import TrainedModel


def plan_of(
    conn: Connection,
    config: ModelConfig,
    number: int,
    trained: TrainedModel,
    said: Mapping[str, Any],
) -> VersionPlan:
    """Store the artifacts of a model, and return what declares the version.

    Args:
        conn: An open connection; the caller commits.
        config: The model's configuration.
        number: Of the version.
        trained: The model.
        said: What else the version says of itself.
    """
    hashes = _stored(conn, config, trained)
    more = dict(said)
    if trained.counts is not None and trained.trend is not None:
        content = trained.counts.pack(config.item_id)
        hashes["popularity"] = artifacts.put(conn, "safetensors", content)
        cold = float(trained.weights["cold_bias"])
        more["trend"] = {**trained.trend.to_dict(), "cold": cold}
    config = replace(
        config,
        query=trained.query,
        train=replace(config.train, dim=trained.dim),
    )
    spec = json.loads(json.dumps({**config.to_dict(), **more}))
    metrics = {"validation": trained.report.get("validation", {})}
    return VersionPlan(config.name, number, spec, hashes, metrics)


def _stored(
    conn: Connection, config: ModelConfig, trained: TrainedModel
) -> dict[str, str]:
    """Store what every version has; returns the hashes by name."""
    from recsys.training.trained import warm_start_artifact

    rows = embeddings.pack(_embeddings(trained), config.item_id)
    report = json.dumps(trained.report, ensure_ascii=False).encode()
    return {
        "item_tower": artifacts.put(conn, "onnx", trained.item_tower),
        "query_tower": artifacts.put(conn, "onnx", trained.query_tower),
        "embeddings": artifacts.put(conn, "safetensors", rows),
        "weights": artifacts.put(conn, "safetensors", warm_start_artifact(trained)),
        "report": artifacts.put(conn, "json", report),
        "vocabularies": artifacts.put(conn, "json", _vocabularies(trained)),
    }


def _embeddings(trained: TrainedModel) -> embeddings.Embeddings:
    learned: list[int] = np.flatnonzero(trained.trained).tolist()
    return embeddings.Embeddings(
        item_ids=[trained.item_ids[i] for i in learned],
        served=trained.id_served[learned].astype(np.float16),
        history=trained.id_history[learned].astype(np.float16),
        bias=trained.bias[learned].astype(np.float32),
        default_query=trained.weights["default_query"],
    )


def _vocabularies(trained: TrainedModel) -> bytes:
    """Return the values that the rows of each table stand for: a full update asks."""
    sides = {"item": trained.items, "user": trained.users, "context": trained.contexts}
    found = {
        f"{side}.{fitted.feature.name}": fitted.vocabulary
        for side, features in sides.items()
        for fitted in features.features
        if fitted.feature.type in ("category", "categories")
    }
    return json.dumps(found, ensure_ascii=False, sort_keys=True).encode()


def trained_until(
    last: float | None, until: datetime | None, now: datetime
) -> datetime | None:
    """Return the time from which on nothing was in the training data.

    Args:
        last: Time of the last interaction in it, seconds since 1970.
        until: As given to the training; without a time zone it is UTC.
        now: When the data were read.

    Returns:
        ``until`` when that time has come, else the moment after the last interaction;
        None when no interaction has a time.
    """
    if last is None:
        return None
    if until is not None:
        until = until.replace(tzinfo=until.tzinfo or UTC)
        if until <= now:
            return until
    try:
        return datetime.fromtimestamp(last, UTC) + timedelta(microseconds=1)
    except (ValueError, OverflowError, OSError):
        return None  # Postgres knows later years than Python
