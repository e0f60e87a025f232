"""Publishing a fit: ONNX towers, ID embeddings, and the proof that they are the fit.

Nothing leaves here before ``parity`` found that the towers give what torch gives.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.encoder.fit import FittedSide
from recsys.encoder.towers import item_tower, query_tower
from recsys.training.cold import MEDIAN
from recsys.training.dataset import Dataset
from recsys.training.features import EncodedSide
from recsys.training.model import Towers, array
from recsys.training.parity import check_parity
from recsys.training.rows import QueryRows
from recsys.training.trained import TrainedModel


@torch.no_grad()
def export(
    dataset: Dataset,
    rows: QueryRows,
    towers: Towers,
    bias: Tensor,
    history: int,
    cold: float = MEDIAN,
) -> TrainedModel:
    """Compile the towers and check them.

    Args:
        dataset: All the data.
        rows: What the towers were fitted to.
        towers: The fit.
        bias: Popularity dimension of the trained items, shape (T,).
        history: Greatest history length when serving.
        cold: Quantile of ``bias`` that items without a learned row get.

    Returns:
        The model; its report holds ``parity`` only.

    Raises:
        ArtifactError: The published towers do not compute what torch computes.
    """
    count, dim = len(dataset.item_ids), towers.served.shape[1]
    trained = np.zeros(count, np.bool_)
    trained[rows.items] = True
    id_served = np.zeros((count, dim), np.float32)
    id_history = np.zeros((count, dim), np.float32)
    all_bias = np.full(count, np.nan, np.float32)
    id_served[rows.items] = array(towers.served)
    id_history[rows.items] = array(towers.history)
    all_bias[rows.items] = array(bias)
    weights = towers.weights()
    weights["cold_bias"] = np.array(np.quantile(all_bias[trained], cold), np.float32)
    fitted = [_fitted(s) for s in (dataset.items, dataset.users, dataset.contexts)]
    model = TrainedModel(
        item_ids=dataset.item_ids,
        id_served=id_served,
        id_history=id_history,
        bias=all_bias,
        trained=trained,
        weights=weights,
        items=fitted[0],
        users=fitted[1],
        contexts=fitted[2],
        item_tower=item_tower(dim, fitted[0], weights),
        query_tower=query_tower(dim, fitted[1], fitted[2], weights),
        report={},
    )
    model.report["parity"] = check_parity(model, dataset, rows, towers, history)
    return model


def _fitted(side: EncodedSide | None) -> FittedSide:
    return side.fitted if side is not None else FittedSide()
