"""Metrics of parts, on an example small enough to do by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.segments import Judged, gini, item_parts, slices


def arrays(*lists: list[int]) -> list[np.ndarray]:
    return [np.array(some, np.int64) for some in lists]


POPULARITY = np.array([50.0, 20.0, 10.0, 10.0, 6.0, 4.0])
JUDGED = Judged(
    # Users 0 and 1 are new, 2 is regular, 3 old.
    lists={"model": np.array([[0, 1], [0, 4], [5, -1], [2, 3]])},
    relevant=arrays([0, 4], [4], [0], [1]),
    history=np.array([1, 4, 5, 20]),
    taste=np.array([50.0, 10.0, np.nan, 20.0]),
    popularity=POPULARITY,
)


def test_the_head_has_half_of_the_pairs_and_the_torso_the_next_part() -> None:
    parts = {
        name: np.flatnonzero(x).tolist() for name, x in item_parts(POPULARITY).items()
    }

    assert parts == {"head items": [0], "torso items": [1, 2], "tail items": [3, 4, 5]}


def test_every_item_is_in_one_part_also_without_any_popularity() -> None:
    for popularity in (POPULARITY, np.zeros(4), np.array([3.0])):
        assert (sum(x.astype(int) for x in item_parts(popularity).values()) == 1).all()
    assert item_parts(np.zeros(2))["tail items"].all()


def test_users_are_parted_by_what_they_had() -> None:
    found = slices(JUDGED, 2)

    assert found["new users"]["model"]["recall@2"] == pytest.approx((0.5 + 1) / 2)
    assert found["new users"]["model"]["users"] == 2
    assert found["regular users"]["model"]["recall@2"] == 0
    assert found["old users"]["model"]["recall@2"] == 0


def test_items_are_parted_by_popularity_and_hits_count_there_alone() -> None:
    found = slices(JUDGED, 2)

    # Item 0 is wanted by users 0 (shown) and 2 (not); item 4 by users 0 (not) and 1.
    assert found["head items"]["model"]["recall@2"] == 0.5
    assert found["head items"]["model"]["users"] == 2
    assert found["tail items"]["model"]["recall@2"] == 0.5
    assert found["torso items"]["model"]["recall@2"] == 0


def test_what_lists_are_made_of() -> None:
    (spread,) = slices(JUDGED, 2)["lists"].values()

    assert spread["coverage@2"] == 1.0
    shown = [(50 + 20) / 2, (50 + 6) / 2, 10.0]  # user 2 had nothing to compare with
    assert spread["popularity_lift@2"] == pytest.approx(sum(shown) / 80 - 1)
    assert 0 < spread["gini@2"] < 1


def test_the_gini_coefficient_is_0_for_equal_and_near_1_for_one() -> None:
    assert gini(np.array([3, 3, 3])) == 0
    assert gini(np.array([0] * 99 + [5])) == pytest.approx(0.99)
    assert gini(np.zeros(4, np.int64)) == 0


def test_kinds_are_parted_when_there_are_several() -> None:
    kinds = {"cart": arrays([0], [], [0], []), "buy": arrays([4], [4], [], [1])}
    judged = Judged(
        JUDGED.lists, JUDGED.relevant, JUDGED.history, JUDGED.taste, POPULARITY, kinds
    )

    found = slices(judged, 2)

    assert found["kind cart"]["model"]["recall@2"] == 0.5
    assert found["kind buy"]["model"]["recall@2"] == pytest.approx(1 / 3)
