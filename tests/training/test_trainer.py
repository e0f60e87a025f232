from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toys import FAST, checkerboard, make_config

from recsys._tower import ItemTower, QueryTower
from recsys.config import Feature, Interactions, ModelConfig, Source
from recsys.errors import TrainingError
from recsys.training import sampler, trainer
from recsys.training.choice import search
from recsys.training.dataset import Dataset
from recsys.training.objectives import OBJECTIVES
from recsys.training.trained import TrainedModel
from recsys.training.trainer import train

Build = Callable[..., Dataset]


def scores(
    model: TrainedModel, history: list[int], columns: dict[str, Any] | None = None
) -> np.ndarray:
    """Scores of all items, through the published towers."""
    dim = model.id_served.shape[1]
    items = ItemTower(model.item_tower, model.items.declared, dim)
    vectors, rows = items.encode(
        columns or {},
        len(model.item_ids),
        model.id_served,
        model.id_history,
        model.bias,
    )
    query = QueryTower(
        model.query_tower, model.users.declared, model.contexts.declared, dim
    )
    place = [list(model.item_ids).index(item) for item in history]
    return vectors @ query.encode_one(rows[place], np.ones(len(place), np.float32))


def test_a_checkerboard_is_recovered(board: Build) -> None:
    dataset = board()

    model = train(dataset, make_config())

    ids = np.array(model.item_ids)
    for history in (list(range(0, 20, 2)), list(range(1, 20, 2))):
        best = ids[np.argsort(-scores(model, history))[:15]]
        assert (best % 2 == history[0] % 2).all()
    assert model.report["validation"]["model"]["recall@20"] > 0.9


def test_the_loss_of_a_tiny_set_goes_down(board: Build) -> None:
    model = train(board(), make_config(train=replace(FAST, epochs=40, dropout=0.0)))

    losses = [r["train_loss"] for r in model.report["curves"] if r["run"] == 0]
    assert losses[-1] < 0.6 * losses[0]


def test_a_cold_item_is_placed_by_its_content() -> None:
    users, items = checkerboard(items=40)
    ids = list(range(42))
    colour = ["red" if item % 2 else "blue" for item in ids]
    config = make_config(
        items=Source("x", (Feature("colour", "category", min_count=1),)),
        train=replace(FAST, id_dropout=0.3),
    )
    dataset = Dataset.from_arrays(
        config, users, items, item_ids=ids, item_columns={"colour": colour}
    )

    model = train(dataset, config)

    found = scores(model, [0, 2, 4], {"colour": colour})
    assert not model.trained[40:].any()
    assert np.isnan(model.bias[40:]).all()
    assert found[40] > found[41]
    assert found[40] > np.median(found)


def test_a_new_user_with_features_gets_a_query_of_that_taste() -> None:
    users, items = checkerboard(users=400)
    config = make_config(
        train=replace(FAST, epochs=40),
        users=Source("x", (Feature("team", "category", min_count=1),)),
    )
    everyone = list(range(400))
    dataset = Dataset.from_arrays(
        config,
        users,
        items,
        user_ids=everyone,
        user_columns={"team": ["odd" if user % 2 else "even" for user in everyone]},
    )

    model = train(dataset, config)

    vectors = np.concatenate([model.id_served, model.bias[:, None]], 1)
    vectors[:, :-1] /= np.linalg.norm(model.id_served, axis=1, keepdims=True)
    tower = QueryTower(model.query_tower, model.users.declared, (), 16)
    query = tower.encode_one(
        np.zeros((0, 16), "f4"), np.zeros(0, "f4"), {"team": "odd"}
    )
    best = np.array(model.item_ids)[np.argsort(-vectors @ query)[:10]]
    assert (best % 2 == 1).mean() > 0.8


def test_context_changes_the_answer() -> None:
    rng = np.random.default_rng(0)
    users, items, device = [], [], []
    for user in range(500):
        for item in rng.choice(30, 6, replace=False).tolist():
            users.append(user)
            items.append(item)
            device.append("phone" if item % 2 else "desk")
    feature = Feature("device", "category", min_count=1)
    config = make_config(
        context=Source("", (feature,)), train=replace(FAST, dropout=0.5)
    )
    dataset = Dataset.from_arrays(
        config, users, items, context_columns={"device": device}
    )

    model = train(dataset, config)

    tower = QueryTower(model.query_tower, (), model.contexts.declared, 16)
    rows = ItemTower(model.item_tower, (), 16).encode(
        {}, 30, model.id_served, model.id_history, model.bias
    )
    weights = np.ones(6, np.float32)
    query = tower.encode_one(rows[1][:6], weights, None, {"device": "phone"})
    best = np.array(model.item_ids)[np.argsort(-rows[0] @ query)[:10]]
    assert (best % 2 == 1).mean() > 0.8


def test_same_seed_same_model(board: Build) -> None:
    one, other = train(board(), make_config()), train(board(), make_config())
    third = train(board(), make_config(train=replace(FAST, seed=1)))

    assert np.array_equal(one.id_served, other.id_served)
    assert one.query_tower == other.query_tower
    assert not np.array_equal(one.id_served, third.id_served)


