"""QuerySets as SQL: filters, boosts, keys and times of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from django.core.exceptions import EmptyResultSet, FieldDoesNotExist
from django.db import DEFAULT_DB_ALIAS, models, router
from django.db.models.expressions import RawSQL
from django.db.models.manager import BaseManager
from django.db.models.query import QuerySet, RawQuerySet

from recsys.errors import ConfigError
from recsys.filters import normalise, place

AnyQuerySet = QuerySet[Any]


def sql_of(
    query: object,
    columns: int,
    source: object = None,
    *,
    item: models.Field[Any, Any] | None = None,
) -> tuple[str, Sequence[Any]] | None:
    """Return a QuerySet as SQL and its parameters, without running it.

    A QuerySet of items stands for their ids. Its ordering counts only where it is
    sliced or ``distinct`` on fields.

    Args:
        query: A QuerySet or a manager.
        columns: How many columns are needed; the first is the item id.
        source: Where the statement will run; its ``alias`` is Django's.
        item: The field that holds the item id, where it is known.

    Returns:
        None for one that matches nothing, such as ``none()``.

    Raises:
        ConfigError: It is on another database, selects other columns, or is no
            QuerySet.
    """
    alias = getattr(source, "alias", None) or DEFAULT_DB_ALIAS
    found: Any = _queryset(query)
    _check_database(found, alias)
    if _selected(found) is None:
        if columns != 1:
            raise ConfigError(
                f"a QuerySet of {found.model.__name__} instances has no {columns} "
                "columns",
                hint=f"End it with values_list(...). {place(columns)}",
            )
        field = _item_field(found, item)
        found = found.values_list(field.attname)
    else:
        _check_columns(found, columns, item)
    return _compiled(found, alias, columns)


def within(
    own: AnyQuerySet, among: object, field: models.Field[Any, Any]
) -> AnyQuerySet:
    """Return the items of one QuerySet that another filter has, too.

    Raises:
        ConfigError: The filter is SQL whose parameters have names.
    """
    found = queryset_of(among)
    if found is not None:
        inner: Any = found if _selected(found) else found.values(field.attname)
    else:
        text, given = normalise(among, 1) or ("", None)
        if isinstance(given, Mapping):
            raise ConfigError(
                "the items of this recommender are filtered, and so its SQL filters"
                " take a list of parameters, not a dict"
            )
        text = text.replace("%", "%%") if given is None else text
        inner = RawSQL(f"({text})", list(given or ()))
    return own.filter(**{f"{field.name}__in": inner})


def queryset_of(query: object) -> AnyQuerySet | None:
    """Return a QuerySet or a manager as a QuerySet; None for other queries."""
    if isinstance(query, BaseManager):
        return cast("AnyQuerySet", query.all())
    return cast("AnyQuerySet", query) if isinstance(query, QuerySet) else None


def _queryset(query: object) -> AnyQuerySet:
    found = queryset_of(query)
    if found is not None:
        return found
    if isinstance(query, RawQuerySet):
        raise ConfigError(
            "a raw QuerySet cannot be read as a filter",
            hint='Pass its SQL and parameters: ("select id from ...", [...]).',
        )
    raise ConfigError(
        f"expected a QuerySet, got {type(query).__name__}",
        hint="Such as Product.objects.filter(in_stock=True).",
    )


def _check_database(query: AnyQuerySet, alias: str) -> None:
    """Refuse a QuerySet of another database than the recommender's."""
    asked = cast("str | None", query._db)  # pyright: ignore[reportAttributeAccessIssue] # no public name tells using() from the router
    home = asked or router.db_for_write(query.model)
    if home != alias:
        said = "uses" if asked else "is of a model that the router keeps in"
        raise ConfigError(
            f"the QuerySet {said} the database {home!r}, and the recommender {alias!r}",
            hint="One statement cannot read both: pass the ids, such as "
            'among=("select unnest(%s::bigint[])", [ids]).',
        )


