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


def checked(queryset: QuerySet[M]) -> QuerySet[M]:
    """Return ``queryset=``, if instances can be looked up by it.

    Raises:
        ConfigError: They cannot.
    """
    found = cast("Any", queryset_of(queryset))
    if found is None or found._fields is not None:
        said = "a QuerySet of instances"
    elif found.query.is_sliced or found.query.combinator:
        said = "one that can be filtered: no slice, no union"
    else:
        return cast("QuerySet[M]", found)
    raise ConfigError(
        f"queryset= loads the items of an answer; it must be {said}",
        hint="among= says which items may be in the answer, and takes slices.",
    )


def suited(given: QuerySet[Any] | None, base: QuerySet[M]) -> QuerySet[M]:
    """Return a filter of the items where it also loads them, else the base."""
    among = cast("Any", given)
    if among is None or among._fields is not None:
        return base
    inner = among.query
    same = among.model._meta.concrete_model is base.model._meta.concrete_model
    if not same or inner.is_sliced or inner.combinator or inner.distinct_fields:
        return base
    return cast("QuerySet[M]", among)


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
