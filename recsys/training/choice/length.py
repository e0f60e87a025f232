"""Whether longer vectors than those that are started from may be chosen."""

from __future__ import annotations

from recsys.config import ModelConfig
from recsys.training import health
from recsys.training.dataset import Dataset

LARGER_DIM = 256
# Of larger catalogues every row, vector and index entry would take twice as much.
FEW_ITEMS = 20_000


def may_be_longer(dataset: Dataset, model: ModelConfig) -> bool:
    """Return whether ``LARGER_DIM`` is worth trying, and nothing was made for a length.

    Args:
        dataset: All the data, with the whole catalogue.
        model: What is fixed: a length, the epochs, parts of vectors that are trained,
            indexed or quantised.
    """
    train, index = model.train, model.index
    for_a_length = train.dim or train.prefixes or index.prefix
    if for_a_length or train.epochs or index.quantisation != "none":
        return False
    few = len(dataset.item_ids) <= FEW_ITEMS
    return few and health.too_large(dataset, LARGER_DIM) is None
