"""Objectives by the name that ``train.objective`` gives them.

Each takes unit queries (B, d), item rows before normalisation (R, d), what to compare
and the settings, and returns a scalar that is differentiable in the first two.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from recsys.training.objectives.batch import LossBatch
from recsys.training.objectives.bpr import bpr
from recsys.training.objectives.pointwise import cosine, logistic
from recsys.training.objectives.ranking import ranking
from recsys.training.objectives.softmax import softmax
from recsys.training.settings import Settings

Objective = Callable[[Tensor, Tensor, LossBatch, Settings], Tensor]

OBJECTIVES: dict[str, Objective] = {
    "ranking": ranking,
    "softmax": softmax,
    "cosine": cosine,
    "bpr": bpr,
    "logistic": logistic,
}
