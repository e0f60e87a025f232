"""Distilling through the database: from a registered version to a smaller one."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import world

from recsys import Recommender, _db, artifacts, pipeline, rollout, versions
from recsys.backfill import backfill
from recsys.config import ProjectConfig, from_mapping
from recsys.errors import ConfigError, TrainingError

TRAIN = {"epochs": 2, "budget_s": 3.0, "batch": 64, "negatives": 32}


def project(
    folder: Path, dim: int, encoder: str = "mean", **options: Any
) -> ProjectConfig:
    train, query = {**TRAIN, "dim": dim}, {"encoder": encoder}
    data = world.toml(train=train, query=query, **options)
    return from_mapping({**data, "versions": str(folder / "recsys_versions")})


def test_a_small_version_is_distilled_from_a_large_one_with_features(
    dsn: str, tmp_path: Path
) -> None:
    world.fill_shop(dsn)
    large = project(tmp_path, 24, features=True)
    pipeline.train_version(dsn, large, "shop", revision=False)

    small = project(tmp_path, 8, "auto", features=True)
    pipeline.train_version(dsn, small, "shop", revision=False, distil_from=1)

    # The teacher needs no backfill; the student is a version like any other.
    backfill(dsn, "shop", 2)
    with _db.connect(dsn) as conn:
        rollout.promote(conn, "shop", 2, reason="test", force=True)
        version = versions.get(conn, "shop", 2)
        report = json.loads(artifacts.get(conn, version.artifacts["report"]))
    assert version.dim == 8 + 1
    assert version.spec["teacher"] == 1
    assert "parent" not in version.spec
    assert report["distil"]["from"] == 1
    assert report["distil"]["known_items"] == report["data"]["trained_items"]
    assert 0 <= report["distil"]["agreement"] <= 1
    with Recommender("shop", dsn=dsn) as model:
        assert len(model.recommend(7)) == 20


def test_what_nothing_can_be_distilled_from(dsn: str, tmp_path: Path) -> None:
    world.fill_shop(dsn, items=40, users=20, events=6)
    config = project(tmp_path, 8)
    with pytest.raises(TrainingError, match="no version 1 of model 'shop'"):
        pipeline.train_version(dsn, config, "shop", revision=False, distil_from=1)
    pipeline.train_version(dsn, config, "shop", revision=False)
    with _db.connect(dsn) as conn:
        (number,) = conn.execute(
            "select number from recsys.model_version where model = 'shop'"
        ).fetchone() or (0,)

    def refused(match: str, config: ProjectConfig = config, **changes: Any) -> None:
        with pytest.raises((TrainingError, ConfigError), match=match) as caught:
            pipeline.train_version(
                dsn, config, "shop", revision=False, distil_from=number, **changes
            )
        assert caught.value.hint

    refused("after --until", until=world.NOW - timedelta(days=20))
    with _db.connect(dsn) as conn:
        conn.execute(
            "update recsys.model_version"
            " set spec = jsonb_set(spec, '{trained_until}', 'null')"
        )
    refused("does not know until when", until=world.NOW)
    refused("leave --distil-from out", full=True)
    model = config.model("shop")
    ordered = replace(model, query=replace(model.query, encoder="decay"))
    sequential = replace(config, models={"shop": ordered})
    refused("a distilled version makes its queries by a mean", sequential)
    with _db.connect(dsn) as conn:
        conn.execute(
            "update recsys.model_version"
            " set spec = jsonb_set(spec, '{query,encoder}', '\"gated\"')"
        )
    refused("makes its queries with gated")
