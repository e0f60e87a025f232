"""The towers at run time: shapes, chunks, processes, threads and damage."""

import json
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from encoder_reference import item, query, random_weights

from recsys import _onnx, _tower
from recsys._tower import ItemTower, QueryTower
from recsys.config import Feature
from recsys.encoder import FittedSide, fit
from recsys.encoder.towers import item_tower, query_tower
from recsys.errors import ArtifactError, SourceError

DIM = 8
NONE = FittedSide()
FEATURES = (
    Feature("brand", "category", min_count=1),
    Feature("title", "text", buckets=64, max_words=512, ngrams=3),
    Feature("tags", "categories", min_count=1),
    Feature("price", "number", scale="log"),
    Feature("made", "time"),
    Feature("image", "vector", dim=2),
)
COLUMNS = {
    "brand": ["a", "b", None, "new", "a"],
    "title": ["Red shoe", "shoe", None, "?", "a b c d e f g h"],
    "tags": ["x\x1fy", None, "z\x1fnew\x1fx", "", "y"],
    "price": [1.0, 5.0, None, 1e30, 0.0],
    "made": [1.5e9, None, 1.6e9, float("inf"), 0.0],
    "image": ["[3,4]", None, "[0,0]", "[1,-1]", "[0,1]"],
}
N = 5
FITTED = fit(FEATURES, [COLUMNS], reference=1.7e9)
WEIGHTS = random_weights(DIM, FITTED, FITTED, FITTED)


def row(i):
    raw = {name: cells[i] for name, cells in COLUMNS.items()}
    return {**raw, "image": json.loads(raw["image"] or "null")}


@pytest.fixture(scope="module")
def items():
    return ItemTower(item_tower(DIM, FITTED, WEIGHTS), FEATURES, DIM)


@pytest.fixture(scope="module")
def queries():
    model = query_tower(DIM, FITTED, FITTED, WEIGHTS)
    return QueryTower(model, FEATURES, FEATURES, DIM)


@pytest.fixture(scope="module")
def plain():
    return QueryTower(query_tower(DIM, NONE, NONE, WEIGHTS), (), (), DIM)


def random(*shape):
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 2**24])
def test_items_match_the_formula_in_any_chunks(items, monkeypatch, chunk):
    monkeypatch.setattr(_tower, "_CHUNK_VALUES", chunk)
    served, history = random(2, N * 8, DIM)
    bias = np.where(np.arange(N * 8) % 5 == 3, np.nan, 0.25)
    columns = {name: cells * 8 for name, cells in COLUMNS.items()}

    vectors, rows = items.encode(columns, N * 8, served, history, bias)

    assert vectors.dtype == rows.dtype == np.float32
    for i in range(N * 8):
        one = item(FITTED, WEIGHTS, row(i % N), served[i], history[i], bias[i])
        np.testing.assert_allclose(vectors[i], one[0], atol=1e-5)
        np.testing.assert_allclose(rows[i], one[1], atol=1e-5, rtol=1e-5)


