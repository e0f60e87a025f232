"""Choosing temperature, dropout, epochs and trend on the validation slice.

Greedy: short fits try the temperatures, then at the best of them the dropouts, then
companions as further positives and, in small catalogues, longer vectors; one longer fit
with the winner shows from which epoch on it overfits. All of it takes a share of the
budget, and what the longest final fit leaves. Whatever the configuration fixes is not
searched, and with ``epochs`` fixed nothing here looks at the clock.
"""

from recsys.training.choice.choosing import USED, choose
from recsys.training.choice.result import Choice

__all__ = ["USED", "Choice", "choose"]
