"""The recommenders of ids of this process, one per model."""

from __future__ import annotations

from typing import Any

from django.db import connections

from recsys.django import conf
from recsys.django._source import DjangoSource, dsn_of_alias
from recsys.recommender import Recommender

_cores: dict[str, Recommender] = {}


def reset() -> None:
    """Forget what the process has loaded, as after a change of settings in a test."""
    for core in _cores.values():
        core.close()
    _cores.clear()


def core_of(model: str) -> Recommender:
    """Return the process's recommender of a model on Django's connection."""
    found = _cores.get(model)
    if found is None:
        given = conf.current()
        options: dict[str, Any] = {"impressions": given.impressions}
        if given.reads:
            options["reads"] = [_replica(read) for read in given.reads]
        if given.timeout_ms is not None:
            options["timeout_ms"] = given.timeout_ms
        if not given.fallback:
            options["fallback"] = False
        found = Recommender(model, connection=DjangoSource(given.database), **options)
        found = _cores.setdefault(model, found)  # another thread may have come first
    return found


def _replica(read: str) -> str:
    return dsn_of_alias(read) if read in connections.settings else read
