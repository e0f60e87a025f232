"""What is learned from streamed columns."""

import json
import math
import sys

import numpy as np
import pytest

from recsys.config import Feature
from recsys.encoder import FittedSide, fit
from recsys.encoder.fit import _Learner
from recsys.errors import ConfigError


def batches(name, cells, size=2):
    return [{name: cells[i : i + size]} for i in range(0, len(cells), size)]


def test_vocabulary_is_ordered_by_count_then_value():
    brand = Feature("brand", "category")
    cells = ["b", "c", "a", None, "a", "b", "", "c", "c", "rare", " c "]

    fitted = fit([brand], batches("brand", cells))

    assert fitted.features[0].vocabulary == ("c", "a", "b")
    assert fitted.table_sizes == {"brand": 5}


def test_vocabulary_of_lists_counts_a_key_once_per_row():
    tags = Feature("tags", "categories", min_count=2)

    fitted = fit([tags], batches("tags", ["x\x1fx\x1fy", "y", None, ""]))

    assert fitted.features[0].vocabulary == ("y",)


def test_max_size_keeps_the_most_frequent():
    brand = Feature("brand", "category", min_count=1, max_size=2)

    fitted = fit([brand], batches("brand", ["a", "b", "b", "c", "c"]))

    assert fitted.features[0].vocabulary == ("b", "c")


@pytest.mark.parametrize("size", [1, 3, 100])
def test_moments_do_not_depend_on_the_batches(size):
    price = Feature("price", "number")
    cells = [1e9 + i for i in range(50)] + [None, math.inf, math.nan]

    (found,) = fit([price], batches("price", cells, size)).features

    assert found.mean == pytest.approx(1e9 + 24.5, rel=1e-12)
    assert found.std == pytest.approx(np.std(np.arange(50)), rel=1e-6)


def test_log_numbers_and_ages_are_scaled_before_the_moments():
    features = [Feature("p", "number", scale="log"), Feature("t", "time")]
    columns = {"p": [-3.0, 3.0, 8.0], "t": [0.0, 86_400.0, 9e9]}

    price, made = fit(features, [columns], reference=86_400.0).features

    assert price.mean == pytest.approx(math.log(9) / 3)
    assert made.mean == pytest.approx(math.log(2) / 3)


@pytest.mark.parametrize("cells", [[], [None, None], [5.0, 5.0], [0.1] * 7, [1e-300]])
def test_a_column_without_spread_keeps_scale_one(cells):
    (found,) = fit([Feature("p", "number")], [{"p": cells}]).features

    assert found.std == 1.0


def test_json_round_trip_is_exact():
    features = (
        Feature("brand", "category", min_count=1),
        Feature("price", "number", scale="log"),
        Feature("made", "time", parts=("day",)),
        Feature("tags", "categories", separator="|"),
        Feature("title", "text", buckets=64),
        Feature("image", "vector", dim=3),
    )
    columns = {"brand": ["é", "\x00", "日本"], "price": [0.1, 0.2, 1 / 3]}
    fitted = fit(features, [columns], reference=1.7e9)

    again = FittedSide.from_dict(json.loads(json.dumps(fitted.to_dict())))

    assert again == fitted
    assert again.declared == features


def test_sizes_follow_the_declarations():
    features = (
        Feature("title", "text", buckets=64),
        Feature("price", "number"),
        Feature("made", "time", parts=("age", "day")),
        Feature("seen", "time", parts=()),
        Feature("image", "vector", dim=3),
    )

    fitted = fit(features, [])

    assert fitted.table_sizes == {"title": 66}
    assert fitted.dense_width == 2 + 4 + 1 + 3
    assert fit((), []).dense_width == 0


def test_a_reserved_name_is_refused():
    with pytest.raises(ConfigError, match="dense"):
        fit([Feature("dense", "category")], [])
    fit([Feature("dense", "number")], [])


def test_a_huge_vocabulary_is_counted_in_bounded_memory(monkeypatch, caplog):
    """The frequent values survive however many rare ones come between them."""
    monkeypatch.setattr(sys.modules[_Learner.__module__], "_LEAST_COUNTED", 400)
    feature = Feature("tag", "category", max_size=20)
    learner = _Learner(feature, 0.0)
    largest = 0

    for batch in range(50):
        rare = [f"rare {batch} {i}" for i in range(100)]
        learner.see({"tag": [f"common {i % 20}" for i in range(60)] + rare})
        largest = max(largest, len(learner.counts))

    assert set(learner.fitted().vocabulary) == {f"common {i}" for i in range(20)}
    assert largest <= 400
    assert caplog.text.count("more than") == 1


def test_a_vocabulary_below_the_bound_is_exact():
    feature = Feature("tag", "category", max_size=3, min_count=2)

    fitted = fit(
        (feature,), [{"tag": list("aaabbbccd") + [f"x{i}" for i in range(99)]}]
    )

    assert fitted.features[0].vocabulary == ("a", "b", "c")
