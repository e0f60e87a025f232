"""recsys.recommend() of a trained model that leans, before and after its updates."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import world
from torch import Tensor
from twofold import QUIET, USERS, Twofold, even

from recsys import Recommender, _db
from recsys.backfill import backfill
from recsys.config import ProjectConfig, from_mapping
from recsys.pipeline import train_version
from recsys.rollout import promote
from recsys.training import finish
from recsys.training.lean import Lean
from recsys.training.model import Towers
from recsys.training.rows import QueryRows
from recsys.updates import run

NOBODY = 10_000
EVERYBODY = (*range(1, USERS + 1), NOBODY)


@pytest.fixture
def shop(shop: Twofold) -> Twofold:
    """The shop, whose tables the analysts' functions may read."""
    with shop.connect() as conn:
        if conn.execute("select to_regrole('recsys_trainer')").fetchone() != (None,):
            conn.execute("grant select on product, event, customer to recsys_trainer")
    return shop


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectConfig:
    """A model without features, whose every fit is published with a strong lean."""
    strengths = itertools.count(4)
    lean_of = finish.lean_of

    def lean(
        towers: Towers, rows: QueryRows, bias: Tensor, strength: float, seed: int
    ) -> Lean:
        del strength
        return lean_of(towers, rows, bias, next(strengths) / 10, seed)

    monkeypatch.setattr(finish, "lean_of", lean)
    train = {"epochs": 2, "budget_s": 3.0, "batch": 64, "negatives": 32}
    made = from_mapping(world.toml(train=train, query={"encoder": "mean"}))
    return ProjectConfig(None, tmp_path / "versions", made.models)


def publish(shop: Twofold, project: ProjectConfig, *, full: bool = False) -> int:
    trained = train_version(shop.dsn, project, "shop", revision=False, full=full)
    number = trained.plan.number
    backfill(shop.dsn, "shop", number)
    with _db.connect(shop.dsn) as conn:
        promote(conn, "shop", number, reason="test", force=True)
    return number


def lean_of(shop: Twofold, number: int) -> list[float]:
    with shop.connect() as conn:
        row = conn.execute(
            "select lean from recsys.model_version where number = %s", (number,)
        ).fetchone()
    assert row
    return row[0]


def test_sql_leans_as_python_does_after_every_kind_of_update(
    shop: Twofold, project: ProjectConfig
) -> None:
    # Each taste has items that most of it likes, or there is nothing to lean to.
    shop.happen(even(range(2, 30, 2), (2, 4, 6)), at_s=-3600)
    first = publish(shop, project)
    with Recommender("shop", dsn=shop.dsn) as python:
        counts = [python.query_vector(user)[0][-1] for user in EVERYBODY]
    assert np.std(counts) > 0.2
    world.assert_alike_in_sql(shop.dsn, EVERYBODY)

    shop.happen(even(items=(8, 10)), at_s=timedelta(days=1).total_seconds())
    (done,) = run.update(shop.dsn, "shop", QUIET)

    assert done.state == "published"
    world.assert_alike_in_sql(shop.dsn, EVERYBODY)

    second = publish(shop, project, full=True)

    assert lean_of(shop, second) != lean_of(shop, first)
    world.assert_alike_in_sql(shop.dsn, EVERYBODY)


def test_what_was_made_before_sql_leant_does_after_a_backfill(
    shop: Twofold, project: ProjectConfig
) -> None:
    number = publish(shop, project)
    lean = lean_of(shop, number)
    with shop.connect() as conn:
        conn.execute("update recsys.model_version set lean = null")
    with pytest.raises(AssertionError):
        world.assert_alike_in_sql(shop.dsn, EVERYBODY)
    said: list[str | None] = []
    with _db.connect(shop.dsn) as conn:
        conn.add_notice_handler(lambda notice: said.append(notice.message_hint))
        conn.execute("select * from recsys.recommend('shop', 7, 5)")
    assert said == [f"recsys backfill shop {number}"]

    backfill(shop.dsn, "shop", number)

    assert lean_of(shop, number) == lean
    world.assert_alike_in_sql(shop.dsn, EVERYBODY)
