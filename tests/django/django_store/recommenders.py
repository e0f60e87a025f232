from django_store.models import Product
from recsys.django import recommender

shop = recommender("shop", Product)
