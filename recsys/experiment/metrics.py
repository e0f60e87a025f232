"""What an experiment measures: presets and formulas, and what a model can record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recsys._db import Connection
from recsys.errors import ConfigError

_METRIC = re.compile(r"[a-z][a-z0-9_]{0,47}")
_NUMERATOR = re.compile(r"(impressions|clicks|items|(count|any|sum)\([^()]+\))")
_DENOMINATOR = re.compile(r"(users|impressions|clicks|items|(count|any)\([^()]+\))")
_KIND = re.compile(r"\(\s*([^()]*?)\s*\)")


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured: two measures, each summed over the users of an arm.

    A measure is ``users``, ``impressions`` (answers), ``clicks`` (answers that led to
    an outcome of any kind, as in recsys.version_outcome), ``items`` (items shown),
    ``count(KIND)``, ``any(KIND)`` or ``sum(KIND)`` (outcomes of a kind: how many,
    whether there was one, their value); the kind ``*`` is every kind.
    """

    name: str
    numerator: str
    denominator: str = "users"


PRESETS = {
    metric.name: metric
    for metric in (
        Metric("ctr", "clicks", "impressions"),
        Metric("conversion", "any(purchase)"),
        Metric("revenue", "sum(purchase)"),
        Metric("purchases", "count(purchase)"),
        Metric("impressions", "impressions"),
    )
}


def parse_metric(text: str) -> Metric:
    """Read a metric: the name of a preset, or ``NAME=NUMERATOR[/DENOMINATOR]``.

    Raises:
        ConfigError: It is neither.
    """
    if text in PRESETS:
        return PRESETS[text]
    name, equals, formula = text.partition("=")
    numerator, _, denominator = formula.partition("/")
    metric = Metric(
        name.strip(), _stripped(numerator), _stripped(denominator) or "users"
    )
    if not equals:
        raise ConfigError(
            f"unknown metric {text!r}",
            hint=f"Presets: {', '.join(PRESETS)}; or 'saves=count(save)/impressions'.",
        )
    check_metric(metric)
    return metric


def _stripped(measure: str) -> str:
    """Return a measure without the spaces around it and its kind."""
    return _KIND.sub(r"(\1)", measure.strip())


def check_kinds(
    conn: Connection, model: str, number: int, metrics: Sequence[Metric]
) -> None:
    """Refuse a kind that ``record`` would refuse: nobody could ever measure it.

    Raises:
        ConfigError: A metric names a kind without a weight in the version.
    """
    row = conn.execute(
        "select array(select jsonb_object_keys(v.spec -> 'interactions' -> 'weights'))"
        " from recsys.model_version as v where v.model = %s and v.number = %s",
        (model, number),
    ).fetchone()
    known: list[str] = row[0] if row else []
    for metric in metrics:
        for kind in _KIND.findall(metric.numerator + metric.denominator):
            if known and kind != "*" and kind not in known:
                raise ConfigError(
                    f"metric {metric.name} measures {kind!r}, which has no weight in"
                    f" version {number} of model {model!r}",
                    hint=f"Kinds: {', '.join(sorted(known))}; or * for every kind.",
                )


def check_metric(metric: Metric) -> None:
    """Refuse a name or a measure that the database would refuse.

    Raises:
        ConfigError: It does.
    """
    if not _METRIC.fullmatch(metric.name):
        raise ConfigError(
            f"not a name of a metric: {metric.name!r}",
            hint="Lower-case letters, digits and underscores, a letter first.",
        )
    for part, pattern in (
        (metric.numerator, _NUMERATOR),
        (metric.denominator, _DENOMINATOR),
    ):
        if not pattern.fullmatch(part):
            raise ConfigError(
                f"metric {metric.name} cannot measure {part!r}",
                hint="Measures: impressions, clicks, items, count(KIND), any(KIND),"
                " sum(KIND); below the line also users, but no sum.",
            )
