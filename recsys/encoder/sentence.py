"""A local text encoder: a sentence-transformers directory with an ONNX model.

Read are ``onnx/model.onnx`` or ``model.onnx``, ``tokenizer.json`` and, where they are
there, ``modules.json``, ``1_Pooling/config.json`` and ``sentence_bert_config.json``.
Nothing is downloaded, and nothing of the directory is executed but the ONNX graph.

An encoder is known by the sha256 of these files, not by its place: two directories of
the same name may hold different models.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from recsys._onnx import load_onnxruntime
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_GRAPHS = ("onnx/model.onnx", "model.onnx")
_POOLING = "1_Pooling/config.json"
_SETTINGS = ("tokenizer.json", "modules.json", _POOLING, "sentence_bert_config.json")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_MOST_TOKENS = 512
_BATCH = 32
"""Texts per run of the model, of similar length: padding is arithmetic, too."""
_EXPORT_HINT = (
    "Export it: pip install 'optimum[onnxruntime]' and 'optimum-cli export onnx"
    " --model NAME --task feature-extraction DIR'."
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the settings files say.

    Attributes:
        pooling: "mean", "cls" or "max".
        most_tokens: Longer texts are cut.
        lower_case: Whether texts are made lower case before they are cut into tokens.
    """

    pooling: str
    most_tokens: int
    lower_case: bool


