"""What recsys.toml says about interactions: ``[model.NAME.interactions]``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from recsys._config_read import keys, sql_of, table_of
from recsys._toml import alternatives, literal
from recsys.errors import ConfigError

VALUE_SCALES = ("", "linear", "log")
_EXAMPLE = (
    "Add [model.NAME.interactions] with "
    'sql = "select user_id, item_id, occurred_at, kind from ..."'
)


@dataclass(frozen=True, slots=True)
class Interactions:
    """The interaction source.

    Attributes:
        sql: Returns ``user_id``, ``item_id`` and optionally ``occurred_at`` (a
            timestamp), ``kind`` (text) and one column per context feature.
        weights: Weight per kind. A kind of weight 0 counts as seen, never as taste.
            Kinds not listed weigh 1 when the table is empty, else 0.
        targets: Kinds that evaluation counts as hits; empty means every kind of
            positive weight.
        record: Statement that ``record()`` runs, with %(user_id)s, %(item_id)s,
            %(kind)s, %(occurred_at)s and %(request_id)s; empty means the table
            ``recsys.interaction``.
        dislikes: Kinds that say "not this": negatives of the user, never taste.
        value: How the column ``value`` of the query becomes a weight: "linear" or
            "log"; empty leaves it aside.
        value_cap: Greatest value that counts; 0 takes the 99th percentile.
    """

    sql: str
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    targets: tuple[str, ...] = ()
    record: str = ""
    dislikes: tuple[str, ...] = ()
    value: str = ""
    value_cap: float = 0.0


def interactions_of(table: Mapping[str, Any], where: str) -> Interactions:
    """Return the checked ``interactions`` table of a model."""
    if "interactions" not in table:
        raise ConfigError(f"{where} has no [interactions] table", hint=_EXAMPLE)
    here = f"[{where[1:-1]}.interactions]"
    part = table_of(table, "interactions", where)
    keys(part, tuple(f.name for f in fields(Interactions)), here)
    weights = table_of(part, "weights", here)
    for kind, weight in weights.items():
        if type(weight) not in (int, float) or not 0 <= weight < 1e6:
            raise ConfigError(
                f"{here} weights.{kind} must be a number from 0 to a million",
                hint="Weight 0 means: seen, but says nothing about taste.",
            )
    targets, dislikes = (_kinds(part, key, here) for key in ("targets", "dislikes"))
    unknown = set(targets) - set(weights) if weights else set[str]()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ConfigError(f"{here} targets names kinds without a weight: {names}")
    _check_dislikes(dislikes, weights, here)
    record = part.get("record", "")
    if not isinstance(record, str):
        raise ConfigError(f"{here} record must be an SQL statement")
    value = part.get("value", "")
    if value not in VALUE_SCALES:
        raise ConfigError(
            f"{here} value must be {alternatives(VALUE_SCALES[1:])}, got"
            f" {literal(value)}",
            hint="It says how the column value of the sql becomes a weight.",
        )
    cap = part.get("value_cap", 0.0)
    if type(cap) not in (int, float) or not 0 <= cap < math.inf:
        raise ConfigError(f"{here} value_cap must be a positive number")
    return Interactions(
        sql=sql_of(part, here),
        weights={k: float(v) for k, v in weights.items()},
        targets=targets,
        record=record,
        dislikes=dislikes,
        value=value,
        value_cap=float(cap),
    )


def _kinds(part: Mapping[str, Any], key: str, here: str) -> tuple[str, ...]:
    kinds = part.get(key, [])
    if not isinstance(kinds, list) or not all(
        isinstance(kind, str) for kind in cast(list[object], kinds)
    ):
        raise ConfigError(f"{here} {key} must be a list of kinds")
    return tuple(cast(list[str], kinds))


def _check_dislikes(
    dislikes: tuple[str, ...], weights: Mapping[str, Any], here: str
) -> None:
    if not dislikes:
        return
    if not weights:
        raise ConfigError(
            f"{here} dislikes needs weights: without them every kind is taste",
            hint="Add weights = { ... } with the kinds that are taste.",
        )
    liked = [kind for kind in dislikes if weights.get(kind, 0) > 0]
    if liked:
        raise ConfigError(
            f"{here} dislikes names kinds with a weight above 0: {', '.join(liked)}",
            hint="A kind is taste or dislike; leave it out of weights, or give it 0.",
        )