def test_settings_choose_themselves(
    board: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FAIR_EPOCHS", 1)  # however slow this machine is
    free = replace(FAST, tau=0.0, dropout=-1.0, epochs=0, max_epochs=5, budget_s=60)

    model = train(board(), make_config(train=free))

    tried = {(row.get("tau"), row.get("dropout")) for row in model.report["curves"]}
    assert {tau for tau, _ in tried} >= {0.1, 0.15}
    assert {dropout for _, dropout in tried} >= {0.5, 0.3}
    assert model.report["settings"]["epochs"] <= 5


def test_trend_is_chosen_when_times_exist() -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 200, 6_000)
    day = np.sort(rng.random(6_000)) * 200
    # Everyone follows the season: which items are chosen moves on with time.
    items = (day / 4 + rng.integers(0, 12, 6_000)).astype(int)
    times = 1e9 + 86_400 * day
    dataset = Dataset.from_arrays(make_config(), users, items, times=times)

    report = train(dataset, make_config()).report

    assert report["validation"]["by_time"]
    assert set(report["validation"]) >= {"model", "most_popular", "popular_30d"}
    assert sum(report["settings"]["trend"]["recent"]) > 0


def test_without_times_there_is_no_trend(board: Build) -> None:
    report = train(board(), make_config()).report

    trend = report["settings"]["trend"]
    assert trend["long_run"] == pytest.approx(0.09)
    assert not trend["recent"]
    assert "popular_30d" not in report["validation"]


def test_the_report_is_json(board: Build) -> None:
    report = train(board(), make_config()).report

    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["data"]["interactions"] == report["data"]["interactions"]
    assert report["parity"]["overlap"] >= 0.99


@pytest.mark.parametrize(
    ("users", "items"),
    [([1], [1]), ([1, 2, 3], [7, 7, 7]), ([1, 1, 1], [7, 8, 9]), ([1, 2], [7, 8])],
    ids=["one interaction", "one item", "one user", "nothing in common"],
)
def test_the_smallest_data_sets_work(users: list[int], items: list[int]) -> None:
    dataset = Dataset.from_arrays(make_config(), users, items, item_ids=[7, 8, 9, 1])

    model = train(dataset, make_config())

    assert np.isfinite(scores(model, [items[0]])).all()
    assert model.trained.sum() == len(set(items))


def test_all_items_seen_by_everyone_works() -> None:
    users = [u for u in range(20) for _ in range(6)]
    items = list(range(6)) * 20
    dataset = Dataset.from_arrays(make_config(), users, items)

    assert np.isfinite(train(dataset, make_config()).id_served).all()


def test_no_interactions_is_a_training_error() -> None:
    dataset = Dataset.from_arrays(make_config(), [1], [99], item_ids=[1, 2])

    with pytest.raises(TrainingError) as caught:
        train(dataset, make_config())

    assert "item_id" in caught.value.hint


def test_only_weight_zero_is_a_training_error() -> None:
    config = make_config(interactions=Interactions("x", {"skip": 0.0}))
    dataset = Dataset.from_arrays(config, [1, 2], [1, 2], kinds=["skip", "other"])

    with pytest.raises(TrainingError, match="positive weight"):
        train(dataset, config)


def test_a_loss_that_is_not_finite_names_the_epoch(
    board: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "log_popularity", lambda pop: pop * np.nan)

    with pytest.raises(TrainingError, match="epoch 1"):
        train(board(), make_config())


def test_an_interrupt_passes_through(
    board: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(OBJECTIVES, "ranking", interrupted)

    with pytest.raises(KeyboardInterrupt):
        train(board(), make_config())


def test_progress_hears_of_every_epoch(board: Build) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.done: dict[str, int] = {}

        def stage(self, name: str, total: int | None = None) -> Any:
            done = self.done
            done[name] = 0

            class Stage:
                def __enter__(self) -> Stage:
                    return self

                def __exit__(self, *exc: object) -> None:
                    pass

                def advance(self, n: int = 1, note: str = "") -> None:
                    done[name] += n

            return Stage()

    recorder = Recorder()

    trainer.train(board(), make_config(), progress=recorder)

    assert recorder.done["fit"] == FAST.epochs
    assert recorder.done["choose settings"] >= 1


def test_a_kind_of_greater_weight_pulls_harder() -> None:
    def gap(weights: dict[str, float]) -> float:
        config: ModelConfig = make_config(interactions=Interactions("x", weights))
        users, items, kinds = [], [], []
        for user in range(100):
            for item in (0, 1 + user % 2, 3 + user % 5):
                users.append(user)
                items.append(item)
                kinds.append("buy" if item == 1 else "view")
        dataset = Dataset.from_arrays(config, users, items, kinds=kinds)
        found = scores(train(dataset, config), [0])
        return float(found[1] - found[2])

    assert gap({"view": 1.0, "buy": 5.0}) > gap({"view": 1.0, "buy": 1.0})


def test_a_fit_ends_when_its_time_does(board: Build) -> None:
    dataset = board()
    config = make_config(train=replace(FAST, epochs=0, max_epochs=100_000, budget_s=4))

    report = train(dataset, config).report

    assert 1 <= report["settings"]["epochs"] < 100_000
    assert report["timing"]["choose_s"] + report["timing"]["fit_s"] < 8
