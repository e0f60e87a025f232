"""{% load recsys %}: recommendations in a template."""

from __future__ import annotations

from typing import Any

from django import template
from django.http import HttpRequest

from recsys.django._pages import ModelPage
from recsys.django._registry import of_model
from recsys.errors import UnknownItem

register = template.Library()


@register.simple_tag(takes_context=True)
def recommend(context: Any, model: str, **options: Any) -> ModelPage[Any]:
    """Return recommendations for who asks for the page.

    The template needs ``request`` (the context processor ``request``, or ``render()``).

    Example:
        {% recommend "shop" k=8 as picks %}
        {% for product in picks %}...{% endfor %}
    """
    request = context.get("request")
    who = request if isinstance(request, HttpRequest) else None
    return of_model(model).recommend(who, **options)


@register.simple_tag(takes_context=True)
def similar(
    context: Any, model: str, item: Any, **options: Any
) -> ModelPage[Any] | tuple[()]:
    """Return the items most like one; none for no item or one without a vector.

    Example:
        {% similar "shop" product k=6 as others %}
    """
    if item is None or item == "":
        return ()  # a variable that the template does not have
    request = context.get("request")
    who = request if isinstance(request, HttpRequest) else None
    try:
        return of_model(model).similar(item, who=who, **options)
    except UnknownItem:
        return ()
