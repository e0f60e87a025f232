"""A small model learns from a large version of itself, and only what that knows."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_checkpoint import Stopping
from toys import FAST, checkerboard, make_config

from recsys._parent import Parent
from recsys._query_config import QueryConfig
from recsys._tower import ItemTower, QueryTower
from recsys.config import ContentConfig, Feature, ModelConfig, Source
from recsys.errors import TrainingError
from recsys.training import checkpoint, final
from recsys.training.checkpoint import Checkpoint
from recsys.training.choice import fits
from recsys.training.dataset import Dataset
from recsys.training.distil import agreement, teacher_of
from recsys.training.evaluation import item_vectors, queries
from recsys.training.loop import fit
from recsys.training.rows import QueryRows, query_rows
from recsys.training.sampler import UserRows
from recsys.training.settings import settings_of
from recsys.training.svd import first_rows
from recsys.training.trained import TrainedModel
from recsys.training.trainer import train

USERS, ITEMS, DIM, SMALL = 400, 300, 24, 8


def parent_of(model: TrainedModel, config: ModelConfig, **changes: Any) -> Parent:
    known = np.flatnonzero(model.trained)
    sides = {"item": model.items, "user": model.users, "context": model.contexts}
    parent = Parent(
        number=7,
        until=1.0,
        item_ids=[model.item_ids[i] for i in known],
        served=model.id_served[known],
        history=model.id_history[known],
        weights=model.weights,
        vocabularies={
            f"{side}.{f.feature.name}": f.vocabulary
            for side, fitted in sides.items()
            for f in fitted.features
        },
        settings=model.report["settings"],
        content=config.content,
    )
    return replace(parent, **changes)


def every(dataset: Dataset) -> QueryRows:
    return query_rows(dataset, np.ones(len(dataset), bool), dataset.until, 32)


class Shop:
    """Tastes of many dimensions, of which the data of the student show little.

    The teacher has the very vectors by which users choose.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        fade = 0.9 ** np.arange(DIM)
        self.item = rng.normal(size=(ITEMS, DIM)) * fade
        self.item /= np.linalg.norm(self.item, axis=1, keepdims=True)
        user = rng.normal(size=(USERS, DIM)) * fade
        user /= np.linalg.norm(user, axis=1, keepdims=True)
        score = 12 * user @ self.item.T + rng.gumbel(size=(USERS, ITEMS))
        order = np.argsort(-score, axis=1)
        self.chosen, self.later = order[:, :6], order[:, 6:26]
        self.config = make_config(train=replace(FAST, dim=SMALL, tau=0.1))
        owner = np.repeat(np.arange(USERS), 6)
        chosen = self.chosen.flatten()
        self.dataset = Dataset.from_arrays(
            self.config, owner.tolist(), chosen.tolist(), item_ids=list(range(ITEMS))
        )
        self.rows = every(self.dataset)

    def parent(self, **changes: Any) -> Parent:
        rows = self.item.astype(np.float32)
        weights = {"default_query": np.zeros(DIM, np.float32)}
        parent = Parent(7, 1.0, list(range(ITEMS)), rows, rows, weights)
        return replace(parent, **changes)

    def fit(self, parent: Parent | None, seed: int) -> tuple[float, float]:
        """Return agreement with the teacher, and recall of what users choose later."""
        teacher = teacher_of(self.parent(), self.dataset, self.rows)
        towers = fit(
            self.dataset, self.rows, settings_of(self.config, 0.1, 0.3), 20, seed,
            first_rows(self.rows, SMALL, seed), teacher=teacher if parent else None,
        )  # fmt: skip
        agreed = agreement(teacher, towers, self.rows, 0)
        assert agreed is not None
        user = torch.arange(len(self.rows.users))
        vectors = item_vectors(towers, self.rows)
        score = queries(towers, self.rows, vectors, user, None) @ vectors.served.T
        seen = self.rows.seen.take(user)
        score[seen.owner, seen.values] = -torch.inf
        found = self.rows.items[score.topk(20, dim=1).indices.numpy()]
        return agreed, _recall(found, self.later[self.rows.users])


