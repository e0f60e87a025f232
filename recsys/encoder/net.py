"""Named weights as constants of an ONNX graph, checked on the way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.encoder.graph import Graph
from recsys.errors import ArtifactError

Weights: TypeAlias = Mapping[str, NDArray[np.float32]]


class Net:
    """A graph under construction and the weights of its layers.

    Args:
        graph: Receives the layers.
        dim: d.
        weights: By name, see ``towers``.
    """

    def __init__(self, graph: Graph, dim: int, weights: Weights) -> None:
        self.graph = graph
        self.dim = dim
        self.weights = weights

    def weight(self, name: str, shape: Sequence[int | None]) -> str:
        """Store a weight under its own name; None in the shape fits any size.

        Raises:
            ArtifactError: It is missing, not finite or of another shape.
        """
        if name not in self.weights:
            raise ArtifactError(f"weight {name!r} is missing")
        value = np.asarray(self.weights[name], dtype=np.float32)
        fits = len(value.shape) == len(shape) and all(
            wanted in (None, actual)
            for wanted, actual in zip(shape, value.shape, strict=True)
        )
        if not fits:
            raise ArtifactError(
                f"weight {name!r} has shape {value.shape}, expected {tuple(shape)}"
            )
        if not np.isfinite(value).all():
            raise ArtifactError(
                f"weight {name!r} is not finite", hint="Train with a lower train.lr."
            )
        return self.graph.constant(name, value)

    def axis(self, number: int) -> str:
        """Return the constant [number]."""
        return self.graph.constant(f"/axis_{number}", np.array([number]))
