"""recsys: the recommender that lives inside Postgres."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from recsys.errors import RecsysError

if TYPE_CHECKING:
    from recsys.recommender import Recommender
    from recsys.rules import Fresh, Rules
    from recsys.sync import sync_items
    from recsys.types import Page, Recommendation

__all__ = [
    "Fresh",
    "Page",
    "Recommendation",
    "Recommender",
    "RecsysError",
    "Rules",
    "sync_items",
]

_HOMES = {
    "Fresh": "recsys.rules",
    "Page": "recsys.types",
    "Recommendation": "recsys.types",
    "Recommender": "recsys.recommender",
    "Rules": "recsys.rules",
    "sync_items": "recsys.sync",
}


def __getattr__(name: str) -> object:
    # numpy and psycopg take 150 ms to import; 'import recsys' alone needs neither.
    if name not in _HOMES:
        raise AttributeError(f"module 'recsys' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