def _recall(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    hits = (found[:, :, None] == wanted[:, None, :]).any(2)
    return float(hits.mean())


def test_a_student_comes_nearer_to_a_teacher_who_knows_more_and_gains_by_it() -> None:
    shop = Shop()

    plain = np.mean([shop.fit(None, seed) for seed in range(2)], axis=0)
    taught = np.mean([shop.fit(shop.parent(), seed) for seed in range(2)], axis=0)

    assert taught[0] > plain[0] + 0.1
    assert taught[1] > plain[1] + 0.02


def test_what_the_teacher_does_not_know_is_learned_from_the_data_alone() -> None:
    """The teacher knows even items; histories of odd ones alone are not taught."""
    shop = Shop()
    even = list(range(0, ITEMS, 2))
    rows = shop.parent().served[even]
    parent = shop.parent(item_ids=even, served=rows, history=rows)
    teacher = teacher_of(parent, shop.dataset, shop.rows)

    asked = UserRows(shop.rows).take(torch.arange(len(shop.rows.users)))
    sample = torch.arange(len(shop.rows.items))
    told = teacher.teach(asked, sample, 1.0, torch.Generator())

    place = torch.from_numpy(shop.rows.items)
    wanted = torch.nonzero(place % 2 == 0).squeeze(1)
    assert torch.equal(told.places.sort().values, wanted)
    assert torch.equal(told.vectors, teacher.served[told.places])
    for user, query in enumerate(told.query):
        heard = [int(i) for i in shop.chosen[shop.rows.users[user]] if i % 2 == 0]
        assert bool(told.knows[user]) == bool(heard)
        mean = shop.item[heard].mean(0) if heard else np.zeros(DIM)
        length = max(float(np.linalg.norm(mean)), 1e-12)
        np.testing.assert_allclose(query, mean / length, atol=1e-5)


def test_a_teacher_of_other_items_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    with pytest.raises(TrainingError, match="learned none of the items"):
        teacher_of(shop.parent(item_ids=[-1] * ITEMS), shop.dataset, shop.rows)

    few = list(range(ITEMS // 3))
    rows = shop.parent().served[few]
    with caplog.at_level(logging.WARNING):
        teacher_of(
            shop.parent(item_ids=few, served=rows, history=rows),
            shop.dataset, shop.rows,
        )  # fmt: skip
    assert "learned only" in caplog.text


def featured(colours: list[str] | None = None) -> tuple[Dataset, ModelConfig]:
    config = make_config(
        items=Source("select 1", (Feature("colour", "category", min_count=1),)),
        users=Source("select 1", (Feature("country", "category", min_count=1),)),
        content=ContentConfig(hidden=12),
        train=replace(FAST, epochs=2),
    )
    users, items = checkerboard()
    ids, people = sorted(set(items)), sorted(set(users))
    dataset = Dataset.from_arrays(
        config, users, items,
        item_ids=ids,
        item_columns={"colour": colours or [("red", "blue")[i % 2] for i in ids]},
        user_ids=people,
        user_columns={"country": [("de", "fr", "it")[u % 3] for u in people]},
    )  # fmt: skip
    return dataset, config


def test_a_teacher_with_features_says_what_it_was_trained_to_say() -> None:
    dataset, config = featured()
    trained = train(dataset, config)
    # In the new data there is one more colour, so every value has another row.
    other, _ = featured(
        [("red", "blue", "amber")[i % 2 + (i == 0) * 2] for i in range(40)]
    )
    rows = every(other)

    teacher = teacher_of(parent_of(trained, config), other, rows)

    asked = UserRows(rows).take(torch.arange(8))
    query, _ = teacher.queries(asked)
    items = rows.items[1:]
    vector, history = published_items(trained, other, items)
    np.testing.assert_allclose(teacher.served[1:], vector, atol=1e-3)
    np.testing.assert_allclose(teacher.history[1:], history, atol=1e-3)
    for place in range(8):
        values, weight = rows.history.entries(place)
        if 0 in values:
            continue
        wanted = published_query(trained, teacher.history[values], weight, place % 3)
        np.testing.assert_allclose(query[place], wanted, atol=1e-3)


def published_items(
    model: TrainedModel, dataset: Dataset, items: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    tower = ItemTower(model.item_tower, model.items.declared, FAST.dim)
    ids = [dataset.item_ids[i] for i in items]
    raw: dict[str, list[object]] = {"colour": [("red", "blue")[i % 2] for i in ids]}
    vector, history = tower.encode(
        raw, len(ids), model.id_served[items], model.id_history[items],
        model.bias[items],
    )  # fmt: skip
    return vector[:, :-1], history


def published_query(
    model: TrainedModel, table: Any, weight: Any, country: int
) -> NDArray[np.float32]:
    tower = QueryTower(
        model.query_tower, model.users.declared, model.contexts.declared, FAST.dim
    )
    raw = {"country": ("de", "fr", "it")[country]}
    return tower.encode_one(table.numpy(), weight.numpy(), raw, {})[:-1]


def test_a_teacher_of_other_features_is_refused() -> None:
    dataset, config = featured()
    parent = parent_of(train(dataset, config), config)
    users, items = checkerboard()
    plain = Dataset.from_arrays(make_config(), users, items)

    with pytest.raises(TrainingError, match=r"other features.*item\.colour\.table"):
        teacher_of(parent, plain, every(plain))

    bare = parent_of(train(plain, make_config()), make_config())
    with pytest.raises(TrainingError, match=r"other features.*user\.country\.table"):
        teacher_of(bare, dataset, every(dataset))


def large_and_small(*, timed: bool = False) -> tuple[Dataset, ModelConfig, Parent]:
    users, items = checkerboard()
    large = make_config(train=replace(FAST, epochs=6, dim=24))
    times = 1.7e9 + 3600.0 * np.random.default_rng(0).permutation(len(users))
    dataset = Dataset.from_arrays(large, users, items, times=times if timed else None)
    small = replace(large, train=replace(large.train, dim=8, dropout=-1.0))
    return dataset, small, parent_of(train(dataset, large), large)


def test_only_the_final_fit_has_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation slice is part of what the teacher was trained on."""
    dataset, config, parent = large_and_small(timed=True)
    seen: list[tuple[str, bool]] = []
    encoders: set[str] = set()

    def watched(*args: Any, **kwargs: Any) -> Any:
        name = "final" if len(args[1].keep) == int(args[1].keep.sum()) else "search"
        seen.append((name, kwargs.get("teacher") is not None))
        encoders.add(args[2].query.encoder)
        return fit(*args, **kwargs)

    monkeypatch.setattr(final, "fit", watched)
    monkeypatch.setattr(fits, "fit", watched)
    config = replace(config, query=QueryConfig(encoder="auto"))
    model = train(dataset, config, distil_from=parent)

    assert set(seen) == {("search", False), ("final", True)}
    # By itself, auto would try those of sequences on data with times.
    assert encoders == {"mean"}
    told = model.report["distil"]
    assert told["from"] == 7
    assert told["known_items"] == len(parent.item_ids)
    assert 0.5 < told["agreement"] <= 1
    assert model.query.encoder == "mean"
    assert model.id_served.shape[1] == 8
    assert "distil" not in train(dataset, config).report


def test_a_resumed_distillation_ends_like_one_that_was_never_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    path = tmp_path / "toy.safetensors"
    dataset, config, parent = large_and_small()
    whole = train(dataset, config, distil_from=parent)
    with pytest.raises(KeyboardInterrupt):
        train(
            dataset, config, progress=Stopping(4), distil_from=parent,
            checkpoint=Checkpoint(path, resume=False),
        )  # fmt: skip

    for other in (None, replace(parent, number=8)):
        with pytest.raises(TrainingError, match=r"--distil-from is \w+, was 7"):
            train(
                dataset, config, distil_from=other,
                checkpoint=Checkpoint(path, resume=True),
            )  # fmt: skip
    resumed = train(
        dataset, config, distil_from=parent, checkpoint=Checkpoint(path, resume=True)
    )

    assert np.array_equal(whole.id_served, resumed.id_served)
    assert np.array_equal(whole.id_history, resumed.id_history)


@pytest.mark.parametrize("objective", ["softmax", "cosine", "bpr", "logistic"])
def test_every_objective_can_be_taught(objective: str) -> None:
    dataset, config, parent = large_and_small()
    rows = every(dataset)
    teacher = teacher_of(parent, dataset, rows)
    start = first_rows(rows, 8, 0)

    def agreed(distil: float) -> float:
        train_ = replace(config.train, objective=objective, distil=distil)
        settings = settings_of(replace(config, train=train_), 0.15, 0.3)
        towers = fit(
            dataset, rows, replace(settings, prefixes=(4,)), 4, 0, start,
            teacher=teacher,
        )  # fmt: skip
        found = agreement(teacher, towers, rows, 0)
        assert found is not None
        return found

    # Not 0: without a weight there is no teacher.
    assert agreed(10.0) > agreed(0.1)
