"""recommend() in Django: instances in order, the app's own connection and QuerySets."""

from __future__ import annotations

from django_store.models import Product
from django_store.recommenders import shop
from world import Shop


def test_a_page_holds_instances_in_the_order_of_the_ids(store: Shop) -> None:
    page = shop.recommend(7, k=10)

    assert [product.pk for product in page] == page.ids
    assert len(page) == 10
    assert all(isinstance(product, Product) for product in page)
    scores = [product.recsys_score for product in page]
    assert scores == sorted(scores, reverse=True)
