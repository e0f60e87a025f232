"""From ids to instances, by one query of the application's own."""

from __future__ import annotations

from time import perf_counter
from typing import Any, TypeVar, cast

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.models import Field, Model
from django.db.models.query import QuerySet

from recsys import observe
from recsys.django._pages import ModelPage
from recsys.django._queries import queryset_of
from recsys.errors import ConfigError
from recsys.types import Page

M = TypeVar("M", bound=Model)


def checked(queryset: QuerySet[M], base: QuerySet[M]) -> QuerySet[M]:
    """Return ``queryset=``, if instances can be looked up by it.

    Raises:
        ConfigError: They cannot.
    """
    found = queryset_of(queryset)
    if found is None or not loads(found):
        raise ConfigError(
            "queryset= loads the items of an answer: it must be a QuerySet of instances"
            " that can be filtered, no values(), slice or union",
            hint="among= says which items may be in the answer, and takes them all.",
        )
    same = found.model._meta.concrete_model is base.model._meta.concrete_model
    if not same and not issubclass(found.model, base.model):
        raise ConfigError(
            f"queryset= is one of {found.model.__name__}; the items are "
            f"{base.model.__name__}"
        )
    return cast("QuerySet[M]", found)


def loads(queryset: QuerySet[Any]) -> bool:
    """Say whether instances can be looked up by a QuerySet."""
    inner, fields = cast("Any", queryset.query), cast("Any", queryset)._fields
    return fields is None and not inner.is_sliced and not inner.combinator


def suited(given: QuerySet[Any] | None, base: QuerySet[M]) -> QuerySet[M]:
    """Return a filter of the items where it also loads them, else the base."""
    if given is None or not loads(given):
        return base
    inner = cast("Any", given.query)
    same = given.model._meta.concrete_model is base.model._meta.concrete_model
    if not same or inner.distinct_fields or inner.select_for_update:
        return base
    if inner.group_by is None and _multiplies(inner):
        return base  # a row for each event of an item, say
    return cast("QuerySet[M]", given)


def _multiplies(inner: Any) -> bool:
    """Say whether a query joins what an item can have many of."""
    joins = (
        getattr(join, "join_field", None)
        for alias, join in inner.alias_map.items()
        if inner.alias_refcount[alias]
    )
    return any(join and (join.one_to_many or join.many_to_many) for join in joins)


def filled(
    page: Page, loading: QuerySet[M], field: Field[Any, Any], channel: str
) -> ModelPage[M]:
    """Return a page with its instances.

    Args:
        page: Ids and scores.
        loading: The QuerySet that loads the instances.
        field: Their field that holds the item id.
        channel: What observers are told.
    """
    started = perf_counter()
    try:
        found = _instances(page, loading, field) if len(page) else []
    except (DatabaseError, InterfaceError):
        if page.degraded is None:
            raise
        found = []  # the database is away: there is nothing to load
    if observe.active():
        observe.hydrated(page, (perf_counter() - started) * 1e3, channel=channel)
    return ModelPage(
        found, page, lambda k: filled(page.next(k), loading, field, channel)
    )


def _instances(page: Page, loading: QuerySet[M], field: Field[Any, Any]) -> list[M]:
    wanted = loading.order_by().filter(**{f"{field.name}__in": page.ids})
    if connections[wanted.db].in_atomic_block:
        # A statement that runs out of time must not end the caller's transaction.
        with transaction.atomic(using=wanted.db):
            loaded = list(wanted)
    else:
        loaded = list(wanted)
    by_id = {str(getattr(item, field.attname)): item for item in loaded}
    found: list[M] = []
    for one in page:
        item = by_id.get(str(one.item_id))
        if item is not None:
            cast("Any", item).recsys_score = one.score
            found.append(item)
    return found
