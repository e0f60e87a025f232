"""Ward clusters against scipy, and the medoids of a history."""

import numpy as np
import pytest

from recsys._clusters import MOST_ITEMS, interests, ward

DAY = 86_400.0


def blobs(sizes, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), 6)) * 5
    pairs = zip(centres, sizes, strict=True)
    return np.concatenate([c + rng.normal(size=(n, 6)) for c, n in pairs])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_ward_is_scipys(count, seed):
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    points = np.random.default_rng(seed).normal(size=(40, 5))

    found = ward(points, count)

    tree = hierarchy.linkage(points, "ward")
    expected = hierarchy.fcluster(tree, count, "maxclust")
    pairs = set(zip(found.tolist(), expected.tolist(), strict=True))
    assert len(pairs) == count == len(set(found.tolist()))


def test_separate_tastes_are_separate_clusters():
    label = ward(blobs([10, 5, 20]), 3)

    assert [len(set(label[part])) for part in (slice(10), slice(10, 15), slice(15, 35))]
    assert label[0] == 0
    assert len({label[0], label[10], label[15]}) == 3


def test_an_interest_is_an_item_of_the_history_and_the_weightiest_comes_first():
    vectors = np.concatenate([blobs([4, 8]), np.full((12, 1), 0.3)], 1)
    unit = vectors[:, :-1] / np.linalg.norm(vectors[:, :-1], axis=1, keepdims=True)
    weights = [10.0] * 4 + [1.0] * 8

    found = interests(vectors, weights, None, 2)

    assert found.shape == (2, 7)
    assert (found[:, -1] == 1).all()
    near = [int((unit @ query[:-1]).argmax()) for query in found]
    assert near[0] < 4 <= near[1]
    np.testing.assert_allclose(found[:, :-1], unit[near], atol=1e-6)


def test_old_interests_weigh_less():
    vectors = np.concatenate([blobs([4, 6]), np.zeros((10, 1))], 1)
    ages = [400 * DAY] * 4 + [DAY] * 6

    recent_first = interests(vectors[::-1], [1.0] * 10, ages[::-1], 2)
    old_first = interests(vectors, [1.0] * 10, [DAY] * 4 + [400 * DAY] * 6, 2)

    assert not np.allclose(recent_first[0], old_first[0])


def test_few_and_equal_items_give_as_many_interests_as_there_are():
    same = np.ones((3, 5))

    assert interests(same[:1], [1.0], None, 4).shape == (1, 5)
    assert interests(same, [1.0] * 3, [-1.0] * 3, 2).shape == (2, 5)
    many = np.random.default_rng(0).normal(size=(500, 5))
    assert interests(many, [1.0] * 500, None, 5).shape == (5, 5)
    assert MOST_ITEMS < 500
