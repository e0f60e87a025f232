"""What is seen of a fit, and that real bad fits are called by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toys import FAST, checkerboard, make_config

from recsys.report.verdict import verdicts
from recsys.training.dataset import Dataset
from recsys.training.fit_health import embedding_health
from recsys.training.trained import TrainedModel
from recsys.training.trainer import train


def fitted(**changes: object) -> TrainedModel:
    config = make_config(train=replace(FAST, **changes))  # type: ignore[arg-type]
    return train(Dataset.from_arrays(config, *checkerboard(users=80)), config)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return fitted(epochs=8)


def test_gradients_and_updates_of_every_part_are_noted(model: TrainedModel) -> None:
    rows = model.report["health"]["gradients"]

    assert {row["group"] for row in rows} == {"served", "history", "default_query"}
    served = [row for row in rows if row["group"] == "served"]
    assert len(served) > 3
    assert all(row["gradient"] > 0 and 0 < row["update"] < 1 for row in served)
    epochs = [row["epoch"] for row in served]
    assert epochs == sorted(set(epochs))


def test_the_embeddings_are_noted_to_the_end(model: TrainedModel) -> None:
    rows = model.report["health"]["embeddings"]

    assert {row["table"] for row in rows} == {"served", "history"}
    assert rows[-1]["epoch"] == model.report["settings"]["epochs"]
    assert all(0 < row["p1"] <= row["mean"] <= row["p99"] for row in rows)


def test_directions_are_counted() -> None:
    torch.manual_seed(0)
    same = torch.ones(100, 8) + 0.001 * torch.randn(100, 8)
    apart = torch.randn(1000, 8)

    assert embedding_health(same)["rank"] < 1.01
    assert embedding_health(same)["cosine"] > 0.99
    assert embedding_health(apart)["rank"] > 7.9
    assert abs(embedding_health(apart)["cosine"]) < 0.05
    dead = embedding_health(torch.cat([apart, torch.zeros(250, 8)]))["dead"]
    assert dead == pytest.approx(0.2)


def test_samples_are_lists_of_known_users_by_their_ids(model: TrainedModel) -> None:
    rows = model.report["samples"]

    good = [row for row in rows if row["sort"] == "good"]
    bad = [row for row in rows if row["sort"] == "bad"]
    assert good
    assert bad
    assert min(r["ndcg@20"] for r in good) >= max(r["ndcg@20"] for r in bad)
    for row in rows:
        assert not set(row["list"]) & set(row["history"])
        assert len({item % 2 for item in row["history"]}) == 1
        # Even users have even items.
        assert row["user"] % 2 == row["history"][0] % 2
        assert len(row["list"]) == 20
        assert len(row["hit_users"]) == len(row["hits"])
        assert min(row["hit_users"]) >= 1


def test_segments_of_the_slice_are_in_the_report(model: TrainedModel) -> None:
    found = model.report["segments"]

    assert {"head items", "tail items", "lists"} <= set(found)
    assert set(found["head items"]) == {"model", "most_popular"}


def test_a_collapsed_fit_is_called_so() -> None:
    model = fitted(epochs=8, tau=5.0, lr=0.1)

    assert verdicts(model.report)[0].name == "collapsed"
