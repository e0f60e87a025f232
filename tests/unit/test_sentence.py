"""Text encoders: what a directory must hold, and the vectors it gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_encoder

from recsys.encoder.sentence import SentenceEncoder, fingerprint
from recsys.errors import ConfigError

ROWS = tiny_encoder.table(6, 0).astype(np.float64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_encoder.write(tmp_path / "mini")


def expected(*tokens: int, how: str = "mean") -> np.ndarray:
    rows = ROWS[list(tokens)]
    pooled = {"mean": rows.mean(0), "cls": rows[0], "max": rows.max(0)}[how]
    return pooled / np.linalg.norm(pooled)


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
def test_the_tokens_are_pooled_as_the_directory_says(tmp_path: Path, how: str) -> None:
    mode = "cls_token" if how == "cls" else f"{how}_tokens"
    encoder = SentenceEncoder(tiny_encoder.write(tmp_path / "m", pooling=mode))

    found = encoder.encode(["red shirt", "lamp", "blue blue shoe"])

    for row, tokens in zip(found, [(2, 4), (6,), (3, 3, 5)], strict=True):
        np.testing.assert_allclose(row, expected(*tokens, how=how), atol=1e-3)
    assert found.dtype == np.float16


def test_a_text_gives_the_same_beside_any_other(folder: Path) -> None:
    encoder = SentenceEncoder(folder)
    texts = [" ".join(["red", "shoe", "mug"][: 1 + n % 3]) for n in range(100)]

    together = encoder.encode(texts)

    for text, row in zip(texts[:6], together, strict=False):
        assert np.array_equal(encoder.encode([text])[0], row)


def test_empty_unknown_long_and_upper_case_texts(folder: Path) -> None:
    encoder = SentenceEncoder(folder)

    found = encoder.encode(["", "zebra", "red " * 900, "RED", "\x00\ud800 ☕", " "])

    assert not found[0].any()
    np.testing.assert_allclose(found[1], expected(1), atol=1e-3)
    assert np.array_equal(found[2], found[3])
    assert np.isfinite(found[4]).all()
    assert found[4].any()
    assert not found[5].any()


def test_an_encoder_is_known_by_what_it_computes(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    (copy / "README.md").write_text("words")
    other = tiny_encoder.write(tmp_path / "other", seed=1)
    pooled = tiny_encoder.write(tmp_path / "pooled", pooling="cls_token")

    assert fingerprint(copy) == fingerprint(folder) == SentenceEncoder(folder).sha256
    assert len({fingerprint(f) for f in (folder, other, pooled)}) == 3


def test_weights_beside_the_graph_count(folder: Path) -> None:
    before = fingerprint(folder)

    (folder / "onnx" / "model.onnx_data").write_bytes(b"weights")

    assert fingerprint(folder) != before


def test_the_graph_may_lie_at_the_top_without_any_settings(tmp_path: Path) -> None:
    folder = tiny_encoder.write(tmp_path / "bare", place="model.onnx")
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")

    found = SentenceEncoder(folder).encode(["red shirt"])

    np.testing.assert_allclose(found[0], expected(2, 4), atol=1e-3)


def test_what_is_no_encoder_is_refused_with_its_place(folder: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(ConfigError, match=match) as found:
            SentenceEncoder(folder)
        assert str(folder) in str(found.value)

    modules = json.loads((folder / "modules.json").read_text())
    dense = [*modules, {"type": "sentence_transformers.models.Dense"}]
    (folder / "modules.json").write_text(json.dumps(dense))
    refused("module Dense")
    (folder / "modules.json").write_text("{}")
    refused("does not hold")
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_lasttoken": true}'
    )
    refused("pools by lasttoken")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    SentenceEncoder(folder)
    (folder / "tokenizer.json").write_text("{}")
    refused("cannot read")
    (folder / "tokenizer.json").unlink()
    refused("no .*tokenizer.json")
    tiny_encoder.write_tokenizer(folder)
    (folder / "onnx" / "model.onnx").write_bytes(b"no model")
    refused("cannot be loaded")
    (folder / "onnx" / "model.onnx").unlink()
    refused("holds no ONNX model")
    shutil.rmtree(folder)
    refused("no such directory")
