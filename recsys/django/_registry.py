"""recommender(): what a Django project imports."""

from __future__ import annotations

from typing import Any, TypeVar

from django.apps import apps
from django.db.models import Model
from django.db.models.manager import BaseManager
from django.db.models.query import QuerySet

from recsys.django._recommender import ModelRecommender
from recsys.errors import ConfigError

M = TypeVar("M", bound=Model)

_registered: dict[str, ModelRecommender[Any]] = {}


def recommender(
    model: str,
    items: type[M] | BaseManager[M] | QuerySet[M],
    *,
    item_field: str = "pk",
) -> ModelRecommender[M]:
    """Return the recommender of a recsys model whose items are Django instances.

    It is cheap and connects to nothing: make it where the models are known, such as in
    the app's recommenders.py, which is imported at the start.

    Args:
        model: Name of the model in recsys.toml.
        items: The Django model of the items, or a QuerySet that says how they are
            loaded, such as ``Product.objects.select_related("brand")``.
        item_field: The field that holds the item id of recsys.toml.

    Raises:
        ConfigError: The items are no Django model, manager or QuerySet, or
            INSTALLED_APPS lacks "recsys.django".

    Example:
        >>> shop = recommender("shop", Product)
        >>> page = shop.recommend(request, k=12, among=Product.objects.in_stock())
    """
    if not apps.is_installed("recsys.django"):
        raise ConfigError(
            "the app of recsys is not installed",
            hint="Put 'recsys.django' (not 'recsys') into INSTALLED_APPS.",
        )
    found: ModelRecommender[M] = ModelRecommender(model, items, item_field=item_field)
    _registered[model] = found
    return found


def of_model(model: str) -> ModelRecommender[Any]:
    """Return the recommender that was made for a model.

    Raises:
        ConfigError: None was.
    """
    try:
        return _registered[model]
    except KeyError:
        raise ConfigError(
            f"no recommender was made for the model {model!r}",
            hint=f"In an app's recommenders.py: {model} = recommender({model!r}, ...).",
        ) from None


def registered() -> list[ModelRecommender[Any]]:
    """Return every recommender that was made."""
    return list(_registered.values())
