"""Learning from order: nothing knows its future, and order is used where it helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys._query_config import QueryConfig
from recsys._tower import ItemTower, QueryTower
from recsys.config import from_mapping
from recsys.errors import TrainingError
from recsys.training.choice import choose
from recsys.training.dataset import Dataset
from recsys.training.device import resolve
from recsys.training.encoders import sequential
from recsys.training.query import DROP, taste_of
from recsys.training.rows import query_rows
from recsys.training.sampler import SESSIONS, Sampler
from recsys.training.settings import settings_of
from recsys.training.trainer import train
from recsys.training.windows import SequenceRows, sequence_rows, sequences

ITEMS = 30
DAY = 86_400.0


def config(**query):
    train = {"dim": 16, "epochs": 4, "tau": 0.1, "dropout": 0.1, "batch": 32}
    model = {
        "items": {"sql": "select 1"},
        "interactions": {"sql": "select 1", "weights": {"view": 1, "buy": 3}},
        "train": {**train, "history": 30},
        "query": {"length": 10, **query},
    }
    return from_mapping({"model": {"m": model}}).model("m")


def chains(users=120, length=8, *, timed=True):
    """What a user takes next follows from what was taken last, and from nothing else.

    Every item leads to another one by a fixed permutation; chains start anywhere.
    """
    rng = np.random.default_rng(0)
    after = rng.permutation(ITEMS)
    rows = []
    for user in range(users):
        item = int(rng.integers(ITEMS))
        time = 1e9 + 1e6 * rng.random()
        for _ in range(length):
            time += rng.exponential(DAY)
            rows.append((user, item, time, ("view", "buy")[int(rng.integers(2))]))
            item = int(after[item])
    users_, items, times, kinds = zip(*rows, strict=True)
    dataset = Dataset.from_arrays(
        config(), list(users_), list(items), times=times if timed else None, kinds=kinds
    )
    return dataset, after


def test_no_query_knows_its_future():
    rng = np.random.default_rng(1)
    n = 3_000
    users, items = rng.integers(40, size=n), rng.integers(60, size=n)
    times = 1e9 + rng.integers(900, size=n) * 3600.0  # many at once, many repeats
    times[:50] = np.nan
    dataset = Dataset.from_arrays(
        config(), users, items, times=times, kinds=["buy"] * n
    )
    keep = np.ones(n, np.bool_)
    rows = query_rows(dataset, keep, dataset.until, 30)
    events = sequences(dataset, keep, rows, ())
    source = SequenceRows(events, rows, 12)

    found = source.take(torch.arange(len(source)))

    time_of = {}
    for u, i, t in zip(dataset.user, dataset.item, dataset.time, strict=True):
        time_of.setdefault((int(u), int(i)), []).append(-1e18 if np.isnan(t) else t)
    history, asked = found.history, set()
    ages = history.age.numpy()
    for query, place in enumerate(found.places.tolist()):
        owner = int(history.owner[place])
        end = int(history.start[owner] + history.counts[owner])
        user = int(found.user[query])
        past = [int(rows.items[i]) for i in history.values[place:end].tolist()]
        wanted = found.targets.values[found.targets.owner == query]
        wanted = [int(rows.items[i]) for i in wanted.tolist()]
        first = {min(time_of[user, item]) for item in wanted}
        assert len(first) == 1
        moment = first.pop()
        assert past
        assert all(min(time_of[user, item]) < moment for item in past)
        assert (ages[place:end] >= -1).all()
        asked |= {(user, item) for item in wanted}
    # And nobody is asked twice, or left out: all but what came first.
    assert len(found.targets.values) == len(asked)
    start = {}
    for (user, _), times_ in time_of.items():
        start[user] = min(start.get(user, np.inf), *times_)
    expected = {
        pair for pair, times_ in time_of.items() if min(times_) > start[pair[0]]
    }
    assert asked == expected


def next_of(model, dataset, history):
    """The item that a session is recommended first."""
    item = ItemTower(model.item_tower, (), 16)
    vectors, past = item.encode(
        {}, ITEMS, model.id_served, model.id_history, np.zeros(ITEMS)
    )
    sequential = model.query.sequential
    query = QueryTower(model.query_tower, (), (), 16, sequential=sequential)
    place = [dataset.item_ids.index(i) for i in history]
    asked = query.encode_one(past[place], np.ones(len(place)))
    scores = vectors @ np.append(asked[:16], 0)
    scores[place] = -np.inf
    return dataset.item_ids[int(scores.argmax())]


@pytest.mark.parametrize("encoder", ["decay", "transformer"])
def test_an_encoder_of_sequences_learns_what_comes_next(encoder):
    dataset, after = chains()

    model = train(dataset, config(encoder=encoder))

    assert model.query.encoder == encoder
    assert model.query.kinds == ("buy", "view")
    assert max(model.report["parity"]["query_difference"], 0) < 1e-4
    hits = 0
    for start in range(ITEMS):
        history = [start]
        for _ in range(3):
            history.insert(0, int(after[history[0]]))
        hits += next_of(model, dataset, history) == after[history[0]]
    assert hits >= 0.5 * ITEMS  # by chance: 0.04


@pytest.mark.parametrize("encoder", ["attention", "transformer"])
def test_fits_of_one_seed_are_equal_bit_by_bit(encoder):
    dataset, _ = chains(60)
    settings = config(encoder=encoder)
    other = replace(settings, train=replace(settings.train, seed=1))

    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = train(dataset, settings)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's, not a fit's
    torch.manual_seed(2)
    again = train(dataset, settings)
    third = train(dataset, other)

    assert np.array_equal(one.id_served, again.id_served)
    assert np.array_equal(one.id_history, again.id_history)
    assert one.query_tower == again.query_tower
    assert not np.array_equal(one.id_served, third.id_served)


def sampler_of(dataset, model, seed=0):
    """The sampler of a fit of sequences, and its source."""
    every = np.ones(len(dataset), np.bool_)
    rows = query_rows(dataset, every, dataset.until, 30)
    settings = replace(settings_of(model, 0.1, 0.0), query=model.query)
    source = sequence_rows(dataset, rows, settings)
    generator = torch.Generator().manual_seed(seed)
    taste = taste_of(model.query, 16, source.most_recency, generator)
    sampler = Sampler(
        source, rows, settings, resolve("cpu"), generator, content=False,
        masks=(taste.masks, 16),
    )  # fmt: skip
    return sampler, source


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ({"encoder": "decay"}, 0),
        ({"encoder": "attention"}, 2),
        ({"encoder": "transformer", "layers": 3}, 7),
    ],
)
def test_dropout_leaves_out_its_share_of_every_place(query, places):
    sampler, source = sampler_of(chains(200)[0], config(**query))

    step = sampler.step(torch.arange(len(source)))

    if not places:
        assert step.masks is None
        return
    assert step.masks.shape == (len(step.history.values), places, 16)
    left = step.masks > 0
    assert torch.allclose(step.masks[left], torch.tensor(1 / (1 - DROP)))
    assert left.float().mean((0, 2)).numpy() == pytest.approx(1 - DROP, abs=0.02)


def test_a_share_of_the_windows_is_trained_as_a_session_is_served():
    sampler, source = sampler_of(chains(800)[0], config(encoder="transformer"))

    step = sampler.step(torch.arange(len(source)))

    start = step.history.start[step.history.counts > 0]
    session = step.history.age[start] == -1
    assert session.float().mean().item() == pytest.approx(SESSIONS, abs=0.05)
    inside = torch.isin(step.history.owner, step.history.owner[start[session]])
    assert (step.history.age[inside] == -1).all()
    assert (step.history.weight[inside] == 1).all()
    assert (step.history.weight[~inside] > 1).any()


def test_auto_takes_order_where_it_tells_and_the_mean_where_there_is_none():
    dataset, _ = chains()
    unordered, _ = chains(timed=False)

    told = choose(dataset, config(), _silent())
    untold = choose(unordered, config(), _silent())

    assert told.settings.query.sequential
    assert {row["encoder"] for row in told.curves} == {"mean", "decay", "transformer"}
    assert untold.settings.query == replace(config().query, encoder="mean")
    assert {row["encoder"] for row in untold.curves} == {"mean"}


@pytest.mark.parametrize(("dim", "heads"), [(25, 1), (27, 3), (64, 4)])
def test_auto_takes_as_many_heads_as_divide_the_dimensions(dim, heads):
    dataset, _ = chains(4)

    tried = sequential(config(heads=4).query, dataset, dim)

    assert [query.heads for query in tried] == [heads, heads]


def test_without_order_an_encoder_of_sequences_says_so():
    dataset, _ = chains(20, timed=False)

    with pytest.raises(TrainingError, match="no order to learn"):
        train(dataset, config(encoder="decay"))


def test_learned_interests_are_published_as_trained():
    dataset, _ = chains(80)

    model = train(dataset, config(interests=3, interests_from="learned"))

    tower = QueryTower(model.query_tower, (), (), 16)
    queries = tower.encode_one(model.id_history[:4], np.ones(4))
    assert queries.shape == (3, 17)
    assert np.linalg.matrix_rank(queries[:, :16] @ queries[:, :16].T, tol=1e-3) > 1
    assert model.query == QueryConfig(
        encoder="mean",
        length=10,
        interests=3,
        interests_from="learned",
        rerank=0.0,
    )


def _silent():
    from recsys.progress import SILENT

    return SILENT


def step_of_sequences(model, **arrays):
    """One user takes the items 0 to 3, one a day; what the windows then ask for."""
    users, items, times = [0, 0, 0, 0], [0, 1, 2, 3], [DAY * day for day in range(4)]
    for more in arrays.pop("more", []):
        users, items, times = (
            [*part, one] for part, one in zip((users, items, times), more, strict=True)
        )
    dataset = Dataset.from_arrays(model, users, items, times=times, **arrays)
    every = np.ones(len(dataset), np.bool_)
    rows = query_rows(dataset, every, dataset.until, 30)
    settings = settings_of(model, 0.1, 0.0)
    source = sequence_rows(dataset, rows, settings)
    return source.take(torch.arange(len(source)))


def worth_of(queries):
    targets = queries.targets
    return dict(zip(targets.values.tolist(), targets.weight.tolist(), strict=True))


def test_targets_in_order_weigh_by_value_and_age_as_others_do():
    model = config(encoder="decay")
    valued = replace(
        model,
        interactions=replace(model.interactions, weights={}, value="linear"),
    )
    aged = replace(
        model,
        interactions=replace(model.interactions, weights={}),
        train=replace(model.train, half_life_days=1.0),
    )

    by_value = worth_of(step_of_sequences(valued, values=[4.0, 2.0, 0.0, 4.0]))
    by_age = worth_of(step_of_sequences(aged))

    assert set(by_value) == {1, 3}  # a value of 0 is no target
    assert by_value[3] == pytest.approx(2 * by_value[1])
    assert by_age == pytest.approx({1: 0.25, 2: 0.5, 3: 1.0})


def test_what_was_refused_is_a_negative_of_every_place():
    model = config(encoder="decay")
    interactions = replace(
        model.interactions, weights={"buy": 1, "hide": 0}, dislikes=("hide",)
    )
    more = [(0, 4, 5 * DAY), (1, 4, 0.0), (1, 5, DAY)]

    queries = step_of_sequences(
        replace(model, interactions=interactions),
        kinds=["buy"] * 4 + ["hide", "buy", "buy"],
        more=more,
    )

    first = [q for q, user in enumerate(queries.user.tolist()) if user == 0]
    assert len(first) == 3
    assert queries.disliked.owner.tolist() == first
    assert queries.disliked.values.tolist() == [4, 4, 4]
    assert queries.shown is None
