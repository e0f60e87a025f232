"""Choosing temperature, dropout, epochs and trend on the validation slice.

Greedy: short fits try the temperatures, then at the best of them the dropouts, then
companions as further positives; one longer fit with the winner shows from which epoch
on it overfits. All of it takes a share of the budget. Whatever the configuration
fixes is not searched, and with ``epochs`` fixed nothing here looks at the clock.
"""

from recsys.training.choice.choosing import choose
from recsys.training.choice.result import Choice

__all__ = ["Choice", "choose"]
