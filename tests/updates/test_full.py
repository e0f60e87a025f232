"""Full updates through the database: from the artifacts, declared like any version."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import world
from twofold import NEW, QUIET, Twofold, add_items, even

from recsys import _db, _parent, versions
from recsys.backfill import backfill
from recsys.config import ProjectConfig, from_mapping
from recsys.errors import TrainingError, UnknownVersion
from recsys.pipeline import train_version
from recsys.rollout import promote
from recsys.updates import log, run


def project(shop: Twofold, folder: Path) -> ProjectConfig:
    toml = world.toml(features=True, train={"epochs": 1, "history": 20})
    made = from_mapping(toml)
    return ProjectConfig(None, folder, made.models)


def test_a_full_update_goes_on_from_the_rows_as_trained(
    featured: Twofold, tmp_path: Path
) -> None:
    model = project(featured, tmp_path)
    first = train_version(featured.dsn, model, "shop", revision=False)
    number = first.plan.number
    backfill(featured.dsn, "shop", number)
    with _db.connect(featured.dsn) as conn:
        promote(conn, "shop", number, reason="test", force=True)
        trained = _parent.find(conn, "shop", None)
    add_items(featured, *NEW)
    # After the newest interaction of the shop's own.
    featured.happen(even(items=(*NEW, 4, 8)), at_s=timedelta(days=1).total_seconds())
    (done,) = run.update(featured.dsn, "shop", QUIET)
    with _db.connect(featured.dsn) as conn:
        parent = _parent.find(conn, "shop", None)

    second = train_version(featured.dsn, model, "shop", revision=False, full=True)

    assert done.state == "published"
    moved = featured.rows(number)
    place = list(parent.item_ids).index(4)
    assert not np.array_equal(moved[4][: world.DIM], parent.served[place])
    np.testing.assert_array_equal(parent.served, trained.served)
    assert second.plan.spec["parent"] == number
    assert second.report["full"]["admitted"] == len(NEW)
    backfill(featured.dsn, "shop", second.plan.number)
    assert set(NEW) <= set(featured.rows(second.plan.number))
    # The new version has no updates: they went with the rows they moved.
    with featured.connect() as conn:
        version = versions.get(conn, "shop", second.plan.number)
        assert log.position(conn, version).last == 0


def test_what_a_full_update_cannot_go_on_from(
    featured: Twofold, tmp_path: Path
) -> None:
    model = project(featured, tmp_path)
    with pytest.raises(TrainingError, match="without the weights of its towers"):
        train_version(featured.dsn, model, "shop", revision=False, full=True)

    with featured.connect() as conn:
        conn.execute("update recsys.model_version set spec = spec - 'trained_until'")
    with pytest.raises(TrainingError, match="without times"):
        train_version(featured.dsn, model, "shop", revision=False, full=True)
    with pytest.raises(UnknownVersion, match="no version 77"):
        train_version(featured.dsn, model, "shop", revision=False, full=True, parent=77)


def test_without_news_a_full_update_ends_before_it_has_a_number(
    featured: Twofold, tmp_path: Path
) -> None:
    model = project(featured, tmp_path)
    first = train_version(featured.dsn, model, "shop", revision=False)
    backfill(featured.dsn, "shop", first.plan.number)

    with pytest.raises(TrainingError, match="nothing to learn from came"):
        train_version(
            featured.dsn, model, "shop", revision=False, full=True,
            parent=first.plan.number,
        )  # fmt: skip

    with _db.connect(featured.dsn) as conn:
        row = conn.execute("select last_number from recsys.model").fetchone()
    assert row == (first.plan.number,)
