"""The shop."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The shop as a Django app."""

    name = "shop"
