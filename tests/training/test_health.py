"""Warnings before a fit: useless features, features that are the answer, and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toys import checkerboard, make_config

from recsys.config import Feature, Source
from recsys.errors import TrainingError
from recsys.training import health
from recsys.training.dataset import Dataset
from recsys.training.rows import query_rows
from recsys.training.trainer import train

ITEMS = list(range(60))
KIND = Feature("kind", "category", min_count=1)


def findings(
    items: dict[Feature, list[Any]] | None = None,
    users: dict[Feature, list[Any]] | None = None,
    contexts: dict[Feature, list[Any]] | None = None,
) -> set[tuple[str, str, str]]:
    dataset = made(items, users, contexts)
    rows = query_rows(dataset, np.ones(len(dataset), bool), None, 32)
    return {(f.side, f.feature, f.problem) for f in health.check(dataset, rows)}


def made(
    items: dict[Feature, list[Any]] | None = None,
    users: dict[Feature, list[Any]] | None = None,
    contexts: dict[Feature, list[Any]] | None = None,
) -> Dataset:
    parts = [part or {} for part in (items, users, contexts)]
    config = make_config(
        items=Source("x", tuple(parts[0])),
        users=Source("x", tuple(parts[1])),
        context=Source("", tuple(parts[2])),
    )
    chosen, item = events()
    columns = [{f.name: cells for f, cells in part.items()} for part in parts]
    return Dataset.from_arrays(
        config,
        chosen,
        item,
        item_ids=ITEMS,
        item_columns=columns[0],
        user_ids=list(range(120)),
        user_columns=columns[1],
        context_columns=columns[2],
    )


def events() -> tuple[list[int], list[int]]:
    """Items of a rising popularity: 2 users for the first, 60 for the last."""
    users, items = checkerboard(items=60, share=1.0)
    rng = np.random.default_rng(0)
    kept = [rng.random() < (item + 2) / 62 for item in items]
    return (
        [u for u, k in zip(users, kept, strict=True) if k],
        [i for i, k in zip(items, kept, strict=True) if k],
    )


def some(values: str = "abc") -> list[str]:
    return [values[i % len(values)] for i in ITEMS]


def test_good_features_are_left_alone() -> None:
    rng = np.random.default_rng(1)

    found = findings(
        {
            KIND: some(),
            Feature("price", "number"): rng.lognormal(size=60).tolist(),
            Feature("made", "time"): [1e9 + 1e5 * i for i in ITEMS],
            Feature("title", "text", buckets=64): [f"item {i % 9}" for i in ITEMS],
            Feature("image", "vector", dim=2): rng.normal(size=(60, 2)).tolist(),
        },
        {Feature("country", "category", min_count=1): list("ab" * 60)},
    )

    assert found == set()


@pytest.mark.parametrize(
    ("feature", "cells"),
    [
        (Feature("x", "category", min_count=1), ["a"] * 60),
        (Feature("x", "categories", min_count=1), ["a\x1fb"] * 60),
        (Feature("x", "text", buckets=64), ["the same words"] * 60),
        (Feature("x", "number"), [7.0] * 60),
        (Feature("x", "time"), [1e9] * 60),
        (Feature("x", "vector", dim=2), [[1.0, 2.0]] * 60),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
@pytest.mark.parametrize("problem", ["constant", "missing"])
def test_a_column_without_a_difference_is_named(
    feature: Feature, cells: list[Any], problem: str
) -> None:
    if problem == "missing":
        cells = [None] * 60

    assert findings({feature: cells, KIND: some()}) == {("item", "x", problem)}


def test_a_column_that_is_only_sometimes_missing_is_no_constant() -> None:
    cells = [7.0 if i % 2 else None for i in ITEMS]

    assert findings({Feature("x", "number"): cells, KIND: some()}) == set()


def test_items_that_look_all_the_same_are_said_to() -> None:
    found = findings({KIND: ["a"] * 60, Feature("price", "number"): [1.0] * 60})

    assert ("item", "", "identical") in found


def test_a_name_of_the_item_is_no_description() -> None:
    sku = Feature("sku", "category", min_count=2)

    assert findings({sku: [f"sku {i}" for i in ITEMS]}) == {("item", "sku", "constant")}
    nearly = [f"sku {i}" if i > 3 else "box" for i in ITEMS]
    assert findings({sku: nearly}) == {("item", "sku", "rare")}


def test_a_full_vocabulary_is_said() -> None:
    small = Feature("kind", "category", min_count=1, max_size=2)

    assert findings({small: some("aaaabbbcd")}) == {("item", "kind", "full")}


def test_a_number_that_counts_the_users_is_said() -> None:
    _, item = events()
    sold = np.bincount(item, minlength=60).astype(float)
    rng = np.random.default_rng(2)

    assert findings({Feature("sold", "number"): (sold * 9 + 4).tolist()}) == {
        ("item", "sold", "counts")
    }
    noise = (sold + rng.normal(size=60) * 40).tolist()
    assert findings({Feature("sold", "number"): noise}) == set()


@pytest.mark.parametrize("kind", ["category", "number"])
def test_a_context_that_is_the_answer_is_said(kind: str) -> None:
    _, item = events()
    cells = [float(i) if kind == "number" else f"page {i}" for i in item]
    page = Feature("page", kind, min_count=1)
    hour = Feature("hour", "number")
    rng = np.random.default_rng(0)

    assert findings(contexts={page: cells}) == {("context", "page", "names")}
    hours = rng.integers(0, 24, len(item)).astype(float).tolist()
    assert findings(contexts={hour: hours}) == set()


def test_warnings_reach_the_report_and_the_fit_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = make_config(items=Source("x", (KIND,)))
    dataset = made({KIND: ["a"] * 60})

    model = train(dataset, config)

    (warning,) = model.report["warnings"]
    assert warning["problem"] == "constant"
    assert "'kind' is the same in every row" in caplog.text


def test_tables_that_no_artifact_holds_are_refused_before_the_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "LARGEST_MODEL", 4 * 16 * 4)
    config = make_config(items=Source("x", (KIND,)))

    with pytest.raises(TrainingError, match="'kind'") as found:
        train(made({KIND: some()}), config)

    assert "max_size" in found.value.hint
