"""A sentence-transformers directory of a few kilobytes, made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WORDS = ("[PAD]", "[UNK]", "red", "blue", "shirt", "shoe", "lamp", "chair", "mug")


def table(dim: int, seed: int) -> NDArray[np.float32]:
    """The vector of each word, before pooling."""
    return np.random.default_rng(seed).normal(size=(len(WORDS), dim)).astype(np.float32)


def write(
    folder: Path,
    *,
    dim: int = 6,
    seed: int = 0,
    pooling: str = "mean_tokens",
    place: str = "onnx/model.onnx",
) -> Path:
    """Write an encoder: the vector of a token is its row of ``table``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["rows", "input_ids"], ["found"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=1),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            # What padding holds must not matter to whoever pools.
            helper.make_node("Sub", ["column", "one"], ["spoil"]),
            helper.make_node("Add", ["found", "spoil"], ["last_hidden_state"]),
        ],
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"])
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info(
                "last_hidden_state", TensorProto.FLOAT, ["B", "T", dim]
            )
        ],
        [
            numpy_helper.from_array(table(dim, seed), "rows"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, folder / place)
    write_tokenizer(folder)
    kinds = (
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Normalize", "Normalize"),
    )
    modules = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {
        f"pooling_mode_{mode}": mode == pooling
        for mode in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    }
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": dim, **modes})
    )
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 4, "do_lower_case": True})
    )
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer.json that cuts at spaces and knows ``WORDS``."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
