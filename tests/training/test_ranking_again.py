"""Re-ranking by single items: its formula, when it is chosen, and that it is kept."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from parents import parent_of
from toys import checkerboard, make_config

from recsys import _rerank
from recsys._query_config import QueryConfig
from recsys._rerank import LEAST_MEAN
from recsys.config import ModelConfig
from recsys.popularity import DAY_S
from recsys.progress import SILENT
from recsys.training.choice import Choice, choose
from recsys.training.dataset import Dataset
from recsys.training.evaluation import Judge, item_vectors
from recsys.training.full.update import train_full
from recsys.training.lean import no_lean
from recsys.training.loop import fit
from recsys.training.metrics import ranking_metrics
from recsys.training.ragged import join
from recsys.training.rerank import TEMPERATURES, Reranking, best_of, closeness
from recsys.training.rows import query_rows
from recsys.training.settings import settings_of
from recsys.training.split import split
from recsys.training.svd import first_rows
from recsys.training.trainer import train

CONFIG = make_config()


def tastes(users: int = 400, seed: int = 0) -> Dataset:
    """Each user has three of 40 tastes: more than 8 dimensions keep apart."""
    rng = np.random.default_rng(seed)
    pairs = [
        (user, 5 * int(taste) + int(item))
        for user in range(users)
        for taste in rng.choice(40, 3, replace=False)
        for item in rng.permutation(5)[:4]
    ]
    config = replace(CONFIG, train=replace(CONFIG.train, dim=8))
    return Dataset.from_arrays(config, *map(list, zip(*pairs, strict=True)))


def short(**query: float) -> ModelConfig:
    made = replace(CONFIG.train, dim=8, epochs=12)
    return replace(CONFIG, train=made, query=QueryConfig(**query))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_a_request_adds_what_the_validation_slice_was_ranked_with(
    temperature: float,
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 8, generator=generator)
    served = torch.nn.functional.normalize(torch.randn(30, 8, generator=generator))
    weights = [torch.rand(n, generator=generator) + 0.1 for n in (0, 1, 2, 9)]
    lists = [(torch.randperm(30, generator=generator)[: len(w)], w) for w in weights]
    place = torch.stack([torch.randperm(30, generator=generator) for _ in lists])
    config = replace(CONFIG, query=QueryConfig(rerank=temperature))

    found = closeness(rows, join(lists), served, place).bonus(temperature)

    for row, (items, weight) in enumerate(lists):
        again = _rerank.of(config, rows[items].numpy(), weight.tolist())
        if len(items) < 2:
            assert again is None
            assert found[row].tolist() == pytest.approx([0] * 30, abs=1e-6)
            continue
        assert again is not None
        expected = again.bonus(served[place[row]].numpy())
        assert found[row].numpy() == pytest.approx(expected, abs=1e-5)
        assert expected.min() >= 0
        assert expected.max() > 0.01


def test_rows_that_nearly_cancel_out_are_no_louder() -> None:
    row = torch.tensor([[1.0, 2.0], [-0.999, -1.998], [0.0, 0.0]])
    history = join(
        [(torch.tensor([0, 1]), torch.ones(2)), (torch.tensor([2, 2]), torch.ones(2))]
    )
    served = torch.nn.functional.normalize(row, dim=1)

    bonus = closeness(row, history, served, torch.arange(3).repeat(2, 1)).bonus(0.1)

    config = replace(CONFIG, query=QueryConfig(rerank=0.1))
    again = _rerank.of(config, row[:2].numpy(), [1.0, 1.0])
    assert again is not None
    assert bonus[0].numpy() == pytest.approx(again.bonus(served.numpy()), abs=1e-4)
    assert 3 < bonus[0].max() <= 1 / LEAST_MEAN
    # Rows of no length say nothing.
    assert bonus[1].tolist() == [0.0, 0.0, 0.0]
    assert _rerank.of(config, np.zeros((2, 2), np.float32), [1.0, 1.0]) is None


def test_products_far_apart_stay_finite() -> None:
    rows = np.array([[1000.0, 0.0], [-999.9, 0.0]], np.float32)
    config = replace(CONFIG, query=QueryConfig(rerank=0.1))

    again = _rerank.of(config, rows, [1.0, 1e-6])

    assert again is not None
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(again.bonus(np.eye(2, dtype=np.float32))).all()


def test_lists_of_no_temperature_are_those_of_the_mean() -> None:
    dataset = tastes()
    cut = split(dataset, 0.1, 0)
    rows = query_rows(dataset, cut.train, cut.end, 32)
    settings = settings_of(short(), 0.15, 0.3)
    towers = fit(dataset, rows, settings, 3, 0, first_rows(rows, 8, 0))
    judge, bias = Judge(dataset, rows, cut, 0), 0.1 * rows.pop.log()
    lean = no_lean(item_vectors(towers, rows).served)

    none, some = judge.rerank(towers, bias, lean, (0.0, 0.7))

    assert np.array_equal(none, judge.lean(towers, bias, [lean])[0])
    assert not np.array_equal(none, some)
    assert (np.sort(some, axis=1)[:, 1:] != np.sort(some, axis=1)[:, :-1]).all()


def test_it_is_chosen_where_it_is_better_and_reported_as_it_is_served() -> None:
    dataset = tastes()

    chosen = choose(dataset, short(), SILENT)
    without = choose(dataset, short(rerank=0.0), SILENT)

    assert chosen.rerank.temperature in TEMPERATURES
    assert chosen.rerank.scores.keys() == {"0", "1", "0.7"}
    assert without.rerank == Reranking()
    better = chosen.validation["model"]["recall@20"]
    assert better > 1.03 * without.validation["model"]["recall@20"]
    assert chosen.samples != without.samples
    # The same fits, whatever becomes of their candidates.
    losses = [[row["train_loss"] for row in c.curves] for c in (chosen, without)]
    assert losses[0] == losses[1]


def test_it_is_left_out_where_it_is_no_better() -> None:
    users, items = checkerboard()
    dataset = Dataset.from_arrays(CONFIG, users, items)

    found = choose(dataset, CONFIG, SILENT).rerank

    assert found.temperature == 0
    assert max(found.scores.values()) <= 1.03 * found.scores["0"]


@pytest.mark.parametrize(("best", "taken"), [(1.029, 0.0), (1.031, 1.0)])
def test_it_must_be_clearly_better(best: float, taken: float) -> None:
    assert best_of({0.0: 1.0, 1.0: best, 0.7: 0.9}).temperature == taken


def test_a_fixed_temperature_is_published_whatever_the_slice_says() -> None:
    users, items = checkerboard()
    config = replace(CONFIG, query=QueryConfig(rerank=2.5))
    dataset = Dataset.from_arrays(config, users, items)

    model = train(dataset, config)

    assert (model.query.encoder, model.query.rerank) == ("mean", 2.5)
    assert model.report["settings"]["rerank"] == 2.5
    assert model.report["rerank"]["temperature"] == 2.5
    assert model.report["rerank"]["scores"].keys() == {"0", "2.5"}


def test_a_fixed_temperature_needs_the_mean_whatever_else_could_be_tried() -> None:
    users, items = checkerboard()
    times = 1e9 + DAY_S * np.random.default_rng(0).random(len(users))
    config = replace(CONFIG, train=replace(CONFIG.train, epochs=4))
    dataset = Dataset.from_arrays(config, users, items, times=times)

    tried = [
        {row["encoder"] for row in choose(dataset, each, SILENT).curves}
        for each in (config, replace(config, query=QueryConfig(rerank=1.0)))
    ]

    assert tried == [{"mean", "decay", "transformer"}, {"mean"}]


def test_a_fixed_temperature_needs_nobody_to_be_validated_on() -> None:
    config = replace(CONFIG, query=QueryConfig(rerank=2.5))
    dataset = Dataset.from_arrays(config, [0, 1, 2], [0, 1, 2])

    assert choose(dataset, config, SILENT).rerank == Reranking(2.5)


def test_some_of_the_users_keep_what_they_chose() -> None:
    dataset = tastes()
    cut = split(dataset, 0.1, 0)
    rows = query_rows(dataset, cut.train, cut.end, 32)
    towers = fit(
        dataset, rows, settings_of(short(), 0.15, 0.3), 1, 0, first_rows(rows, 8, 0)
    )
    judge, bias = Judge(dataset, rows, cut, 0), torch.zeros(len(rows.items))
    every = judge.rank(towers, bias.unsqueeze(0))[0]
    step = -(-judge.users // 90)

    some = judge.some(90)

    ranked = some.rank(towers, bias.unsqueeze(0))[0]
    assert some.users == len(range(0, judge.users, step)) <= 90
    assert np.array_equal(ranked, every[::step])
    expected = ranking_metrics(every[::step], judge.relevant[::step], 20)
    assert some.metrics(ranked) == expected
    assert judge.some(judge.users) is judge


@pytest.mark.parametrize("interests", [1, 3])
def test_several_queries_are_never_ranked_again(interests: int) -> None:
    config = short(interests=interests)

    found = choose(tastes(), config, SILENT).rerank

    assert (found.temperature > 0) == (interests == 1)


def test_a_choice_that_was_kept_goes_on_with_it() -> None:
    config = short()
    choice = choose(tastes(200), config, SILENT)
    again = Reranking(0.7, {"0": 0.5, "0.7": 0.6})
    kept = json.loads(json.dumps(replace(choice, rerank=again).to_dict()))

    assert Choice.from_dict(kept, config).rerank == again
    # Kept before there was any.
    del kept["rerank"]
    assert Choice.from_dict(kept, config).rerank == Reranking()


def test_a_full_update_keeps_that_of_its_parent() -> None:
    users, items = checkerboard()
    times = 1e9 + DAY_S * np.random.default_rng(0).random(len(users))
    config = replace(CONFIG, train=replace(CONFIG.train, dim=8, epochs=3))
    dataset = Dataset.from_arrays(config, users, items, times=times)
    before = dataset.only(times < 1e9 + 0.8 * DAY_S)
    first = train(before, replace(config, query=QueryConfig(rerank=0.7)))
    assert first.query.rerank == 0.7
    parent = parent_of(config, first, 1e9 + 0.8 * DAY_S)
    parent = replace(parent, query=first.query)

    kept = train_full(dataset, config, parent)
    ended = train_full(dataset, replace(config, query=QueryConfig(rerank=0.0)), parent)
    old = replace(parent, query=replace(parent.query, rerank=-1.0))
    never = train_full(dataset, config, old)

    assert [m.query.rerank for m in (kept, ended, never)] == [0.7, 0, 0]
    # What is reported is what is served.
    told = [m.report["samples"] for m in (kept, ended, never)]
    assert told[0] != told[1] == told[2]
    for model in (kept, ended):
        step = model.report["full"]["step"]
        tried = {row["step"]: row["ndcg@20"] for row in model.report["full"]["tried"]}
        assert model.report["validation"]["model"]["ndcg@20"] == tried[step]
    parents = [m.report["validation"]["parent"] for m in (kept, ended)]
    assert parents[0] != parents[1]
    assert kept.report["settings"]["rerank"] == 0.7
    assert asdict(kept.query) == asdict(first.query)
