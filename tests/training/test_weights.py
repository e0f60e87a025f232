"""How value and age of an interaction weigh, and what odd values and times do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_trainer import scores
from toys import FAST, make_config

from recsys.config import Interactions
from recsys.errors import TrainingError
from recsys.popularity import DAY_S
from recsys.training.dataset import Dataset
from recsys.training.rows import query_rows
from recsys.training.trainer import train
from recsys.training.value import value_weights

NAN, INF = float("nan"), float("inf")


def test_linear_values_weigh_in_proportion_with_mean_one() -> None:
    weight = value_weights(np.array([1.0, 2.0, 3.0]), "linear", 100.0)

    assert weight.tolist() == pytest.approx([0.5, 1.0, 1.5])


def test_log_values_weigh_less_than_in_proportion_in_any_unit() -> None:
    euros = np.array([1.0, 10.0, 100.0])

    weight = value_weights(euros, "log", 1e6)

    assert 2 < weight[2] / weight[1] < 10
    assert weight.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(weight, value_weights(100 * euros, "log", 1e8))


def test_odd_values_have_a_rule() -> None:
    values = np.array([2.0, 4.0, NAN, -3.0, 0.0, INF, -INF])

    weight = value_weights(values, "linear", 4.0)

    # Unknown counts as the mean, nothing and refunds as nothing, infinity as the cap.
    mean = np.mean([2.0, 4.0, 4.0])
    expected = [2 / mean, 4 / mean, 1.0, 0.0, 0.0, 4 / mean, 0.0]
    assert weight.tolist() == pytest.approx(expected)


def test_without_any_value_all_count_alike() -> None:
    assert value_weights(np.array([NAN, NAN]), "log", 0.0).tolist() == [1.0, 1.0]


def test_one_absurd_value_does_not_silence_the_others() -> None:
    values = np.ones(1000)
    values[0] = 1e12

    assert value_weights(values, "linear", 0.0)[1:].min() > 0.9


def test_watch_time_can_be_the_target() -> None:
    """All of a board are opened; only the first half of the items is watched."""
    users, items, watched = [], [], []
    for user in range(100):
        for item in (0, 1 + user % 2, 3 + user % 5):
            users.append(user)
            items.append(item)
            watched.append(600.0 if item == 1 else 6.0)

    def gap(value: str) -> float:
        config = make_config(interactions=Interactions("x", value=value))
        dataset = Dataset.from_arrays(config, users, items, values=watched)
        found = scores(train(dataset, config), [0])
        return float(found[1] - found[2])

    assert gap("linear") > gap("")


def test_without_value_a_target_is_lost_and_the_history_stays() -> None:
    config = make_config(interactions=Interactions("x", value="linear"))
    values = [1.0, 0.0, 1.0, -5.0]
    dataset = Dataset.from_arrays(config, [0, 0, 1, 1], [1, 2, 1, 2], values=values)

    rows = query_rows(dataset, np.ones(4, bool), None, 8)

    assert [rows.targets.entries(user)[0].tolist() for user in (0, 1)] == [[0], [0]]
    assert [len(rows.history.entries(user)[0]) for user in (0, 1)] == [2, 2]
    assert rows.seen.entries(0)[0].tolist() == [0, 1]


def test_a_model_of_users_who_lost_all_targets_is_finite() -> None:
    config = make_config(
        interactions=Interactions("x", value="linear"), train=replace(FAST, epochs=2)
    )
    dataset = Dataset.from_arrays(
        config, [0, 1, 1, 2, 2], [1, 1, 2, 2, 3], values=[-1.0, 1, 1, 1, 1]
    )

    assert np.isfinite(train(dataset, config).id_served).all()


def test_no_value_above_zero_is_a_training_error() -> None:
    config = make_config(interactions=Interactions("x", value="log"))
    dataset = Dataset.from_arrays(config, [0, 1], [1, 2], values=[0.0, -1.0])

    with pytest.raises(TrainingError, match="value above 0"):
        query_rows(dataset, np.ones(2, bool), None, 8)


def test_an_interaction_of_half_life_age_weighs_half() -> None:
    end = 1e9
    times = [end, end - 10 * DAY_S, end - 20 * DAY_S, end - 10_000 * DAY_S, NAN]
    dataset = Dataset.from_arrays(make_config(), [0] * 5, [1, 2, 3, 4, 5], times=times)

    rows = query_rows(dataset, np.ones(5, bool), end, 8, half_life_s=10 * DAY_S)

    weight = rows.targets.entries(0)[1].numpy()
    assert weight[:3].tolist() == pytest.approx([1.0, 0.5, 0.25])
    assert 0 < weight[3] < 1e-3
    assert weight[4] == pytest.approx(weight[:4].mean())
    # A request knows no such weights: the history has those of the kinds.
    assert rows.history.entries(0)[1].tolist() == [1.0] * 5


def test_without_a_half_life_targets_are_the_taste(
    board: Callable[..., Dataset],
) -> None:
    dataset = board()
    rows = query_rows(dataset, np.ones(len(dataset), bool), None, 32)

    assert rows.targets.weight is not None
    assert (rows.targets.weight == 1).all()


def test_times_in_the_future_count_as_unknown() -> None:
    now = 1e9
    times = [now - 5 * DAY_S, now + 3600, now + 400 * DAY_S, NAN]
    dataset = Dataset.from_arrays(
        make_config(), [0, 1, 2, 3], [1, 2, 3, 4], times=times, now=now
    )

    rows = query_rows(dataset, np.ones(4, bool), dataset.until, 8)

    assert (dataset.future, dataset.untimed) == (1, 1)
    assert dataset.until == now + 3600  # clocks differ by an hour; not by a year
    assert rows.decayed is not None
    assert (rows.decayed[:, :2] > 0.5).any(0).all()
    assert rows.decayed[:, 2:].max() < 1e-6
    assert rows.pop.tolist() == [1, 1, 1, 1]
