"""Where negatives come from, that each kind enters, and what is masked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_trainer import scores
from toys import FAST, BeforeTheSearch, make_config

from recsys.config import Interactions, ModelConfig, NegativesConfig
from recsys.training.choice.tried import first_settings
from recsys.training.dataset import Dataset, Shown
from recsys.training.device import resolve
from recsys.training.negatives import SharedSample
from recsys.training.rows import QueryRows, query_rows
from recsys.training.sampler import MOST_TARGETS, Sampler, UserRows
from recsys.training.settings import Settings, settings_of
from recsys.training.step import Step
from recsys.training.trainer import train

WEIGHTS = Interactions("x", {"buy": 1.0, "look": 0.0}, dislikes=("return",))


def shop(**changes: object) -> tuple[ModelConfig, Dataset]:
    """User u buys items 10u to 10u + 9 and has looked at the item behind them."""
    users, items, kinds = [], [], []
    for user in range(8):
        for item in range(10):
            users.append(user)
            items.append(10 * user + item)
            kinds.append("buy")
        users.append(user)
        items.append(10 * user + 10)
        kinds.append("look")
    users += [0, 0, 1]
    items += [50, 3, 60]  # returned: unloved, loved all the same, unloved
    kinds += ["return"] * 3
    values = {"interactions": WEIGHTS, **changes}
    config = make_config(train=replace(FAST, negatives=20, dropout=0.0), **values)
    ids = list(range(81))
    return config, Dataset.from_arrays(config, users, items, kinds=kinds, item_ids=ids)


def step_of(
    config: ModelConfig, dataset: Dataset, chosen: list[int] | None = None
) -> tuple[Step, QueryRows]:
    rows = query_rows(dataset, np.ones(len(dataset), bool), None, 32)
    device = resolve()
    sampler = Sampler(
        UserRows(rows),
        rows,
        first_settings(config),
        device,
        device.generator(0),
        content=False,
    )
    every = list(range(len(rows.users))) if chosen is None else chosen
    return sampler.step(torch.tensor(every)), rows


def own_of(step: Step, rows: QueryRows, user: int) -> set[int]:
    own = step.batch.own
    if own is None:
        return set()
    return set(rows.items[own.items[own.owner == user].numpy()].tolist())


@pytest.mark.parametrize(
    "mix",
    [
        NegativesConfig(),
        NegativesConfig(uniform=0, popular=1),
        NegativesConfig(uniform=0, in_batch=1),
    ],
    ids=["uniform", "popular", "in batch"],
)
def test_what_a_user_has_met_is_no_shared_negative(mix: NegativesConfig) -> None:
    config, dataset = shop(negatives=mix)
    config = replace(config, train=replace(config.train, negatives=70))

    step, rows = step_of(config, dataset)

    batch, masked = step.batch, 0
    pairs = set(zip(batch.seen_query.tolist(), batch.seen_place.tolist(), strict=True))
    for user in range(8):
        for place, item in enumerate(rows.items[batch.negatives.numpy()].tolist()):
            met = 10 * user <= item <= 10 * user + 10
            returned = (user, item) in {(0, 50), (1, 60)}
            assert ((user, place) in pairs) == (met or returned)
            masked += met
    assert masked > 20
    assert len(batch.negatives.unique()) == len(batch.negatives)


def test_in_batch_negatives_are_the_positives_of_others() -> None:
    config, dataset = shop(negatives=NegativesConfig(uniform=0, in_batch=1))

    step, rows = step_of(config, dataset, chosen=[2, 5])

    items = set(rows.items[step.batch.negatives.numpy()].tolist())
    assert items == {*range(20, 30), *range(50, 60)}


def mixed(mix: NegativesConfig, pop: torch.Tensor, count: int) -> SharedSample:
    settings: Settings = replace(
        settings_of(make_config(), 0.1, 0.5), negatives=count, sources=mix
    )
    return SharedSample(pop, settings, count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "mix",
    [
        NegativesConfig(),
        NegativesConfig(uniform=0, popular=1, alpha=1.0),
        NegativesConfig(uniform=0.3, popular=0.4, in_batch=0.3),
    ],
    ids=["uniform", "popular", "mixed"],
)
def test_logq_makes_every_mix_stand_for_the_whole_catalogue(
    mix: NegativesConfig,
) -> None:
    """Summed over the sample with its correction, any f comes out as over all items."""
    generator = torch.Generator().manual_seed(1)
    pop = torch.randint(1, 40, (300,), generator=generator).float()
    f = pop * torch.rand(300, generator=generator)  # far from even
    sample = mixed(mix, pop, 60)
    share = pop / pop.sum()

    sums = []
    for _ in range(400):
        positives = torch.multinomial(share, 50, replacement=True, generator=generator)
        items, correction = sample.draw(positives)
        weight = np.log(300 / len(items)) + (0 if correction is None else correction)
        sums.append(float((f[items] * torch.as_tensor(weight).exp()).sum()))

    assert np.mean(sums) == pytest.approx(float(f.sum()), rel=0.04)


def test_without_logq_popular_items_come_more_often_and_count_no_less() -> None:
    pop = torch.ones(100)
    pop[:10] = 50
    sample = mixed(NegativesConfig(uniform=0.5, popular=0.5, logq=False), pop, 20)

    found = [sample.draw(torch.empty(0, dtype=torch.long)) for _ in range(50)]

    assert all(correction is None for _, correction in found)
    often = torch.cat([items for items, _ in found])
    assert (often < 10).float().mean() > 0.25


def test_explicit_dislikes_are_negatives_of_their_user_and_never_taste() -> None:
    config, dataset = shop()

    step, rows = step_of(config, dataset)

    # Item 3 was returned but also bought: it stays what it is, a positive.
    assert own_of(step, rows, 0) == {50}
    assert own_of(step, rows, 1) == {60}
    assert own_of(step, rows, 2) == set()
    assert 50 not in rows.items[rows.history.entries(0)[0].numpy()]


def test_no_more_dislikes_than_declared() -> None:
    config, dataset = shop(negatives=NegativesConfig(disliked=0))

    step, rows = step_of(config, dataset)

    assert own_of(step, rows, 0) == set()


def test_shown_and_not_chosen_is_a_negative_unless_it_was_met() -> None:
    config, dataset = shop(negatives=NegativesConfig(shown=100))
    # User 2 was shown an own item, one looked at (weight 0), and two strangers.
    told = Shown(
        np.full(4, 2, np.int32),
        np.array([25, 30, 41, 42], np.int32),
        np.array([5.0, 5.0, 5.0, 50.0]),
    )
    dataset = replace(dataset, shown=told)

    step, rows = step_of(config, dataset)

    assert own_of(step, rows, 2) == {41, 42}


def test_what_is_shown_after_the_end_is_not_known_yet() -> None:
    _, dataset = shop(negatives=NegativesConfig(shown=100))
    told = Shown(
        np.full(2, 2, np.int32), np.array([41, 42], np.int32), np.array([5.0, 50.0])
    )
    dataset = replace(dataset, shown=told)

    rows = query_rows(dataset, np.ones(len(dataset), bool), 20.0, 32)

    assert rows.shown is not None
    assert rows.items[rows.shown.entries(2)[0].numpy()].tolist() == [41]


def test_neighbours_of_positives_are_negatives_unless_met() -> None:
    config, dataset = shop(negatives=NegativesConfig(neighbours=1000))
    near = np.full((81, 3), -1, np.int32)
    near[20:30, 0] = 29  # an own item of user 2
    near[20:30, 1] = 77  # a stranger
    dataset = replace(dataset, neighbours=near)

    step, rows = step_of(config, dataset)

    assert own_of(step, rows, 2) == {77}
    assert own_of(step, rows, 3) == set()


def test_what_everybody_refuses_is_ranked_lower() -> None:
    rng = np.random.default_rng(0)
    bought = [rng.choice(40, 8, replace=False).tolist() for _ in range(60)]
    refusing = [user for user in range(60) if 5 not in bought[user]]

    def rank(dislikes: bool) -> float:
        more = refusing if dislikes else []
        config = make_config(
            train=replace(FAST, negatives=20, epochs=20, lr=0.02),
            interactions=WEIGHTS,
            negatives=NegativesConfig(own_weight=10.0),
        )
        dataset = Dataset.from_arrays(
            config,
            [*np.repeat(np.arange(60), 8).tolist(), *more],
            [*np.concatenate(bought).tolist(), *[5] * len(more)],
            kinds=["buy"] * 480 + ["return"] * len(more),
        )
        model = train(dataset, config)
        five = list(model.item_ids).index(5)
        found = [scores(model, bought[user]) for user in refusing]
        return float(np.mean([(row > row[five]).sum() for row in found]))

    assert rank(dislikes=True) > rank(dislikes=False) + 5


def test_a_user_of_very_many_items_takes_part_with_a_bounded_number() -> None:
    many = 3 * MOST_TARGETS
    users = [0] * many + [1, 1]
    items = [*range(many), 0, 1]
    config = make_config()
    dataset = Dataset.from_arrays(config, users, items)

    step, _ = step_of(config, dataset)

    counts = torch.bincount(step.batch.owner)
    assert counts.tolist() == [MOST_TARGETS, 2]
    assert len(step.batch.positives.unique()) > MOST_TARGETS - 3
    assert step.history.counts.max() <= 32


MINED = NegativesConfig(shown=5, neighbours=3, disliked=8)


def test_what_each_source_gave_is_counted_in_the_report() -> None:
    config, dataset = shop(negatives=MINED)
    told = Shown(
        np.array([0, 0, 0, 1], np.int32),  # user 0 has bought item 3
        np.array([42, 43, 3, 42], np.int32),
        np.zeros(4),
    )
    near = np.full((81, 3), -1, np.int32)
    near[20:30, 0] = 77

    model = train(replace(dataset, shown=told, neighbours=near), config)

    # The third that was returned was bought all the same.
    assert model.report["mined"] == {"shown": 3, "neighbours": 10, "disliked": 2}


def test_a_source_that_gives_none_is_named_before_the_search(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, dataset = shop(negatives=MINED)
    some = dataset.only(dataset.kind != dataset.kinds.index("return"))
    before = BeforeTheSearch(caplog)

    model = train(some, config, progress=before)

    assert model.report["mined"] == {"shown": 0, "neighbours": 0, "disliked": 0}
    for name in (
        "negatives.shown finds nothing: no answer logged in the last 30 days",
        "negatives.neighbours finds nothing: no version is ready",
        "negatives.disliked finds nothing: nobody has refused",
    ):
        assert caplog.text.count(name) == 1
        assert name in before.text


def test_nothing_is_said_of_sources_that_nobody_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, dataset = shop(interactions=Interactions("x"))

    model = train(dataset, config)

    assert model.report["mined"] == {}
    assert "negatives." not in caplog.text
