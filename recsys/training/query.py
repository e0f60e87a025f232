"""History encoders: the items of a history to one vector of taste."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.training.ragged import Selection


class MeanQuery(nn.Module):
    """The weighted mean of the history-side rows."""

    def forward(self, rows: Tensor, history: Selection) -> Tensor:
        """Return the taste of B histories.

        Args:
            rows: History-side item rows, shape (R, d).
            history: Their entries, by row; lists may be empty.

        Returns:
            Shape (B, d); 0 for an empty history.
        """
        weight = history.weights(rows)
        total = rows.new_zeros(len(history.start)).index_add_(0, history.owner, weight)
        return F.embedding_bag(
            history.values,
            rows,
            history.start,
            mode="sum",
            per_sample_weights=weight / total[history.owner],
        )
