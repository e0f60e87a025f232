"""The encoders of sequences: torch and ONNX agree, and no place sees what is newer."""

import numpy as np
import pytest
import torch

from recsys._query_config import QueryConfig
from recsys._tower import QueryTower
from recsys.encoder import FittedSide
from recsys.encoder.towers import query_tower
from recsys.training.model import array
from recsys.training.sequence import Past, SequenceEncoder

DIM, LENGTH, KINDS = 8, 12, 3
NONE = FittedSide()
ENCODERS = ["decay", "gated", "attention", "transformer"]
DAY = 86_400.0


def encoder(name):
    """An encoder whose every weight matters."""
    generator = torch.Generator().manual_seed(1)
    config = QueryConfig(encoder=name, length=LENGTH)
    made = SequenceEncoder(config, DIM, KINDS, 90 * DAY, generator).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made


def tower(made):
    default = np.linspace(-1, 1, DIM).astype(np.float32)
    weights = {name: array(value) for name, value in made.named().items()}
    weights["default_query"] = default
    return QueryTower(
        query_tower(DIM, NONE, NONE, weights), (), (), DIM, sequential=True
    )


def past_of(ages, kinds, weights):
    """Histories as torch sees them, from what the database returns."""
    ages = np.asarray(ages, np.float64)
    known = (ages >= 0) & (ages[:, :1] >= 0)
    gaps = np.where(known, ages - ages[:, :1], -1)
    pauses = np.where(known[:, 1:], np.diff(gaps, axis=1), -1)
    pauses = np.concatenate([ages[:, :1], pauses], 1)
    return Past(
        torch.tensor(weights, dtype=torch.float32),
        torch.tensor(gaps, dtype=torch.float32),
        torch.tensor(pauses, dtype=torch.float32),
        torch.tensor(kinds, dtype=torch.int64),
    )


def histories(length=LENGTH, count=6):
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(count, length, DIM)).astype(np.float32)
    ages = np.cumsum(rng.exponential(20 * DAY, size=(count, length)), axis=1)
    ages[1] = -1  # a session: nothing is known
    ages[2, length // 2 :] = -1
    ages[3] = ages[3, :1]  # all at once
    ages[4] += 1e9  # long ago
    kinds = rng.integers(KINDS + 1, size=(count, length))
    weights = rng.uniform(0.5, 5, size=(count, length)).astype(np.float32)
    return rows, ages, kinds, weights


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("length", [1, 2, 7, LENGTH])
def test_the_published_tower_is_the_trained_encoder(name, length):
    made = encoder(name)
    published = tower(made)
    rows, ages, kinds, weights = histories(length)

    with torch.no_grad():
        query = made(torch.tensor(rows), past_of(ages, kinds, weights))[:, 0]
    expected = torch.nn.functional.normalize(query, dim=1).numpy()
    found = published.encode(rows, weights, ages=ages, kinds=kinds)

    np.testing.assert_allclose(found[:, :DIM], expected, atol=2e-5)
    for i in range(len(rows)):
        one = published.encode_one(
            rows[i], weights[i], ages=ages[i].tolist(), kinds=kinds[i].tolist()
        )
        np.testing.assert_allclose(one, found[i], atol=2e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_empty_history_is_the_default_and_padding_changes_nothing(name):
    published = tower(encoder(name))
    rows, ages, kinds, weights = histories()
    short = published.encode(
        rows[:, :5], weights[:, :5], ages=ages[:, :5], kinds=kinds[:, :5]
    )
    weights[:, 5:] = 0
    rows[:, 5:] = 7

    default = np.linspace(-1, 1, DIM)
    empty = published.encode_one(np.empty((0, DIM)), np.empty(0), ages=[], kinds=[])
    long = published.encode(rows, weights, ages=ages, kinds=kinds)

    np.testing.assert_allclose(
        empty[:DIM], default / np.linalg.norm(default), atol=1e-6
    )
    np.testing.assert_allclose(long, short, atol=2e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_place_sees_what_is_older_alone(name):
    made = encoder(name)
    rows, ages, kinds, weights = histories()
    with torch.no_grad():
        every = made(torch.tensor(rows), past_of(ages, kinds, weights))

    for place in (1, 4, LENGTH - 1):
        # What the database would have returned at the moment of the next event.
        known = ages[:, :1] >= 0
        then = np.where(ages >= 0, ages - ages[:, place - 1 : place], -1)[:, place:]
        then = np.where(known & (ages[:, place - 1 : place] >= 0), then, -1)
        with torch.no_grad():
            alone = made(
                torch.tensor(rows[:, place:]),
                past_of(then, kinds[:, place:], weights[:, place:]),
            )[:, 0]
        same = [0, 1, 3, 4] if place > LENGTH // 2 else [0, 1, 2, 3, 4]
        np.testing.assert_allclose(every[same, place], alone[same], atol=5e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_of_an_item_taken_twice_a_place_sees_the_later_time(name):
    made = encoder(name)
    rows, ages, kinds, weights = histories(4)
    rows[0, 3] = rows[0, 1]  # taken at places 3 and 1
    past = past_of(ages[:1], kinds[:1], weights[:1])
    newer = torch.tensor([[-1, -1, -1, 1]])
    once = past_of(ages[:1, :3], kinds[:1, :3], weights[:1, :3])

    with torch.no_grad():
        every = made(
            torch.tensor(rows[:1]),
            Past(past.weights, past.gaps, past.pauses, past.kinds, newer),
        )
        without = made(torch.tensor(rows[:1, :3]), once)
        before = made(torch.tensor(rows[:1]), past)

    if name in ("decay", "gated"):  # one layer of attention: exactly
        np.testing.assert_allclose(every[0, :2], without[0, :2], atol=1e-5)
    np.testing.assert_allclose(every[0, 2:], before[0, 2:], atol=1e-5)
    assert not np.allclose(every[0, 0], before[0, 0], atol=1e-3)


def test_kinds_times_and_order_matter():
    published = tower(encoder("transformer"))
    rows, ages, kinds, weights = (part[0] for part in histories())

    def ask(rows=rows, ages=ages, kinds=kinds):
        return published.encode_one(rows, weights, ages=list(ages), kinds=list(kinds))

    base = ask()
    assert not np.allclose(ask(kinds=(kinds + 1) % KINDS), base, atol=1e-3)
    assert not np.allclose(ask(ages=ages * 30), base, atol=1e-3)
    assert not np.allclose(ask(rows=rows[::-1]), base, atol=1e-3)
    assert np.allclose(ask(ages=ages + 1e9), ask(ages=ages + 2e9), atol=1e-6)
