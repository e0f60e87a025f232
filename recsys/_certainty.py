"""How far a mean over so many users may lie off."""

from __future__ import annotations

import math

from recsys._wording import counted

FEW = 100
"""Users below which a number is said to be uncertain: by more than 0.1."""


def doubt(users: int) -> str | None:
    """Return what few users leave open, as a clause; None where they are enough.

    Recall, NDCG and hit rate of a user lie in [0, 1], so the standard error of their
    mean is at most half of 1 / sqrt(users), and twice that is named.

    Source:
        T. Popoviciu, 1935: a variable in [0, 1] has a variance of at most 1/4.
    """
    if users >= FEW:
        return None
    who = counted(users, "user was", "users were")
    off = 1 / math.sqrt(max(users, 1))
    return f"only {who} measured, so by chance alone each metric may lie {off:.2f} off"
