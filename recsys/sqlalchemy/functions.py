"""The analysts' functions of the schema ``recsys``, to select from and to join with.

Item ids come out as text, whatever their type, so that one function serves every model:
join with ``Product.id == cast(best.c.item_id, BigInteger)``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Integer,
    Text,
    Uuid,
    func,
    literal,
)
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

from recsys.sqlalchemy.views import experiment_health
from recsys.types import ItemId, UserId

_TIME = DateTime(timezone=True)


def recommend(model: str, user_id: UserId, k: int = 20) -> TableValuedAlias:
    """Return ``recsys.recommend``: the k best items of a user.

    Args:
        model: Name of the model.
        user_id: The application's user id.
        k: List length, 1 to 1000.

    Returns:
        Columns ``item_id`` and ``score``, best first.

    Example:
        >>> best = functions.recommend("shop", 7, k=3)
        >>> select(best.c.item_id, best.c.score)
    """
    return _ranked("recommend", model, user_id, k)


def similar_items(model: str, item_id: ItemId, k: int = 20) -> TableValuedAlias:
    """Return ``recsys.similar_items``: the k items most like one item.

    Args:
        model: Name of the model.
        item_id: The application's item id.
        k: List length, 1 to 1000.

    Returns:
        Columns ``item_id`` and ``score``, best first.
    """
    return _ranked("similar_items", model, item_id, k)


def coverage(model: str, number: int) -> TableValuedAlias:
    """Return ``recsys.coverage``: how completely a version covers its item source.

    Args:
        model: Name of the model.
        number: Of the version.

    Returns:
        One row: ``source_count``, ``item_count``, ``missing``, ``orphaned``.
    """
    names = ("source_count", "item_count", "missing", "orphaned")
    call = func.recsys.coverage(literal(model, Text), literal(number, Integer))
    return call.table_valued(*(Column(name, BigInteger) for name in names))


def experiment_result_at(experiment: str, moment: datetime) -> TableValuedAlias:
    """Return ``recsys.experiment_result_at``: results as they were at a time.

    Args:
        experiment: Name of the experiment.
        moment: With a time zone.

    Returns:
        The columns of the view ``experiment_result`` without ``experiment``.
    """
    doubles = (
        "mean difference se low high sequence_low sequence_high lift lift_low"
        " lift_high lift_sequence_low lift_sequence_high p_value p_adjusted"
        " sequential_p sequential_p_adjusted variance_reduction"
    )
    return func.recsys.experiment_result_at(
        literal(experiment, Text), literal(moment, _TIME)
    ).table_valued(
        Column("metric", Text),
        Column("is_primary", Boolean),
        Column("arm", Text),
        Column("is_control", Boolean),
        Column("users", BigInteger),
        *(Column(name, Double) for name in doubles.split()),
        Column("note", Text),
    )


def experiment_health_at(experiment: str, moment: datetime) -> TableValuedAlias:
    """Return ``recsys.experiment_health_at``: users per arm as they were at a time.

    Args:
        experiment: Name of the experiment.
        moment: With a time zone.

    Returns:
        The columns of the view ``experiment_health`` without ``experiment``.
    """
    return func.recsys.experiment_health_at(
        literal(experiment, Text), literal(moment, _TIME)
    ).table_valued(
        *(
            Column(column.name, column.type)
            for column in experiment_health.columns
            if column.name != "experiment"
        )
    )


def _ranked(name: str, model: str, given: ItemId, k: int) -> TableValuedAlias:
    kinds: dict[type, TypeEngine[Any]] = {int: BigInteger(), str: Text()}
    kind = kinds.get(type(given), Uuid())
    call = getattr(func.recsys, name)
    return call(
        literal(model, Text), literal(given, kind), literal(k, Integer)
    ).table_valued(Column("item_id", Text), Column("score", REAL))
