"""The embeddings artifact: the learned rows of a version as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from recsys.config import IdType
from recsys.errors import ArtifactError
from recsys.types import ItemId


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Learned rows of the items that have interactions.

    Attributes:
        item_ids: N ids in the application's type.
        served: ID rows on the served side, shape (N, D), float16.
        history: ID rows on the history side, shape (N, D), float16.
        bias: Popularity dimension, shape (N,), float32.
        default_query: Direction of a user without history, shape (D,), float32.
    """

    item_ids: Sequence[ItemId]
    served: NDArray[np.float16]
    history: NDArray[np.float16]
    bias: NDArray[np.float32]
    default_query: NDArray[np.float32]


def pack(embeddings: Embeddings, id_type: IdType) -> bytes:
    """Return the safetensors file."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[np.generic]] = {
        "served": embeddings.served,
        "history": embeddings.history,
        "bias": embeddings.bias,
        "default_query": embeddings.default_query,
    }
    tensors |= id_tensors(embeddings.item_ids, id_type)
    return save({k: np.ascontiguousarray(v) for k, v in tensors.items()})


def id_tensors(
    ids: Sequence[ItemId], id_type: IdType
) -> dict[str, NDArray[np.generic]]:
    """Return ids as the tensors that ``tensor_ids`` reads."""
    if id_type == "bigint":
        return {"item_ids": np.asarray(ids, dtype=np.int64)}
    names = [i.bytes if isinstance(i, UUID) else str(i).encode() for i in ids]
    return {
        "item_ids": np.frombuffer(b"".join(names), dtype=np.uint8),
        "item_id_ends": np.cumsum([len(name) for name in names], dtype=np.int64),
    }


def unpack(content: bytes, id_type: IdType, dim: int) -> Embeddings:
    """Read the safetensors file.

    Raises:
        ArtifactError: It is not such a file, or its rows are not of ``dim``.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
        served, history = tensors["served"], tensors["history"]
        bias, default_query = tensors["bias"], tensors["default_query"]
        ids = tensor_ids(tensors, id_type)
    except (SafetensorError, KeyError) as exc:
        raise ArtifactError(
            f"the embeddings artifact cannot be read: {exc}", hint="Train again."
        ) from exc
    if served.shape != history.shape or served.shape[1:] != (dim,):
        raise ArtifactError(
            f"the embeddings have {served.shape[-1]} dimensions, the tables {dim}",
            hint="The tables do not belong to these towers: drop and train again.",
        )
    return Embeddings(ids, served, history, bias, default_query)


def lean(weights: bytes) -> list[float]:
    """Read from the weights artifact how much popularity counts for a query.

    Returns:
        d weights of the unit query's coordinates and a constant, whose sum is added to
        1; none where popularity counts the same for every query.

    Raises:
        ArtifactError: It is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(weights)
    except SafetensorError as exc:
        raise ArtifactError(
            f"the weights artifact cannot be read: {exc}", hint="Train again."
        ) from exc
    weight = tensors.get("lean.weight")
    if weight is None:
        return []
    readout = [*weight.tolist(), float(tensors["lean.constant"])]
    return readout if any(readout) else []


def tensor_ids(tensors: Mapping[str, NDArray[Any]], id_type: IdType) -> list[ItemId]:
    """Return the ids that ``id_tensors`` wrote."""
    raw = tensors["item_ids"]
    if id_type == "bigint":
        return [int(i) for i in raw]
    blob, start = raw.tobytes(), 0
    ids: list[ItemId] = []
    for end in tensors["item_id_ends"].tolist():
        name = blob[start:end]
        ids.append(UUID(bytes=name) if id_type == "uuid" else name.decode())
        start = end
    return ids
