"""Recommendations inside Django: an app, QuerySets in, model instances out.

INSTALLED_APPS = [..., "recsys.django"]
RECSYS = {"CONFIG": BASE_DIR / "recsys.toml"}

from recsys.django import recommender

shop = recommender("shop", Product)
page = shop.recommend(request, among=Product.objects.filter(in_stock=True))
"""

from recsys.django._cores import reset
from recsys.django._pages import ModelPage, page_of
from recsys.django._recommender import ModelRecommender
from recsys.django._registry import recommender
from recsys.django._visitor import Visitor

__all__ = [
    "ModelPage",
    "ModelRecommender",
    "Visitor",
    "page_of",
    "recommender",
    "reset",
]
