"""The towers against the formulas in plain numpy, to 1e-5."""

import numpy as np
import onnxruntime
import pytest
from encoder_reference import item, query, random_weights

from recsys.config import Feature
from recsys.encoder import FittedSide, fit
from recsys.encoder.towers import item_tower, query_tower
from recsys.encoder.values import prepare
from recsys.errors import ArtifactError

DIM = 6
NONE = FittedSide()
FEATURES = (
    Feature("brand", "category", min_count=1),
    Feature("title", "text", buckets=64),
    Feature("tags", "categories", min_count=1),
    Feature("price", "number"),
    Feature("made", "time"),
    Feature("image", "vector", dim=2),
    Feature("blurb", "text", encoder="models/mini", dim=3, fine_tune=True),
)
COLUMNS = {
    "brand": ["a", "b", None, "new"],
    "title": ["Red shoe for you", "shoe", None, "?"],
    "tags": ["x\x1fy", None, "z\x1fnew\x1fx", ""],
    "price": [1.0, 5.0, None, 1e30],
    "made": [1.5e9, None, 1.6e9, float("inf")],
    "image": [[3.0, 4.0], None, [0.0, 0.0], [1.0, -1.0]],
    "blurb": [[1.0, 2.0, -2.0], [0.0, 0.5, 0.0], None, [0.0, 0.0, 0.0]],
}
SIDES = {
    "all": FEATURES,
    "no table": FEATURES[3:],
    "no number": FEATURES[:3],
    "one category": FEATURES[:1],
    "none": (),
}


def fitted_side(features):
    known = {name: cells[:3] for name, cells in COLUMNS.items()}
    return fit(features, [known], reference=1.7e9)


def row(i):
    return {name: cells[i] for name, cells in COLUMNS.items()}


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options).run(None, feeds)


@pytest.mark.parametrize(("cross", "rank"), [(0, 0), (1, 0), (3, 0), (2, 4)], ids=str)
@pytest.mark.parametrize("features", SIDES.values(), ids=SIDES.keys())
def test_item_tower_is_the_formula(features, cross, rank):
    fitted = fitted_side(features)
    weights = random_weights(DIM, fitted, NONE, NONE, cross=cross, rank=rank)
    rng = np.random.default_rng(1)
    served, history = rng.normal(size=(2, 4, DIM)).astype(np.float32)
    served[3] = history[3] = 0
    bias = np.array([0.5, -2.0, 0.0, np.nan], np.float32)

    vectors, rows = run(
        item_tower(DIM, fitted, weights),
        {
            **prepare("item", features, COLUMNS, 4),
            "id_served": served,
            "id_history": history,
            "bias": bias,
        },
    )

    for i in range(4):
        expected = item(fitted, weights, row(i), served[i], history[i], bias[i])
        np.testing.assert_allclose(vectors[i], expected[0], atol=1e-5)
        np.testing.assert_allclose(rows[i], expected[1], atol=2e-5, rtol=2e-5)
    assert vectors[3, DIM] == weights["cold_bias"]


@pytest.mark.parametrize("users", SIDES.values(), ids=SIDES.keys())
@pytest.mark.parametrize("contexts", [(), FEATURES[:5]], ids=["", "context"])
def test_query_tower_is_the_formula(users, contexts):
    user_side, context_side = fitted_side(users), fitted_side(contexts)
    weights = random_weights(DIM, NONE, user_side, context_side, cross=2)
    rng = np.random.default_rng(2)
    history = rng.normal(size=(4, 5, DIM)).astype(np.float32)
    history_weights = rng.uniform(0.1, 3, size=(4, 5)).astype(np.float32)
    history_weights[1, 2:] = 0  # padding
    history_weights[2] = 0  # nobody's history
    flipped = {name: cells[::-1] for name, cells in COLUMNS.items()}

    (found,) = run(
        query_tower(DIM, user_side, context_side, weights),
        {
            **prepare("user", users, COLUMNS, 4),
            **prepare("context", contexts, flipped, 4),
            "history": history,
            "weights": history_weights,
        },
    )

    for i in range(4):
        expected = query(
            user_side, context_side, weights, history[i], history_weights[i],
            row(i), row(3 - i),
        )  # fmt: skip
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_padding_changes_nothing():
    weights = random_weights(DIM, NONE, NONE, NONE)
    model = query_tower(DIM, NONE, NONE, weights)
    history = np.random.default_rng(3).normal(size=(1, 3, DIM)).astype(np.float32)
    padded = np.concatenate([history, np.full((1, 4, DIM), 7, np.float32)], axis=1)

    (short,) = run(model, {"history": history, "weights": np.ones((1, 3), "f4")})
    mask = np.array([[1, 1, 1, 0, 0, 0, 0]], "f4")
    (long,) = run(model, {"history": padded, "weights": mask})

    np.testing.assert_allclose(short, long, atol=1e-6)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["history", "weights"])
def test_what_is_not_finite_never_turns_into_a_default(where, spoilt):
    model = query_tower(DIM, NONE, NONE, random_weights(DIM, NONE, NONE, NONE))
    feeds = {
        "history": np.ones((1, 3, DIM), np.float32),
        "weights": np.ones((1, 3), np.float32),
    }
    feeds[where][0, 1] = spoilt

    (found,) = run(model, feeds)

    assert np.isnan(found).any()


def test_a_zero_item_stays_zero():
    model = item_tower(DIM, NONE, random_weights(DIM, NONE, NONE, NONE))
    zero = np.zeros((1, DIM), np.float32)

    vectors, _ = run(
        model, {"id_served": zero, "id_history": zero, "bias": np.ones(1, "f4")}
    )

    assert vectors.tolist() == [[0.0] * DIM + [1.0]]


def test_weights_are_checked():
    fitted = fitted_side(FEATURES)
    good = random_weights(DIM, fitted, NONE, NONE)

    def refused(match, **changed):
        weights = {**good, **{k.replace("__", "."): v for k, v in changed.items()}}
        with pytest.raises(ArtifactError, match=match):
            item_tower(DIM, fitted, {k: v for k, v in weights.items() if v is not None})

    refused("'cold_bias' is missing", cold_bias=None)
    refused("item.hidden.w2", item__hidden__w2=None)
    refused("shape", item__dense__bias=np.zeros(DIM + 1, "f4"))
    refused("shape", item__brand__table=np.zeros((3, DIM), "f4"))
    refused("not finite", item__hidden__b1=np.full(8, np.nan, "f4"))
    crossed = random_weights(DIM, fitted, NONE, NONE, cross=1)
    good = crossed
    refused("item.cross.0.weight", item__cross__0__weight=np.zeros((DIM, DIM), "f4"))
    refused("item.cross.0.down", item__cross__0__weight=None)
    ones = np.ones((fitted.table_sizes["brand"], DIM), "f4")
    refused("must be zero", item__brand__table=ones)
