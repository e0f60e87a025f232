"""The declared features as numbers, by one definition for every reader.

``values`` and ``fit`` need numpy alone; ``graph`` and ``towers`` import onnx and are
therefore not imported here: a web process never writes a graph.
"""

from recsys.encoder.fit import FittedFeature, FittedSide, fit
from recsys.encoder.values import (
    Columns,
    input_name,
    json_projection,
    prepare,
    prepare_row,
    projection,
)

__all__ = [
    "Columns",
    "FittedFeature",
    "FittedSide",
    "fit",
    "input_name",
    "json_projection",
    "prepare",
    "prepare_row",
    "projection",
]
