"""Vectors whose first dimensions rank by themselves: nested training and rotation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toys import FAST, make_config

from recsys import config, pipeline
from recsys.config import Feature, Source
from recsys.errors import ConfigError
from recsys.training.dataset import Dataset
from recsys.training.evaluation import item_vectors, queries
from recsys.training.loop import fit
from recsys.training.matryoshka import fitting, nested, shortened
from recsys.training.model import Towers
from recsys.training.objectives import OBJECTIVES
from recsys.training.objectives.batch import LossBatch
from recsys.training.rotation import rotate
from recsys.training.rows import QueryRows, query_rows
from recsys.training.settings import Settings
from recsys.training.svd import first_rows

SETTINGS = Settings(16, 0.15, 0.3, 0.5, 6e-3, 64, 40, 0.0)


def tastes(*, content: bool = False) -> tuple[Dataset, QueryRows]:
    """Users of two out of twelve tastes, items of one."""
    rng = np.random.default_rng(0)
    pairs = [
        (user, item)
        for user in range(200)
        for item in range(144)
        if item % 12 in (user % 12, user // 12 % 12) and rng.random() < 0.5
    ]
    users, items = np.array(pairs).T
    if not content:
        dataset = Dataset.from_arrays(make_config(), users, items)
    else:
        source = Source("select 1", (Feature("brand", "category"),))
        dataset = Dataset.from_arrays(
            make_config(items=source),
            users,
            items,
            item_ids=list(range(144)),
            item_columns={"brand": [f"brand {item % 12}" for item in range(144)]},
        )
    return dataset, query_rows(dataset, np.ones(len(users), bool), None, 32)


def fitted(
    settings: Settings, epochs: int = 6, *, content: bool = False
) -> tuple[Towers, QueryRows]:
    dataset, rows = tastes(content=content)
    start = first_rows(rows, settings.dim, 0)
    return fit(dataset, rows, settings, epochs, 0, start), rows


def vectors(towers: Towers, rows: QueryRows) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        items = item_vectors(towers, rows)
        users = torch.arange(len(rows.users))
        return queries(towers, rows, items, users, None), items.served


def overlap(towers: Towers, rows: QueryRows, length: int) -> float:
    """Share of the ten best items that the ten best by a prefix are."""
    query, items = vectors(towers, rows)
    whole = (query @ items.T).topk(10).indices.tolist()
    short = (query[:, :length] @ items[:, :length].T).topk(10).indices.tolist()
    same = [len(set(a) & set(b)) / 10 for a, b in zip(whole, short, strict=True)]
    return float(np.mean(same))


def random_batch(items: int, queries_: int) -> LossBatch:
    owner = torch.arange(queries_).repeat_interleave(2)
    return LossBatch(
        negatives=torch.arange(items),
        positives=torch.randint(items, (2 * queries_,)),
        owner=owner,
        start=torch.arange(queries_) * 2,
        weight=torch.ones(2 * queries_),
        seen_query=torch.arange(queries_),
        seen_place=torch.arange(queries_),
        bias=torch.randn(items) * 0.1,
        log_share=0.0,
    )


def test_a_shortened_pair_scores_as_the_prefix_of_the_unit_vectors() -> None:
    query = F.normalize(torch.randn(5, 8), dim=1)
    rows = torch.randn(7, 8)

    short_query, short_rows = shortened(query, rows, 3)

    expected = query[:, :3] @ F.normalize(rows, dim=1)[:, :3].T
    actual = short_query @ F.normalize(short_rows, dim=1).T
    torch.testing.assert_close(actual, expected)


def test_the_loss_is_the_mean_over_the_lengths_and_differentiable() -> None:
    torch.manual_seed(0)
    batch = random_batch(12, 4)
    query = F.normalize(torch.randn(4, 8), dim=1).requires_grad_()
    rows = torch.randn(12, 8, requires_grad=True)
    settings = replace(SETTINGS, dim=8, prefixes=(4, 2))
    objective = OBJECTIVES["ranking"]

    loss = nested(objective, query, rows, batch, settings)

    parts = [objective(query, rows, batch, settings)] + [
        objective(*shortened(query, rows, p), batch, settings) for p in (4, 2)
    ]
    torch.testing.assert_close(loss, torch.stack(parts).mean())
    grads = torch.autograd.grad(loss, (query, rows))
    step = 1e-3
    with torch.no_grad():
        for place in ((0, 0), (3, 5), (7, 7)):
            moved = rows.clone()
            moved[place] += step
            up = nested(objective, query, moved, batch, settings)
            moved[place] -= 2 * step
            down = nested(objective, query, moved, batch, settings)
            slope = float(up - down) / (2 * step)
            assert slope == pytest.approx(float(grads[1][place]), abs=2e-3)


def test_nested_training_makes_the_prefix_rank_like_the_whole() -> None:
    plain = overlap(*fitted(SETTINGS), 4)
    trained = overlap(*fitted(replace(SETTINGS, prefixes=(8, 4))), 4)

    assert trained > plain + 0.1


@pytest.mark.parametrize("content", [False, True])
def test_a_rotation_keeps_every_score_and_puts_the_most_first(content: bool) -> None:
    towers, rows = fitted(replace(SETTINGS, id_dropout=0.2), content=content)
    query, items = vectors(towers, rows)
    before = overlap(towers, rows, 4)

    assert rotate(towers, rows)

    after_query, after_items = vectors(towers, rows)
    torch.testing.assert_close(after_query @ after_items.T, query @ items.T)
    assert overlap(towers, rows, 4) > before
    first = [float((v[:, :4].square()).sum(1).mean()) for v in (query, items)]
    after = [
        float((v[:, :4].square()).sum(1).mean()) for v in (after_query, after_items)
    ]
    assert sum(after) > sum(first)


def test_a_query_tower_that_is_no_mean_is_left_alone() -> None:
    class Other(torch.nn.Module):
        pass

    towers, rows = fitted(SETTINGS, epochs=1)
    towers.taste = Other()  # type: ignore[assignment]

    assert not rotate(towers, rows)


def test_the_prefixes_of_the_configuration() -> None:
    toml = {
        "items": {"sql": "select 1"},
        "interactions": {"sql": "select 1"},
        "train": {"dim": 64, "prefixes": [32, 16]},
    }
    model = config.from_mapping({"model": {"shop": toml}}).model("shop")

    assert model.train.prefixes == (32, 16)
    assert config.model_from_dict(model.to_dict()) == model
    assert fitting((16, 64, 32, 16), 64) == (32, 16)
    toml["train"] = {"dim": 64, "prefixes": [128]}
    with pytest.raises(ConfigError, match="prefixes"):
        config.from_mapping({"model": {"shop": toml}})


def test_dims_name_the_vectors_the_prefixes_and_the_index() -> None:
    model = make_config()

    changed = pipeline._overridden(model, None, None, (64, 32, 16))

    assert (changed.train.dim, changed.train.prefixes) == (64, (32, 16))
    assert changed.index.prefix == 16
    assert pipeline._overridden(model, None, None, ()) == model
    with pytest.raises(ConfigError, match=r"--dims 5000: .* train\.dim"):
        pipeline._overridden(model, None, None, (5000,))
    with pytest.raises(ConfigError, match=r"--dims 64,0: .* lengths from 1"):
        pipeline._overridden(model, None, None, (64, 0))


@pytest.mark.parametrize("dims", [(16, 64, 32), (64, 64), (64, 32, 32)])
def test_dims_that_do_not_fall_are_refused(dims: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="does not fall") as caught:
        pipeline._overridden(make_config(), None, None, dims)

    falling = ",".join(map(str, sorted(set(dims), reverse=True)))
    assert f"--dims {falling}." in caught.value.hint
    assert FAST.prefixes == ()
