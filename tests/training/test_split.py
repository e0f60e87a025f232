from __future__ import annotations

import numpy as np
from toys import checkerboard, make_config

from recsys.config import Interactions
from recsys.training.dataset import Dataset
from recsys.training.rows import query_rows
from recsys.training.split import split


def test_by_time_nothing_to_learn_from_is_later_than_the_cut() -> None:
    rng = np.random.default_rng(0)
    users, items = checkerboard()
    times = rng.random(len(users)) * 1e6
    dataset = Dataset.from_arrays(make_config(), users, items, times=times)

    cut = split(dataset, 0.2, seed=0)

    assert cut.by_time
    assert cut.end is not None
    assert dataset.time[cut.train].max() < cut.end
    assert abs(cut.train.mean() - 0.8) < 0.01
    for user, relevant in zip(cut.users, cut.relevant, strict=True):
        mine = dataset.user == user
        assert not np.isin(relevant, dataset.item[mine & cut.train]).any()
        assert (dataset.time[mine & np.isin(dataset.item, relevant)] >= cut.end).all()


def test_a_repeat_of_something_bought_before_is_no_hit() -> None:
    users = [1, 1, 2, 2, 1, 2]
    items = [10, 11, 10, 12, 10, 11]
    times = [1.0, 2.0, 3.0, 4.0, 9.0, 10.0]
    dataset = Dataset.from_arrays(make_config(), users, items, times=times)

    cut = split(dataset, 0.4, seed=0)

    assert [dataset.user_ids[u] for u in cut.users] == [2]
    assert [dataset.item_ids[i] for i in cut.relevant[0]] == [11]


def test_without_times_a_share_of_each_user_is_held_out() -> None:
    users, items = checkerboard()
    dataset = Dataset.from_arrays(make_config(), users, items)

    cut = split(dataset, 0.2, seed=1)
    again = split(dataset, 0.2, seed=1)

    assert not cut.by_time
    assert abs(cut.train.mean() - 0.8) < 0.05
    assert np.array_equal(cut.train, again.train)
    assert len(np.unique(dataset.user[cut.train])) == len(dataset.user_ids)


def test_equal_times_fall_back_to_a_random_share() -> None:
    users, items = checkerboard()
    times = [5.0] * len(users)
    dataset = Dataset.from_arrays(make_config(), users, items, times=times)

    assert not split(dataset, 0.2, seed=0).by_time


def test_kinds_that_are_no_target_are_no_hits() -> None:
    interactions = Interactions("x", {"view": 1.0, "buy": 3.0}, targets=("buy",))
    users = [1, 1, 2, 2, 2, 1, 1]
    items = [10, 11, 10, 12, 13, 12, 13]
    times = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 10.0]
    kinds = ["view"] * 5 + ["buy", "view"]
    config = make_config(interactions=interactions)
    dataset = Dataset.from_arrays(config, users, items, times=times, kinds=kinds)

    cut = split(dataset, 0.28, seed=0)

    assert [dataset.item_ids[i] for i in cut.relevant[0]] == [12]


def test_weight_zero_is_seen_but_neither_positive_nor_history() -> None:
    interactions = Interactions("x", {"like": 2.0, "skip": 0.0})
    config = make_config(interactions=interactions)
    dataset = Dataset.from_arrays(
        config, [1, 1, 2, 2], [10, 11, 11, 12], kinds=["like", "skip", "like", "like"]
    )

    rows = query_rows(dataset, np.ones(4, bool), None, history=5)

    first = rows.history.take(rows.user[:1])
    assert [dataset.item_ids[i] for i in rows.items[first.values.numpy()]] == [10]
    assert first.weight is not None
    assert first.weight.tolist() == [2.0]
    assert len(rows.targets.take(rows.user[:1]).values) == 1
    assert len(rows.seen.take(rows.user[:1]).values) == 2


def test_history_is_the_latest_items_first_and_capped() -> None:
    users, items = [1] * 5, [10, 11, 12, 13, 10]
    times = [5.0, 3.0, 4.0, np.nan, 9.0]
    dataset = Dataset.from_arrays(make_config(), users, items, times=times)

    rows = query_rows(dataset, np.ones(5, bool), 9.0, history=3)

    found = [dataset.item_ids[i] for i in rows.items[rows.history.values.numpy()]]
    assert found == [10, 12, 11]
    assert len(rows.targets.values) == 4
