"""The full update: what goes on from the parent, what comes and what goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parents import BRANDS, DAY, config_of, data, parent_of

from recsys._parent import Parent
from recsys._query_config import QueryConfig
from recsys.config import ModelConfig, NegativesConfig
from recsys.errors import TrainingError
from recsys.training.choice.tried import first_settings
from recsys.training.full import train_full
from recsys.training.full.basis import Basis
from recsys.training.full.lesson import only
from recsys.training.full.start import start_of
from recsys.training.rows import query_rows
from recsys.training.trainer import train


@pytest.fixture(scope="module")
def started() -> tuple[ModelConfig, Parent]:
    config = config_of(True)
    first = train(data(config, (0,)), config)
    return config, parent_of(config, first, DAY)


@pytest.mark.parametrize("features", [False, True])
def test_new_items_come_and_the_model_gets_no_worse(features: bool) -> None:
    config = config_of(features)
    first = train(data(config, (0,)), config)
    parent = parent_of(config, first, DAY)
    both = data(config, (0, 1))

    second = train_full(both, config, parent)

    full = second.report["full"]
    assert full["parent"] == 1
    assert full["admitted"] == int(second.trained.sum() - first.trained.sum()) > 0
    assert full["evicted"] == 0
    assert full["fresh"] == []
    metrics = second.report["validation"]
    assert second.report["segments"]["head items"].keys() >= {"model", "most_popular"}
    assert {sample["sort"] for sample in second.report["samples"]} >= {"good"}
    assert metrics["model"]["ndcg@20"] >= metrics["parent"]["ndcg@20"] - 0.02
    assert metrics["model"]["ndcg@20"] > metrics["most_popular"]["ndcg@20"]


def test_every_new_interaction_is_learned_once_and_no_old_one() -> None:
    config = config_of(False)
    both = data(config, (0, 1))
    new = both.time >= DAY
    rows = query_rows(both, np.ones(len(both), np.bool_), both.until, 32)
    nobody: Any = None

    part = only(Basis(both, config, nobody, first_settings(config)), rows, new)

    owner = np.repeat(part.user.numpy(), np.diff(part.targets.start.numpy()))
    pairs = list(zip(owner, part.targets.values.tolist(), strict=True))
    expected = {
        (int(np.searchsorted(rows.users, u)), int(np.searchsorted(rows.items, i)))
        for u, i in zip(both.user[new], both.item[new], strict=True)
    }
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    assert part.history is rows.history


def test_rows_of_a_table_follow_their_value() -> None:
    config = config_of(True)
    first = train(data(config, (0,)), config)
    parent = parent_of(config, first, DAY)
    names = ["right" if i % 2 else "wrong" for i in range(30)]  # no more "left"
    both = data(config, (0, 1), brands=names)
    rows = query_rows(both, np.ones(len(both), np.bool_), both.until, 32)

    start = start_of(Basis.of(both, config, parent), rows)

    old, new = parent.weights["item.brand.table"], start.weights["item.brand.table"]
    values = both.items.fitted.features[0].vocabulary
    right = 2 + parent.vocabularies["item.brand"].index("right")
    assert start.fresh == []
    np.testing.assert_array_equal(new[2 + values.index("right")], old[right])
    np.testing.assert_array_equal(new[2 + values.index("wrong")], old[1])
    np.testing.assert_array_equal(new[:2], old[:2])
    place = parent.item_ids.index(both.item_ids[rows.items[0]])
    np.testing.assert_array_equal(start.weights["served"][0], parent.served[place])


def test_items_without_interactions_go() -> None:
    config = config_of(False, evict_days=1)
    first = train(data(config, (0,), items=20), config)
    parent = parent_of(config, first, DAY)
    both = data(config, (0, 3), items=20)
    latest = np.zeros(20)
    np.maximum.at(latest, both.item, both.time)
    gone = np.flatnonzero(latest < both.until - DAY)

    second = train_full(both, config, parent)

    assert not second.trained[gone].any()
    assert second.report["full"]["evicted"] == len(gone)


def test_another_feature_starts_anew() -> None:
    config = config_of(True)
    first = train(data(config_of(False), (0,)), config_of(False))
    parent = parent_of(config, first, DAY)

    second = train_full(data(config, (0, 1)), config, parent)

    assert "item.brand.table" in second.report["full"]["fresh"]


def test_nothing_new_is_said() -> None:
    config = config_of(False)
    first = train(data(config, (0,)), config)

    with pytest.raises(TrainingError, match="1970-01-02 00:00 UTC") as caught:
        train_full(data(config, (0,)), config, parent_of(config, first, DAY))

    assert "nothing to learn from came" in str(caught.value)
    assert "when more has come" in caught.value.hint


@pytest.mark.parametrize(("count", "said"), [(1, True), (60, True), (160, False)])
def test_few_news_are_said_to_be_hardly_worth_a_version(
    started: tuple[ModelConfig, Parent],
    caplog: pytest.LogCaptureFixture,
    count: int,
    said: bool,
) -> None:
    config, parent = started
    config = replace(config, negatives=NegativesConfig(shown=5))
    both = data(config, (0, 40))
    some = both.only(np.cumsum(both.time >= DAY) <= count)

    second = train_full(some, config, parent)

    assert second.report["data"]["new_interactions"] == count
    many = "interaction" if count == 1 else "interactions"
    assert (f"only {count} {many} to learn from came" in caplog.text) is said
    assert ("Wait for 100, or run" in caplog.text) is said
    # Nobody leaves out what the update is for, however long after the others it came.
    assert "--until" not in caplog.text
    assert second.report["mined"] == {"shown": 0}


def test_another_dimension_is_refused() -> None:
    config = config_of(False)
    first = train(data(config, (0,)), config)
    other = replace(config, train=replace(config.train, dim=16))

    with pytest.raises(TrainingError, match=r"has 8 dimensions, train\.dim is 16"):
        train_full(data(config, (0, 1)), other, parent_of(config, first, DAY))


def test_interests_of_clusters_go_on_and_learned_ones_are_refused(
    started: tuple[ModelConfig, Parent],
) -> None:
    config, parent = started
    both = data(config, (0, 1))
    several = QueryConfig(interests=3)
    learned = replace(several, interests_from="learned")

    second = train_full(both, replace(config, query=several), parent)

    assert second.query == replace(several, encoder="mean", rerank=0.0)
    for asked, before, message in (
        (learned, parent, "asks for learned interests"),
        (QueryConfig(encoder="gated"), parent, "asks for gated"),
        (several, replace(parent, query=learned), "with learned interests"),
        (several, replace(parent, query=replace(several, encoder="decay")), "decay"),
    ):
        with pytest.raises(TrainingError, match=message):
            train_full(both, replace(config, query=asked), before)


def test_nothing_that_was_chosen_is_lost_from_one_update_to_the_next(
    started: tuple[ModelConfig, Parent], caplog: pytest.LogCaptureFixture
) -> None:
    config, parent = started
    free = replace(config.train, companions=-1.0, recent_beta=-1.0, int8=True)
    chosen = {**parent.settings, "companions": 0.25, "recent_beta": 0.7}
    parent = replace(parent, settings=chosen, level=0.9)
    one = [BRANDS[0]] * 30
    config = replace(config, train=free)

    second = train_full(data(config, (0, 1), brands=one), config, parent)
    fixed = replace(config, train=replace(free, companions=0.0, recent_beta=0.0))
    parent = replace(parent, settings=second.report["settings"])
    third = Basis.of(data(fixed, (0, 1)), fixed, parent).settings

    said = second.report["settings"]
    assert said.keys() == chosen.keys()
    assert (said["companions"], said["recent_beta"]) == (0.25, 0.7)
    assert said["lr"] == chosen["lr"]
    assert second.report["cold"] == {"quantile": 0.9}
    assert second.weights["cold_bias"] == pytest.approx(
        np.quantile(second.bias[second.trained], 0.9), abs=1e-5
    )
    assert "int8" in second.report
    assert [w["problem"] for w in second.report["warnings"]] == ["constant"]
    assert "is the same in every row" in caplog.text
    assert (third.companions, third.recent_beta) == (0.0, 0.0)
