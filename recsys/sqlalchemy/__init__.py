"""recsys for applications on SQLAlchemy 2: sessions, engines, select() as a filter.

``Recommender("shop", connection=session)`` and ``among=select(Product.id)`` come here
by themselves; the views and tables of the schema ``recsys`` are in
``recsys.sqlalchemy.views``, ``.tables`` and ``.functions``.
"""

from __future__ import annotations

from recsys.sqlalchemy._instances import instances
from recsys.sqlalchemy._queries import sql_of
from recsys.sqlalchemy._sources import (
    ConnectionSource,
    EngineSource,
    SessionSource,
    source,
)

__all__ = [
    "ConnectionSource",
    "EngineSource",
    "SessionSource",
    "instances",
    "source",
    "sql_of",
]
