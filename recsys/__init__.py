"""recsys: the recommender that lives inside Postgres."""

from recsys.errors import RecsysError
from recsys.recommender import Recommender
from recsys.types import Page, Recommendation

__all__ = ["Page", "Recommendation", "Recommender", "RecsysError"]
