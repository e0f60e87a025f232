"""The validation slice: what is learned before it, and who judges on it."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.config import TrainConfig
from recsys.training.ahead import Ahead
from recsys.training.cold import Newcomers
from recsys.training.dataset import Dataset
from recsys.training.evaluation import Judge
from recsys.training.rows import QueryRows, fit_rows
from recsys.training.split import Split, held_out, horizon_s


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
        cut = held_out(dataset, config)
        if not len(cut.users):
            return None
        rows = fit_rows(dataset, cut.train, cut.end, config)
        judge = Judge(dataset, rows, cut, config.seed)
        serves_s = horizon_s(dataset, config.validation, config.horizon_days)
        ahead = Ahead(dataset, rows, cut, judge, config, serves_s)
        new = Newcomers(dataset, rows, cut, config.seed)
        return cls(dataset, cut, rows, judge, ahead, new)
