"""Towers with weights of eight bits: smaller files, checked by what they find.

Tables and matrices become int8 with a scale; sums and everything else stay float32.
What a rounded tower returns differs in the third digit, so that it is not compared by
differences, as an exported one is, but by the lists that it gives.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys._tower import ItemTower, QueryTower
from recsys.errors import ArtifactError
from recsys.training.dataset import Dataset
from recsys.training.probes import probe, repeated
from recsys.training.trained import Float32Array, TrainedModel

LEAST_OVERLAP = 0.9
"""Share of the twenty nearest that rounding may not change."""
_PROBES = 512
_K = 20
_OPERATORS = ("MatMul", "Gemm", "Gather")


def int8(tower: bytes) -> bytes:
    """Return a tower with its weights as eight-bit integers.

    Args:
        tower: ONNX of float32 weights.
    """
    import onnx
    from onnxruntime.quantization import (  # pyright: ignore[reportMissingTypeStubs]
        QuantType,
        quantize_dynamic,  # pyright: ignore[reportUnknownVariableType]
    )
    from onnxruntime.quantization.quant_utils import (  # pyright: ignore[reportMissingTypeStubs]
        add_pre_process_metadata,
    )

    model = onnx.load_from_string(tower)
    # Or it says, through the root logger, that shapes should be inferred first; ours
    # need none.
    add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory(prefix="recsys-int8-") as folder:
        out = Path(folder) / "tower.onnx"
        quantize_dynamic(
            model,
            out,
            op_types_to_quantize=list(_OPERATORS),
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return out.read_bytes()


def with_int8_towers(model: TrainedModel, dataset: Dataset) -> TrainedModel:
    """Return a model with quantised towers, checked against those it had.

    Args:
        model: As exported.
        dataset: What it was trained on; real rows are encoded by both.

    Raises:
        ArtifactError: Quantised, the towers find other items.
    """
    small = replace(
        model, item_tower=int8(model.item_tower), query_tower=int8(model.query_tower)
    )
    items = [_items(m, dataset) for m in (model, small)]
    asked = [
        _queries(m, dataset, history)
        for m, (_, history) in zip((model, small), items, strict=True)
    ]
    overlap = _overlap(asked[0] @ items[0][0].T, asked[1] @ items[1][0].T)
    if overlap < LEAST_OVERLAP:
        raise ArtifactError(
            f"only {overlap:.3f} of the nearest items survive towers of eight bits",
            hint="Train without train.int8.",
        )
    sizes = [len(m.item_tower) + len(m.query_tower) for m in (model, small)]
    small.report["int8"] = {"overlap": overlap, "bytes": sizes[1], "before": sizes[0]}
    return small


def _items(model: TrainedModel, dataset: Dataset) -> tuple[Float32Array, Float32Array]:
    """Return the vectors and the history rows of some items."""
    tower = ItemTower(model.item_tower, model.items.declared, model.id_served.shape[1])
    place, columns = probe(dataset.items, len(dataset.item_ids))
    return tower.encode(
        columns,
        len(place),
        model.id_served[place],
        model.id_history[place],
        model.bias[place],
    )


def _queries(
    model: TrainedModel, dataset: Dataset, history: Float32Array
) -> Float32Array:
    """Return the queries of some histories of those items."""
    tower = QueryTower(
        model.query_tower,
        model.users.declared,
        model.contexts.declared,
        model.id_served.shape[1],
        sequential=model.query.sequential,
    )
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(history), size=(_PROBES, min(8, len(history))))
    users, contexts = (
        repeated(probe(side, 1)[1], _PROBES)
        for side in (dataset.users, dataset.contexts)
    )
    weight = np.ones(chosen.shape, np.float32)
    # Newest first, some of a moment ago and some of last month; kind 0 is unknown.
    ages = np.sort(10 ** rng.uniform(1, 6.5, chosen.shape), axis=1)
    kinds = rng.integers(len(model.query.kinds) + 1, size=chosen.shape)
    queries = tower.encode(history[chosen], weight, users, contexts, ages, kinds)
    return queries.reshape(-1, queries.shape[-1])  # K queries each, for some encoders


def _overlap(before: Float32Array, after: Float32Array) -> float:
    """Return the share of each row's best that are among the best before."""
    k = min(_K, before.shape[1])
    best = np.argpartition(-before, k - 1, axis=1)[:, :k]
    found = np.argpartition(-after, k - 1, axis=1)[:, :k]
    same = [len(np.intersect1d(a, b)) / k for a, b in zip(best, found, strict=True)]
    return float(np.mean(same))
