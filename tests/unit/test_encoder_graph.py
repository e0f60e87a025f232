"""The encoder graph against golden values and the reference in plain numpy."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from encoder_reference import dense, murmur3_32, random_weights, rows

from recsys.config import Feature
from recsys.encoder import FittedSide, fit
from recsys.encoder.graph import encoder_model
from recsys.encoder.towers import item_tower, query_tower
from recsys.encoder.values import MAX_LIST, prepare
from recsys.errors import ArtifactError

REFERENCE = 1_700_000_000.0
FEATURES = (
    Feature("brand", "category"),
    Feature("title", "text", buckets=97, max_words=4, ngrams=3),
    Feature("price", "number", scale="log"),
    Feature("stock", "number"),
    Feature("made", "time", parts=("day", "age", "year", "week")),
    Feature("seen", "time", parts=("week",)),
    Feature("tags", "categories"),
    Feature("image", "vector", dim=3),
)
COLUMNS = {
    "brand": ["acme", "acme", "é", "é", "rare", None, "", "acme"],
    "title": ["Red shoe", "red SHOE red", "!?", None, "", "日本 a b c d e", "é", "x"],
    "price": [0.0, -3.5, 1e6, None, math.nan, math.inf, 3e38, 9.99],
    "stock": [1.0, 2.0, 3.0, 4.0, None, -math.inf, 1e30, -1e30],
    "made": [0.0, 1.6e9, 1.7e9 + 1, None, math.nan, math.inf, -1e9, 951_782_400.0],
    "seen": [None, 1.0, 86_400.0 * 6.99, -1.0, 5e8, 6e8, 7e8, 8e8],
    "tags": ["a\x1fb", "a", "b\x1fzz\x1fa", None, "", "a\x1fb\x1fc", "c", "zz2"],
    "image": [[1.0, 2.0, 2.0], None, [0.0, 0.0, 0.0], [1e30, 0.0, 1e30],
              [1e-40, 0.0, 0.0], [-1.0, 0.0, 0.0], [3e38, 3e38, 3e38], [1.0, 1.0, 1.0]],
}  # fmt: skip
N = 8


@pytest.fixture(scope="module")
def fitted():
    # Two batches, the second without the extremes that would stretch every scale.
    tame = {"price": [1.0, 2.0, 4.0], "stock": [1.0, 2.0, 4.0]}
    categories = {name: COLUMNS[name] for name in ("brand", "tags", "made", "seen")}
    return fit(FEATURES, [categories, tame], reference=REFERENCE)


def run(fitted, columns, n, side="item"):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(encoder_model(side, fitted), options)
    names = [output.name for output in session.get_outputs()]
    feeds = prepare(side, fitted.declared, columns, n)
    return dict(zip(names, session.run(None, feeds), strict=True))


def test_murmur_has_its_published_values():
    """The first three are test vectors of SMHasher's MurmurHash3_x86_32."""
    assert murmur3_32(b"") == 0
    assert murmur3_32(b"test") % 2**32 == 0xBA6BD213
    assert murmur3_32(b"Hello, world!") % 2**32 == 0xC0363E43


def test_text_rows_are_golden():
    """These numbers may never change: tables of published versions depend on them."""
    title = Feature("title", "text", buckets=16_384)
    texts = ["red shoe", "Ünder 東", "!?", None, "👟"]

    found = run(fit([title], []), {"title": texts}, 5)["title"]

    assert found.dtype == np.int64
    assert found.tolist() == [
        [9983, 5062, 832],
        [1862, 5558, 39],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_known_unknown_and_missing_rows():
    brand = Feature("brand", "category")
    fitted = fit([brand], [{"brand": ["b", "b", "a", "a", "a", "once"]}])

    cells = ["a", "b", "once", "never", None, "", "A"]

    assert run(fitted, {"brand": cells}, 7)["brand"].tolist() == [
        [2], [3], [1], [1], [0], [0], [1],
    ]  # fmt: skip


def test_lists_are_padded_with_missing():
    tags = Feature("tags", "categories", min_count=1)
    fitted = fit([tags], [{"tags": ["a", "a", "b"]}])

    found = run(fitted, {"tags": ["b\x1fzz\x1fa", "a", None]}, 3)["tags"]

    assert found.tolist() == [[3, 1, 2], [2, 0, 0], [0, 0, 0]]


def test_a_batch_without_any_token_is_empty():
    fitted = fit(FEATURES, [])

    found = run(fitted, {}, 2)

    assert found["title"].shape == found["tags"].shape == (2, 0)
    assert found["brand"].tolist() == [[0], [0]]


def test_rows_and_dense_match_the_reference(fitted):
    found = run(fitted, COLUMNS, N)

    assert found["dense"].dtype == np.float32
    for i in range(N):
        row = {name: cells[i] for name, cells in COLUMNS.items()}
        expected = dense(fitted, row)
        np.testing.assert_allclose(found["dense"][i], expected, rtol=1e-6, atol=1e-6)
        for item in fitted.features:
            if item.table_rows:
                name = item.feature.name
                padded = [r for r in found[name][i] if r]
                assert padded == rows(item, row[name]), name
    assert np.isfinite(found["dense"]).all()
    assert np.abs(found["dense"]).max() == 8.0  # something was clipped


@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.type + " " + f.name)
def test_one_row_is_encoded_as_in_a_batch(feature):
    fitted = fit([feature], [COLUMNS], reference=REFERENCE)
    (batch,) = run(fitted, COLUMNS, N).values()

    for i in range(N):
        (single,) = run(
            fitted, {feature.name: COLUMNS[feature.name][i : i + 1]}, 1
        ).values()
        width = single.shape[1]
        np.testing.assert_array_equal(single[0], batch[i, :width])
        assert not batch[i, width:].any()


