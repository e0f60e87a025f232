from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import checkerboard, make_config

from recsys.training.companions import Companions, closest
from recsys.training.dataset import Dataset
from recsys.training.device import resolve
from recsys.training.lean import STRENGTHS
from recsys.training.loop import fit
from recsys.training.rows import QueryRows, query_rows
from recsys.training.sampler import Sampler, UserRows
from recsys.training.settings import Settings
from recsys.training.svd import first_rows
from recsys.training.trainer import train as train_model

SETTINGS = Settings(8, 0.15, 0.3, 0.5, 6e-3, 32, 16, 0.0, companions=0.5)


def rows_of(users: list[int], items: list[int]) -> tuple[Dataset, QueryRows]:
    dataset = Dataset.from_arrays(make_config(), users, items)
    every = np.ones(len(dataset), bool)
    return dataset, query_rows(dataset, every, None, history=32)


def test_companions_are_the_greatest_entries_of_the_normalised_product() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random((50, 30)) < 0.2
    dense[0] = True  # every item occurs
    users, items = np.nonzero(dense)
    dataset, rows = rows_of(users.tolist(), items.tolist())

    found = closest(rows, most=4)

    order = [dataset.item_ids[item] for item in rows.items]
    matrix = dense[:, order].astype(float)
    scaled = matrix / np.sqrt(np.outer(matrix.sum(1), matrix.sum(0)))
    close = scaled.T @ scaled
    np.fill_diagonal(close, 0)
    best = -np.sort(-close, axis=1)[:, :4]
    taken = np.take_along_axis(close, found.item.numpy(), 1)
    np.testing.assert_allclose(taken, best, rtol=1e-4)
    share = np.cumsum(best, 1) / best.sum(1, keepdims=True)
    np.testing.assert_allclose(found.share, share, rtol=1e-4)


def test_draws_follow_the_shares() -> None:
    near = Companions(
        torch.tensor([[1, 2], [0, 2], [2, 2]]),
        torch.tensor([[0.25, 1.0], [0.5, 1.0], [1.0, 1.0]]),
    )
    items = torch.tensor([0, 0, 1, 1, 2])

    drawn = near.draw(items, torch.tensor([0.2, 0.3, 0.49, 0.5, 0.99]))

    assert drawn.tolist() == [1, 2, 0, 2, 2]


def test_an_item_chosen_alone_is_its_own_companion() -> None:
    _, rows = rows_of([0, 1, 1, 2, 2], [7, 8, 9, 8, 9])

    found = closest(rows, most=2)

    alone = int(np.flatnonzero(rows.pop == 1)[0])
    assert found.item[alone].tolist() == [alone, alone]
    assert found.share[:, -1].tolist() == [1, 1, 1]


def test_a_step_has_each_positive_and_a_lighter_companion() -> None:
    dataset, rows = rows_of(*checkerboard())
    near = closest(rows)
    generator = torch.Generator().manual_seed(0)
    sampler = Sampler(
        UserRows(rows), rows, SETTINGS, resolve(), generator, content=False, near=near
    )
    chosen = torch.tensor([3, 0, 5])

    batch = sampler.step(chosen).batch

    targets = rows.targets.take(chosen)
    assert torch.equal(batch.positives[::2], targets.values)
    assert torch.equal(batch.weight[::2], 2 * batch.weight[1::2])
    assert torch.equal(batch.owner, targets.owner.repeat_interleave(2))
    assert batch.owner[batch.start].tolist() == [0, 1, 2]
    # Even users choose even items: so do their companions.
    known = np.array([dataset.item_ids[i] for i in rows.items])
    parity = known[batch.positives] % 2
    assert (parity[::2] == parity[1::2]).all()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_companions_change_a_fit_and_the_same_seed_repeats_it(share: float) -> None:
    dataset, rows = rows_of(*checkerboard())
    settings = replace(SETTINGS, companions=share)
    start = first_rows(rows, 8, 0)

    once = fit(dataset, rows, settings, 1, 0, start)
    again = fit(dataset, rows, settings, 1, 0, start, near=closest(rows))
    without = fit(dataset, rows, replace(settings, companions=0.0), 1, 0, start)

    assert torch.equal(once.served, again.served)
    assert torch.equal(once.served, without.served) == (share == 0)


def test_a_choice_tries_companions_and_says_what_it_took() -> None:
    train = replace(make_config().train, epochs=2, companions=-1.0)
    config = make_config(train=train)
    users, items = checkerboard()

    report = train_model(Dataset.from_arrays(config, users, items), config).report

    tried = {row["companions"] for row in report["curves"] if "companions" in row}
    assert tried == {0.0, 0.5}
    assert report["settings"]["companions"] in tried
    assert report["settings"]["lean"] in (0.0, *STRENGTHS)


def test_what_a_query_should_find_is_not_among_its_negatives() -> None:
    _, rows = rows_of(*checkerboard())
    generator = torch.Generator().manual_seed(0)
    sampler = Sampler(
        UserRows(rows), rows, replace(SETTINGS, negatives=40), resolve(), generator,
        content=False, near=closest(rows),
    )  # fmt: skip

    batch = sampler.step(torch.tensor([3, 0, 5])).batch

    masked = set(zip(batch.seen_query.tolist(), batch.seen_place.tolist(), strict=True))
    place = {item: at for at, item in enumerate(batch.negatives.tolist())}
    wanted = zip(batch.owner.tolist(), batch.positives.tolist(), strict=True)
    assert {(query, place[item]) for query, item in wanted} <= masked
