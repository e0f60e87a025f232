"""The validation slice: what is learned before it, and who judges on it."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.config import TrainConfig
from recsys.popularity import DAY_S
from recsys.training.ahead import Ahead
from recsys.training.cold import Newcomers
from recsys.training.dataset import Dataset
from recsys.training.evaluation import Judge
from recsys.training.rows import QueryRows, query_rows
from recsys.training.split import Split, horizon_s, split


@dataclass(frozen=True, slots=True)
class Slice:
    """The data, cut in two.

    Attributes:
        dataset: All of it.
        cut: Where.
        rows: What is learned from.
        judge: Ranks for the users of the slice.
        ahead: Chooses popularity as of several days.
        new: Judges items without a learned row.
    """

    dataset: Dataset
    cut: Split
    rows: QueryRows
    judge: Judge
    ahead: Ahead
    new: Newcomers

    @classmethod
    def of(cls, dataset: Dataset, config: TrainConfig) -> Slice | None:
        """Cut the data; None where nobody can be validated on."""
        serves_s = horizon_s(dataset, config.validation, config.horizon_days)
        cut = split(dataset, config.validation, config.seed, serves_s)
        if not len(cut.users):
            return None
        half_life_s = config.half_life_days * DAY_S
        rows = query_rows(dataset, cut.train, cut.end, config.history, half_life_s)
        judge = Judge(dataset, rows, cut, config.seed)
        ahead = Ahead(dataset, rows, cut, judge, config, serves_s)
        new = Newcomers(dataset, rows, cut, config.seed)
        return cls(dataset, cut, rows, judge, ahead, new)