def test_one_request_equals_its_row_in_a_batch(queries):
    history, weights = random(N, 4, DIM), np.abs(random(N, 4))

    batch = queries.encode(history, weights, COLUMNS, COLUMNS)

    for i in range(N):
        single = queries.encode_one(history[i], weights[i], row(i), row(i))
        expected = query(
            FITTED, FITTED, WEIGHTS, history[i], weights[i], row(i), row(i)
        )
        np.testing.assert_allclose(single, batch[i], atol=1e-6)
        np.testing.assert_allclose(single, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_history_comes_in_any_precision(plain, dtype):
    history, weights = random(6, DIM).astype(dtype), np.arange(1, 7, dtype=dtype)

    found = plain.encode_one(history, weights)

    expected = query(NONE, NONE, WEIGHTS, history.astype("f8"), weights, {}, {})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


def test_no_history_is_the_default_query(plain, queries):
    nothing, none = np.zeros((0, DIM), np.float16), np.zeros(0)
    default = query(NONE, NONE, WEIGHTS, nothing, none, {}, {})
    missing = dict.fromkeys(COLUMNS)
    with_missing = query(FITTED, FITTED, WEIGHTS, nothing, none, missing, missing)

    np.testing.assert_allclose(plain.encode_one(nothing, none), default, atol=1e-5)
    np.testing.assert_allclose(
        plain.encode(np.zeros((2, 0, DIM)), np.zeros((2, 0)))[1], default, atol=1e-5
    )
    np.testing.assert_allclose(
        queries.encode_one(nothing, none), with_missing, atol=1e-5
    )


def test_a_very_long_history(plain):
    history, weights = random(10_000, DIM), np.ones(10_000, np.float32)

    found = plain.encode_one(history, weights)

    expected = query(NONE, NONE, WEIGHTS, history.astype("f8"), weights, {}, {})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_no_rows_give_no_rows(items, queries):
    empty = np.zeros((0, DIM))

    assert items.encode({}, 0, empty, empty, np.zeros(0))[0].shape == (0, DIM + 1)
    found = queries.encode(np.zeros((0, 3, DIM)), np.zeros((0, 3)), {}, {})
    assert found.shape == (0, DIM + 1)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_leaves(items, plain, spoilt):
    history, weights = random(3, DIM), np.ones(3, np.float32)
    spoilt_history = history.copy()
    spoilt_history[1, 2] = spoilt
    bad_weights = np.array([1, spoilt, 1], np.float32)

    with pytest.raises(ArtifactError, match="finite"):
        plain.encode_one(spoilt_history, weights)
    with pytest.raises(ArtifactError, match="finite"):
        plain.encode_one(history, bad_weights)
    with pytest.raises(ArtifactError, match="finite"):
        plain.encode(spoilt_history[None], weights[None])
    with pytest.raises(ArtifactError, match="finite"):
        items.encode({}, 3, spoilt_history, history, np.zeros(3))
    with pytest.raises(ArtifactError, match="finite"):
        items.encode({}, 3, history, spoilt_history, np.zeros(3))


def test_rows_of_another_dimension_are_refused(items, plain):
    wrong = random(3, DIM + 1)

    with pytest.raises(ArtifactError, match="table gave"):
        plain.encode_one(wrong, np.ones(3))
    with pytest.raises(ArtifactError, match="table gave"):
        plain.encode(wrong[None], np.ones((1, 3)))
    with pytest.raises(ArtifactError, match="table gave"):
        items.encode({}, 3, wrong, wrong, np.zeros(3))


def test_a_tower_that_does_not_fit_is_refused():
    model = query_tower(DIM, NONE, NONE, WEIGHTS)
    history, weights = np.ones((1, DIM + 1)), np.ones(1)

    with pytest.raises(ArtifactError, match="does not fit"):
        QueryTower(model, (), (), DIM + 1).encode_one(history, weights)
    with pytest.raises(ArtifactError, match="does not fit"):
        QueryTower(model, FEATURES, (), DIM).encode_one(history[:, 1:], weights)


@pytest.mark.parametrize("damage", [b"", b"not a model", None])
def test_a_damaged_tower_says_so(damage):
    model = query_tower(DIM, NONE, NONE, WEIGHTS)
    tower = QueryTower(model[:-50] if damage is None else damage, (), (), DIM)

    with pytest.raises(ArtifactError, match="cannot be loaded") as error:
        tower.encode_one(np.ones((1, DIM)), np.ones(1))

    assert "doctor" in error.value.hint


def test_a_wrong_feature_value_names_the_feature(queries):
    with pytest.raises(SourceError, match="'image'"):
        queries.encode_one(random(1, DIM), np.ones(1), {"image": [1.0, 2.0, 3.0]})


def test_columns_of_another_length_are_refused(items):
    rows = random(3, DIM)

    with pytest.raises(ValueError, match="brand"):
        items.encode({"brand": ["a"] * 4}, 3, rows, rows, np.zeros(3))


def test_many_threads_make_one_session(monkeypatch):
    tower = QueryTower(query_tower(DIM, NONE, NONE, WEIGHTS), (), (), DIM)
    loads, found = [], []
    load = _onnx._load

    def slow_load(*args):
        loads.append(1)
        time.sleep(0.05)  # long enough for every thread to arrive
        return load(*args)

    monkeypatch.setattr(_onnx, "_load", slow_load)
    gate = threading.Barrier(8)

    def work():
        gate.wait()
        for _ in range(50):
            found.append(tower.encode_one(random(3, DIM), np.ones(3)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(loads) == 1
    assert len(found) == 400
    assert all(np.array_equal(q, found[0]) for q in found)


def test_another_process_id_makes_another_session(monkeypatch):
    """uWSGI runs no fork hooks by default, so the id itself is compared."""
    tower = QueryTower(query_tower(DIM, NONE, NONE, WEIGHTS), (), (), DIM)
    before = tower.encode_one(random(3, DIM), np.ones(3))
    inherited = tower._session._held
    monkeypatch.setattr(_onnx.os, "getpid", lambda: 1)

    after = tower.encode_one(random(3, DIM), np.ones(3))

    assert tower._session._held is not inherited
    assert inherited in _onnx._INHERITED
    np.testing.assert_array_equal(before, after)


def test_a_forked_child_encodes(tmp_path):
    """Also when another thread of the parent held the lock at the fork."""
    model = tmp_path / "query.onnx"
    model.write_bytes(query_tower(DIM, NONE, NONE, WEIGHTS))
    script = f"""
        import os, sys
        import numpy as np
        from recsys import _onnx, _tower
        model = open({str(model)!r}, "rb").read()
        used = _tower.QueryTower(model, (), (), {DIM})
        fresh = _tower.QueryTower(model, (), (), {DIM})
        history, weights = np.ones((2, {DIM})), np.ones(2)
        expected = used.encode_one(history, weights)
        parents = used._session._held
        _onnx._LOCKS[0].acquire()
        child = os.fork()
        if not child:
            same = all(
                np.array_equal(tower.encode_one(history, weights), expected)
                for tower in (used, fresh)
            )
            os._exit(0 if same and used._session._held is not parents else 1)
        _, status = os.waitpid(child, 0)
        assert np.array_equal(used.encode_one(history, weights), expected)
        assert used._session._held is parents
        sys.exit(os.waitstatus_to_exitcode(status))
    """

    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode == 0, run.stderr


def test_importing_is_light():
    script = (
        "import sys, recsys._tower; "
        "heavy = {'onnx', 'onnxruntime', 'torch', 'google.protobuf'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )

    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert run.stdout.strip() == "[]"