def _selected(query: AnyQuerySet) -> list[str] | None:
    """Return the names given to values() or values_list(); None for instances."""
    fields = cast("Sequence[Any] | None", query._fields)  # pyright: ignore[reportAttributeAccessIssue] # the only place that tells values() from instances
    if fields is None:
        return None
    inner = cast("Any", query.query)
    names = [*inner.extra_select, *inner.values_select, *inner.annotation_select]
    chosen = getattr(inner, "selected", None)  # from Django 5.2 on: in the order asked
    return list(chosen) if chosen else names


def _item_field(
    query: AnyQuerySet, item: models.Field[Any, Any] | None
) -> models.Field[Any, Any]:
    """Return the field whose values are the item ids, for a QuerySet of instances."""
    meta = query.model._meta
    if item is None:
        return cast("models.Field[Any, Any]", meta.pk)
    wanted = item.model._meta.concrete_model
    assert wanted is not None
    if not issubclass(query.model, wanted):
        raise ConfigError(
            f"a QuerySet of {query.model.__name__} holds no items: those are "
            f"{wanted.__name__} instances",
            hint=f"End it with values() of the column that refers to "
            f"{wanted.__name__}.",
        )
    return item


def _check_columns(
    query: AnyQuerySet, columns: int, item: models.Field[Any, Any] | None
) -> None:
    """Refuse values() of too many columns, or of one that holds no item."""
    names = _selected(query) or []
    if len(names) != columns:
        raise ConfigError(
            f"the QuerySet selects {len(names)} columns ({', '.join(names) or '-'})",
            hint=place(columns),
        )
    first = names[0]
    asked = [str(name) for name in cast("Any", query)._fields]
    if asked and asked[0] in names and asked[0] != first:
        raise ConfigError(
            f"this Django puts the column {first!r} before {asked[0]!r}",
            hint="Django 5.2 keeps the order; before, name the item by a field and "
            "the other column by an annotation.",
        )
    if first in cast("Any", query.query).annotation_select:
        return  # an expression may be anything; Postgres checks its type
    field = _field(query.model, first)
    if field is None or _holds_items(field, item):
        return
    raise ConfigError(
        f"{query.model.__name__}.{first} holds no item ids",
        hint="Select the item's primary key, or a foreign key to it.",
    )


def _field(model: type[models.Model], path: str) -> models.Field[Any, Any] | None:
    """Follow a path such as "lines__product" to its field."""
    found: Any = None
    for part in path.split("__"):
        if model is None or part == "pk":  # pyright: ignore[reportUnnecessaryComparison]
            return cast("Any", model._meta.pk) if model else found
        try:
            found = model._meta.get_field(part)
        except FieldDoesNotExist:
            return None
        model = cast("type[models.Model]", found.related_model)
    return found


def _holds_items(field: Any, item: models.Field[Any, Any] | None) -> bool:
    """Say whether the values of a field can be item ids."""
    target = field
    while getattr(target, "remote_field", None) is not None:
        targets = getattr(target, "target_field", None)
        if targets is None or targets is target:
            break
        target = targets
    if item is None:
        return bool(target.primary_key or target.unique)
    wanted = item
    while getattr(wanted, "remote_field", None) is not None:  # multi-table inheritance
        wanted = cast("Any", wanted).target_field
    return target is wanted or (
        target.model._meta.concrete_model is wanted.model._meta.concrete_model
        and target.attname == wanted.attname
    )


def _compiled(
    query: AnyQuerySet, alias: str, columns: int
) -> tuple[str, Sequence[Any]] | None:
    inner = cast("Any", query.query).chain()
    inner.select_for_update = False
    inner.select_related = False
    if not inner.is_sliced and not inner.distinct_fields:
        inner.clear_ordering(force=True)
    # As a subquery it shows the columns asked for and no others.
    inner.subquery = True
    try:
        text, parameters = inner.get_compiler(using=alias).as_sql()
    except EmptyResultSet:
        return None
    if inner.combinator:
        # A union that is ordered by another column carries that column along.
        names = ", ".join(f"c{n}" for n in range(columns))
        text = f"select {names} from ({text}) as combined ({names})"
    return text, tuple(parameters)
