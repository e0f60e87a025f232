"""The full update: a version goes on from the one before, on what came since.

One epoch over the new interactions, shuffled, each once, from the rows and weights of
the parent. Its peak learning rate is chosen among a few shares of the parent's: each is
tried on the older part of the news and judged on the newest, as is no learning at all.
"""

from recsys.training.full.update import train_full

__all__ = ["train_full"]