class SentenceEncoder:
    """Texts to unit vectors.

    Several threads may call it; after a fork, a new one has to be made.

    Args:
        folder: The directory.
        threads: Threads of one run of the model.

    Attributes:
        sha256: Of the files that decide what comes out, in hex.
        dim: Length of a vector.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        """Load it.

        Raises:
            ConfigError: The directory does not hold such an encoder, or a package is
                missing.
        """
        self.folder = folder
        graph = graph_of(folder)
        self._layout = _read_layout(folder)
        self.sha256 = fingerprint(folder)
        self._tokenizer = _read_tokenizer(folder, self._layout.most_tokens)
        ids = (self._tokenizer.token_to_id(word) for word in ("[PAD]", "<pad>"))
        self._padding = next((i for i in ids if i is not None), 0)
        self._session = _read_graph(graph, threads)
        inputs = [str(i.name) for i in cast("list[Any]", self._session.get_inputs())]
        if not {"input_ids", "attention_mask"} <= set(inputs) <= set(_INPUTS):
            raise ConfigError(
                f"{graph} takes {', '.join(inputs)}; expected {', '.join(_INPUTS)}",
                hint=_EXPORT_HINT,
            )
        self._inputs = inputs
        self._output, self._pooled = _output_of(self._session, graph)
        self.dim = self._run(["a"]).shape[1]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """Return one vector per text, also of length 1 after rounding; "" gives zeros.

        Returns:
            Shape (n, dim), float16: as they are kept and as everybody reads them.
        """
        out = np.zeros((len(texts), self.dim), np.float16)
        order = sorted(
            (i for i, t in enumerate(texts) if t), key=lambda i: len(texts[i])
        )
        for first in range(0, len(order), _BATCH):
            places = order[first : first + _BATCH]
            vectors = self._run([texts[i] for i in places])
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            out[places] = vectors / np.maximum(length, 1e-12)
        if not np.isfinite(out).all():
            raise ConfigError(
                f"the text encoder in {self.folder} gives vectors that are not finite",
                hint="Export the model again, in float32.",
            )
        return out

    def _run(self, texts: list[str]) -> NDArray[np.float32]:
        """Return the pooled vectors of a batch, shape (B, dim)."""
        # A lone surrogate is no text to the tokenizer.
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        if self._layout.lower_case:
            texts = [text.lower() for text in texts]
        found = [e.ids for e in self._tokenizer.encode_batch(texts)]
        width = max(1, *map(len, found)) if found else 1
        ids = np.full((len(found), width), self._padding, np.int64)
        mask = np.zeros((len(found), width), np.int64)
        for row, some in enumerate(found):
            ids[row, : len(some)] = some
            mask[row, : len(some)] = 1
        feeds = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
        }
        (out,) = cast(
            "list[NDArray[np.float32]]",
            self._session.run(
                [self._output], {name: feeds[name] for name in self._inputs}
            ),
        )
        out = out.astype(np.float32, copy=False)
        pooled = out if self._pooled else _pool(out, mask, self._layout.pooling)
        return np.where(mask.any(1, keepdims=True), pooled, 0).astype(np.float32)


def fingerprint(folder: Path) -> str:
    """Return the sha256 of the files that decide what an encoder gives, in hex.

    Raises:
        ConfigError: The directory does not hold an encoder.
    """
    graph = graph_of(folder)
    # Weights beyond 2 GB lie beside the graph, in files that start with its name.
    files = {f"graph{p.name[len(graph.name):]}": p
             for p in graph.parent.glob(f"{graph.name}*")}  # fmt: skip
    files |= {name: folder / name for name in _SETTINGS if (folder / name).is_file()}
    whole = hashlib.sha256()
    try:
        for name in sorted(files):
            with files[name].open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{name} {digest}\n".encode())
    except OSError as exc:
        raise ConfigError(f"cannot read the text encoder in {folder}: {exc}") from exc
    return whole.hexdigest()


def graph_of(folder: Path) -> Path:
    """Return the ONNX file of a directory.

    Raises:
        ConfigError: There is none.
    """
    for name in _GRAPHS:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise ConfigError(
            f"there is no text encoder in {folder}: no such directory",
            hint="Copy the directory here, or set RECSYS_ENCODERS to the folder it is"
            " in.",
        )
    raise ConfigError(
        f"{folder} holds no ONNX model: no {' and no '.join(_GRAPHS)}",
        hint=_EXPORT_HINT,
    )


def _read_layout(folder: Path) -> _Layout:
    modules = _read_json(folder / "modules.json", [])
    kinds = [str(part.get("type", "")).rsplit(".", 1)[-1] for part in modules]
    odd = [
        kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")
    ]
    if odd:
        raise ConfigError(
            f"the text encoder in {folder} has a module {odd[0]}, which is not"
            " supported",
            hint="Supported are Transformer, Pooling and Normalize.",
        )
    settings = _read_json(folder / "sentence_bert_config.json", {})
    most = settings.get("max_seq_length") or _MOST_TOKENS
    return _Layout(
        pooling=_pooling(_read_json(folder / _POOLING, {}), folder),
        most_tokens=max(1, min(int(most), _MOST_TOKENS)),
        lower_case=bool(settings.get("do_lower_case", False)),
    )


def _pooling(settings: dict[str, Any], folder: Path) -> str:
    chosen = [
        name.removeprefix("pooling_mode_")
        .removesuffix("_token")
        .removesuffix("_tokens")
        for name, on in settings.items()
        if name.startswith("pooling_mode_") and on is True
    ]
    if isinstance(settings.get("pooling_mode"), str):
        chosen = [settings["pooling_mode"]]
    if not settings:
        chosen = ["mean"]
    if len(chosen) != 1 or chosen[0] not in ("mean", "cls", "max"):
        raise ConfigError(
            f"the text encoder in {folder} pools by {', '.join(chosen) or 'nothing'},"
            " which is not supported",
            hint="Supported is one of mean, cls and max.",
        )
    return chosen[0]


def _read_json(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read {path}: {exc}") from exc
    if type(value) is not type(default):
        raise ConfigError(f"{path} does not hold what it should")
    return value


def _read_tokenizer(folder: Path, most_tokens: int) -> Tokenizer:
    # Its own threads would hang in a forked child; a batch here is small.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer
    except ImportError as exc:
        raise ConfigError(
            "a text encoder needs the package tokenizers",
            hint="pip install 'recsys[text]'",
        ) from exc
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            f"there is no {path}",
            hint="Save the fast tokenizer with the model: it writes tokenizer.json.",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # its errors have no class of their own
        raise ConfigError(f"cannot read {path}: {str(exc)[:200]}") from exc
    tokenizer.enable_truncation(most_tokens)
    tokenizer.no_padding()
    return tokenizer


def _read_graph(path: Path, threads: int) -> Any:
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # onnxruntime's errors share no other base class
        raise ConfigError(
            f"{path} cannot be loaded: {str(exc)[:200]}", hint=_EXPORT_HINT
        ) from exc


def _output_of(session: Any, graph: Path) -> tuple[str, bool]:
    """Return the name of the output to read, and whether it is pooled already."""
    ranks = {
        str(out.name): len(out.shape)
        for out in cast("list[Any]", session.get_outputs())
    }
    if ranks.get("sentence_embedding") == 2:
        return "sentence_embedding", True
    for name in ("last_hidden_state", "token_embeddings", *ranks):
        if ranks.get(name) == 3:
            return name, False
    raise ConfigError(
        f"{graph} gives no token vectors, only {', '.join(ranks)}", hint=_EXPORT_HINT
    )


def _pool(
    tokens: NDArray[np.float32], mask: NDArray[np.int64], pooling: str
) -> NDArray[np.float32]:
    """Return one vector per text; (B, T, dim) to (B, dim)."""
    if pooling == "cls":
        return tokens[:, 0]
    known = mask[:, :, None].astype(np.float32)
    if pooling == "max":
        return np.where(known > 0, tokens, -np.inf).max(1).astype(np.float32)
    return (tokens * known).sum(1) / np.maximum(known.sum(1), 1e-9)
