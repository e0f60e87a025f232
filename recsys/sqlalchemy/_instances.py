"""From a page of ids to the application's objects."""

from __future__ import annotations

import time
from typing import Any, TypeVar, cast

from sqlalchemy import Select, inspect, select
from sqlalchemy.orm import InstrumentedAttribute, Mapper, Session, scoped_session

from recsys import observe
from recsys.errors import ConfigError
from recsys.types import Page

_T = TypeVar("_T")


def instances(
    session: Session | scoped_session[Any],
    page: Page,
    query: type[_T] | Select[Any],
    *,
    key: InstrumentedAttribute[Any] | None = None,
) -> list[_T]:
    """Return the objects of a page in its order, with one query.

    Args:
        session: Loads them.
        page: The answer.
        query: The mapped class, or a ``select()`` of it with what should be loaded
            along: ``select(Product).options(joinedload(Product.brand))``.
        key: The attribute that holds the item id; default the primary key.

    Returns:
        One object per item; items that the query does not return are left out.

    Raises:
        ConfigError: It selects no mapped class, or its primary key has several columns.
    """
    started = time.perf_counter()
    statement = cast(
        "Select[Any]", query if isinstance(query, Select) else select(query)
    )
    key = _key(statement) if key is None else key
    found: dict[Any, _T] = {}
    # Some keep their uuids as text: Uuid(as_uuid=False), String.
    plain = str if _holds_text(key) else _as_it_is
    wanted = [plain(item) for item in page.ids]
    if wanted:
        rows = session.scalars(statement.where(key.in_(wanted))).unique()
        found = {plain(getattr(one, key.key)): cast("_T", one) for one in rows}
    observe.hydrated(page, (time.perf_counter() - started) * 1e3)
    return [found[item] for item in wanted if item in found]


def _as_it_is(item: object) -> object:
    return item


def _holds_text(key: InstrumentedAttribute[Any]) -> bool:
    try:
        return key.type.python_type is str
    except NotImplementedError:  # a type of the application's own
        return False


def _key(statement: Select[Any]) -> InstrumentedAttribute[Any]:
    entity = statement.column_descriptions[0]["entity"]
    if entity is None or statement.column_descriptions[0]["expr"] is not entity:
        raise ConfigError(
            "instances() needs a mapped class, or a select() of one",
            hint="Pass Product, or select(Product).options(...).",
        )
    mapper = cast("Mapper[Any]", inspect(entity).mapper)
    if len(mapper.primary_key) != 1:
        raise ConfigError(
            f"{mapper.class_.__name__} has a primary key of several columns",
            hint="Say which attribute is the item id: key=Product.sku.",
        )
    name = mapper.get_property_by_column(mapper.primary_key[0]).key
    return cast("InstrumentedAttribute[Any]", getattr(entity, name))
