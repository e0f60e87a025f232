"""Choosing temperature, dropout, epochs and trend on the validation slice.

Greedy: short fits try another temperature, at the better one another dropout, then
companions as further positives and, in small catalogues, longer vectors; then, as time
is left, what lies behind a temperature or a dropout that won. One longer fit
with the winner shows from which epoch on it overfits. All of it takes a share of the
budget, and what the longest final fit leaves. Whatever the configuration fixes is not
searched, and with ``epochs`` fixed nothing here looks at the clock.
"""

from recsys.training.choice.choosing import USED, choose
from recsys.training.choice.result import Choice

__all__ = ["USED", "Choice", "choose"]