def test_times_are_told_apart_to_the_second_half_a_century_on():
    made = Feature("made", "time", parts=("day",))
    noon = 1_700_049_600.0

    found = run(fit([made], []), {"made": [noon, noon + 1]}, 2)["dense"]

    turn = 2 * math.pi / 86_400
    assert found[1, 0] - found[0, 0] == pytest.approx(-turn, rel=1e-2)


def test_numbers_keep_their_differences_beside_a_large_mean():
    ids = Feature("ids", "number")
    cells = [1e12, 1e12 + 1, 1e12 + 2]

    found = run(fit([ids], [{"ids": cells}]), {"ids": cells}, 3)["dense"]

    np.testing.assert_allclose(found[:, 0], [-(1.5**0.5), 0, 1.5**0.5], atol=1e-6)


def test_hostile_strings_pass_through():
    features = (
        Feature("brand", "category", min_count=1),
        Feature("title", "text"),
        Feature("tags", "categories"),
    )
    cells = ["a\x00b", "\ud800", "\u202eשלום", "👟" * 10, "é" * 5_000_000, "\x1f" * 9]
    fitted = fit(features, [{f.name: cells for f in features}])

    found = run(fitted, {f.name: cells for f in features}, len(cells))

    assert (found["brand"] >= [[2]] * 5 + [[0]]).all()
    assert found["tags"].shape[1] <= MAX_LIST


def test_column_names_never_clash_with_the_graph():
    names = ("zero", "one", "item_zero", "numbers", "history", "query", "weights",
             "bias", "vector", "content", "item", "user", "sum", "hidden")  # fmt: skip
    kinds = ("category", "text", "number", "time")
    features = [Feature(n, kinds[i % 4]) for i, n in enumerate(names)]
    fitted = fit(features, [])
    weights = random_weights(4, fitted, fitted, fitted)

    for model in (
        encoder_model("item", fitted),
        item_tower(4, fitted, weights),
        query_tower(4, fitted, fitted, weights),
    ):
        onnx.checker.check_model(onnx.load_from_string(model))
        onnxruntime.InferenceSession(model)


def test_towers_hold_the_nodes_of_the_encoder_model(fitted):
    """No skew by construction: same nodes, same constants, byte for byte."""
    weights = random_weights(4, fitted, fitted, fitted)
    towers = {
        "item": item_tower(4, fitted, weights),
        "user": query_tower(4, fitted, fitted, weights),
        "context": query_tower(4, fitted, fitted, weights),
    }

    for side, tower in towers.items():
        encoder = onnx.load_from_string(encoder_model(side, fitted)).graph
        outputs = {output.name for output in encoder.output}
        whole = onnx.load_from_string(tower).graph
        held = {node.SerializeToString() for node in whole.node}
        constants = {c.name: c.SerializeToString() for c in whole.initializer}
        inner = [
            node
            for node in encoder.node
            if node.output[0] not in outputs and node.op_type != "Unsqueeze"
        ]
        assert len(inner) > 40
        assert all(node.SerializeToString() in held for node in inner)
        for constant in encoder.initializer:
            assert constants.get(constant.name) in (None, constant.SerializeToString())


def test_a_graph_is_portable_and_loops_nowhere(fitted):
    model = onnx.load_from_string(encoder_model("item", fitted))

    assert model.ir_version <= 10
    assert {o.domain: o.version for o in model.opset_import} == {
        "": 20,
        "ai.onnx.ml": 3,
        "com.microsoft": 1,
    }
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in model.graph.node}
    assert encoder_model("item", fitted) == encoder_model("item", fitted)


def test_a_side_without_features_has_no_encoder():
    with pytest.raises(ValueError, match="user"):
        encoder_model("user", FittedSide())


def test_a_model_beyond_bytea_is_refused(fitted, monkeypatch):
    monkeypatch.setattr("recsys.encoder.graph.LARGEST_MODEL", 1000)

    with pytest.raises(ArtifactError, match="item encoder takes") as error:
        encoder_model("item", fitted)

    assert "max_size" in error.value.hint
