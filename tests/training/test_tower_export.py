from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from toys import checkerboard, make_config

from recsys.config import ContentConfig, Feature, ModelConfig, Source
from recsys.errors import ArtifactError
from recsys.training import parity
from recsys.training.dataset import Dataset
from recsys.training.export import export
from recsys.training.loop import fit
from recsys.training.model import Towers
from recsys.training.parity import check_parity
from recsys.training.rows import QueryRows, query_rows
from recsys.training.settings import Settings
from recsys.training.svd import first_rows
from recsys.training.trained import warm_start_artifact

FEATURES = (
    Feature("title", "text", buckets=64),
    Feature("tags", "categories", min_count=1),
    Feature("price", "number", scale="log"),
    Feature("added", "time"),
    Feature("image", "vector", dim=3),
    Feature("blurb", "text", encoder="models/mini", dim=4, fine_tune=True),
)
Fit = tuple[Dataset, QueryRows, Towers, torch.Tensor]


def fitted(config: ModelConfig, **columns: object) -> Fit:
    users, items = checkerboard()
    dataset = Dataset.from_arrays(config, users, items, **columns)  # type: ignore[arg-type]
    rows = query_rows(dataset, np.ones(len(dataset), bool), None, history=32)
    settings = Settings(16, 0.15, 0.3, 0.5, 6e-3, 32, 32, 0.15)
    settings = replace(settings, content=config.content)
    towers = fit(dataset, rows, settings, 2, 0, first_rows(rows, 16, 0))
    return dataset, rows, towers, 0.1 * rows.pop.log()


@pytest.fixture(scope="module")
def rich() -> Fit:
    return rich_fit(ContentConfig(cross=2, rank=3))


def rich_fit(content: ContentConfig) -> Fit:
    config = make_config(
        content=content,
        items=Source("x", FEATURES),
        users=Source("x", (Feature("team", "category", min_count=1),)),
        context=Source("", (Feature("hour", "number"),)),
    )
    count = len(checkerboard()[0])
    rng = np.random.default_rng(0)
    ids = list(range(45))
    return fitted(
        config,
        item_ids=ids,
        item_columns={
            "title": [
                f"item {i} of {i % 7} \u00e9t\u00e9" if i % 9 else None for i in ids
            ],
            "tags": ["a\x1fb" if i % 2 else "c" for i in ids],
            "price": [float(i) if i % 5 else None for i in ids],
            "added": [1e9 + 86_400.0 * i for i in ids],
            "image": [f"[{i},1,2]" if i % 4 else None for i in ids],
            "blurb": rng.normal(size=(45, 4)).astype(np.float32),
        },
        user_ids=list(range(100)),
        user_columns={"team": ["x" if u % 2 else None for u in range(100)]},
        context_columns={"hour": rng.integers(0, 24, count).astype(float).tolist()},
    )


@pytest.mark.parametrize(
    "content",
    [ContentConfig(), ContentConfig(cross=1), ContentConfig(3, 3, 24)],
    ids=["dense", "cross", "thin"],
)
def test_towers_with_every_feature_type_equal_torch(content: ContentConfig) -> None:
    model = export(*rich_fit(content), history=32)

    found = model.report["parity"]
    assert found["item_difference"] < 1e-5
    assert found["query_difference"] < 1e-5
    assert found["overlap"] >= 0.99
    assert found["rows"] >= 256


@pytest.mark.parametrize(
    "name",
    ["served", "history", "default_query", "history_weight", "user.dense_bias",
     "item.adapters.0.w2", "item.cross.out", "item.cross.layers.1.up"],
)  # fmt: skip
def test_a_changed_weight_is_never_published(
    rich: Fit, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, rows, towers, bias = rich
    model = export(dataset, rows, towers, bias, history=32)
    parameter = dict(towers.named_parameters())[name]
    before = parameter.detach().clone()

    with torch.no_grad():
        parameter += 0.2 * torch.arange(parameter.numel()).reshape(before.shape).cos()
    try:
        with pytest.raises(ArtifactError, match="differ"):
            check_parity(model, dataset, rows, towers, 32)
    finally:
        with torch.no_grad():
            parameter.copy_(before)


def test_vectors_that_do_not_survive_rounding_are_refused(
    rich: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "_half", lambda values: np.round(values, 0))

    with pytest.raises(ArtifactError, match="halfvec"):
        export(*rich, history=32)


def test_items_without_taste_have_no_row(rich: Fit) -> None:
    model = export(*rich, history=32)

    assert model.trained.sum() == 40
    assert not model.id_served[~model.trained].any()
    assert np.isnan(model.bias[~model.trained]).all()
    assert float(model.weights["cold_bias"]) == pytest.approx(
        float(np.median(model.bias[model.trained]))
    )


def test_warm_start_holds_every_weight(board: Callable[..., Dataset]) -> None:
    model = export(*fitted(make_config()), history=32)

    tensors = load(warm_start_artifact(replace(model)))

    assert set(tensors) == set(model.weights)
    assert all(np.array_equal(tensors[k], v) for k, v in model.weights.items())
