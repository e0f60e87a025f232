"""The shop's recommender; recsys imports this module at the start."""

from recsys.django import recommender
from shop.models import Product

# The QuerySet says how recommended products are loaded.
shop = recommender("shop", Product.objects.select_related("category"))
