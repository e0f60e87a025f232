"""Model versions: what one is made of, and the statements that make and drop one.

A version plan is everything a revision file says. ``create_statements`` turns it into
SQL; the alembic operation, ``--sql`` and ``--no-revision`` all run these very texts, so
the roads cannot differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import dict_row

from recsys import _sql
from recsys._db import Connection, translated
from recsys._history import (
    history_aggregates,
    newest_history,
    sequence_values,
    taste,
    user_features,
)
from recsys._index_key import near, ordering
from recsys.config import IdType, ModelConfig, model_from_dict
from recsys.errors import ConfigError, UnknownModel, UnknownVersion
from recsys.ids import collation

LOCK_TIMEOUT = "5s"
"""Nobody queues behind a promotion or drop that itself waits for another."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,23}")


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """One model version as a revision file declares it.

    Attributes:
        model: Name of the model.
        number: Version number, from 1.
        spec: ``ModelConfig.to_dict()`` of the configuration it was trained with, plus
            "columns": the optional columns its interaction source has.
        artifacts: Name to sha256: item_tower, query_tower, embeddings, report.
        metrics: Headline metrics, by slice and method.
    """

    model: str
    number: int
    spec: Mapping[str, Any]
    artifacts: Mapping[str, str]
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def suffix(self) -> str:
        """The suffix of every per-version object."""
        return suffix(self.model, self.number)

    @property
    def config(self) -> ModelConfig:
        """The configuration the version was trained with."""
        return model_from_dict(self.spec)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered model version, as ``recsys.model_version`` has it.

    Attributes:
        dim: Length of the stored item vectors: the unit vector and popularity.
        ann_recall: Measured ANN recall@20 at ``ef_search``, in [0, 1].
    """

    model: str
    number: int
    state: str
    dim: int
    spec: Mapping[str, Any]
    artifacts: Mapping[str, str]
    metrics: Mapping[str, Any]
    phase: str
    item_count: int | None
    source_count: int | None
    ef_search: int | None
    ann_recall: float | None
    error: str | None

    @property
    def suffix(self) -> str:
        """The suffix of every per-version object."""
        return suffix(self.model, self.number)

    @property
    def config(self) -> ModelConfig:
        """The configuration the version was trained with."""
        return model_from_dict(self.spec)


def suffix(model: str, number: int) -> str:
    """Return ``<model>_<number>``, checked to be usable inside identifiers."""
    if not _NAME.fullmatch(model) or number < 1:
        raise ConfigError(f"not a model version: {model!r} {number!r}")
    return f"{model}_{number}"


def create_statements(plan: VersionPlan) -> list[str]:
    """Return the SQL that registers a version as building and makes its objects.

    Running it twice changes nothing.
    """
    config = plan.config
    values = _template_values(plan, config)
    spec = {**plan.spec, **ordering(config)}
    register = "select recsys._register_version({})".format(
        ", ".join(
            _sql.literal(value)
            for value in (
                plan.model,
                plan.number,
                config.item_id,
                config.user_id,
                config.train.dim + 1,
                json.dumps(spec, ensure_ascii=False),
                json.dumps(dict(plan.artifacts)),
                json.dumps(dict(plan.metrics)),
            )
        )
    )
    # Without the library in the session, SET hnsw.* needs a superuser (pgvector 0.8).
    load = "select '[1]'::vector"
    return [
        load,
        register,
        _sql.render("model/tables.sql", values),
        _sql.render("model/state.sql", values),
        _sql.render("model/search.sql", values),
    ]


def drop_statements(
    model: str,
    number: int,
    *,
    item_id: IdType,
    user_id: IdType,
    stop_serving: bool = False,
) -> list[str]:
    """Return the SQL that hands serving over and removes a version."""
    values = {"s": suffix(model, number), "item_type": item_id, "user_type": user_id}
    stop = "true" if stop_serving else "false"
    return [
        f"set local lock_timeout = '{LOCK_TIMEOUT}'",
        f"select recsys._retire_for_drop({_sql.literal(model)}, {number}, {stop})",
        _sql.render("model/drop.sql", values),
    ]


def _template_values(plan: VersionPlan, config: ModelConfig) -> dict[str, str]:
    sources = (config.items.sql, config.users.sql, config.interactions.sql)
    if any("$function$" in source for source in sources):
        raise ConfigError("a source may not contain the text $function$")
    return {
        "s": plan.suffix,
        "suffix_literal": _sql.literal(plan.suffix),
        "model": plan.model,
        "model_literal": _sql.literal(plan.model),
        "number": str(plan.number),
        "item_type": config.item_id,
        "user_type": config.user_id,
        "dim": str(config.train.dim),
        "vector_dim": str(config.train.dim + 1),
        "history": str(config.history),
        "items": config.items.sql + "\n",
        "features": user_features(config, "p_user"),
        "collate": collation(config.item_id),
        "near": near(config, plan.suffix),
        "taste": taste(config, columns=plan.spec.get("columns", ())),
        "newest": newest_history(config, plan.suffix),
        "aggregates": history_aggregates(config),
        **sequence_values(config, plan.suffix),
    }


def next_number(conn: Connection, config: ModelConfig) -> int:
    """Give out the next version number; commit before training, so a crash burns it."""
    with translated():
        row = conn.execute(
            "select recsys._next_number(%s, %s, %s)",
            (config.name, config.item_id, config.user_id),
        ).fetchone()
    return int(row[0]) if row else 0


def create(conn: Connection, plan: VersionPlan) -> None:
    """Register a version and make its tables and functions, without a revision file."""
    with translated():
        for statement in create_statements(plan):
            conn.execute(_sql.trusted(statement))


def get(conn: Connection, model: str, number: int) -> ModelVersion:
    """Return one registered version.

    Raises:
        UnknownModel: No model of that name is registered.
        UnknownVersion: The model has no such version.
    """
    existing = list_versions(conn, model)
    for version in existing:
        if version.number == number:
            return version
    raise UnknownVersion(
        f"model {model!r} has no version {number}", hint=_existing(model, existing)
    )


def _existing(model: str, existing: list[ModelVersion]) -> str:
    if not existing:
        return (
            f"It has none here: 'recsys upgrade' makes those that have a revision file,"
            f" 'recsys train {model}' a new one."
        )
    numbers = ", ".join(f"{v.number} ({v.state})" for v in reversed(existing))
    return f"It has {numbers}; 'recsys upgrade' makes those with a revision file."


def list_versions(conn: Connection, model: str) -> list[ModelVersion]:
    """Return the registered versions of a model, newest first.

    Raises:
        UnknownModel: No model of that name is registered.
    """
    with conn.cursor(row_factory=dict_row) as cur:
        rows = cur.execute(
            "select v.model, v.number, v.state, v.dim, v.spec, v.artifacts, v.metrics,"
            " v.phase, v.item_count, v.source_count, v.ef_search, v.ann_recall, v.error"
            " from recsys.model_version as v where v.model = %s order by v.number desc",
            (model,),
        ).fetchall()
        known = cur.execute(
            "select from recsys.model where name = %s", (model,)
        ).fetchone()
    if known is None:
        raise UnknownModel(f"no model named {model!r} is registered")
    return [ModelVersion(**row) for row in rows]


def newest(conn: Connection, model: str, *, states: tuple[str, ...] = ()) -> int:
    """Return the highest number of a model, optionally among some states.

    Raises:
        UnknownModel: No model of that name is registered.
        UnknownVersion: It has no such version.
    """
    existing = list_versions(conn, model)
    for version in existing:
        if not states or version.state in states:
            return version.number
    wanted = f" that is {' or '.join(states)}" if states else ""
    raise UnknownVersion(
        f"model {model!r} has no version{wanted}", hint=_existing(model, existing)
    )


def serving_number(conn: Connection, model: str) -> int | None:
    """Return the base: who answers whom no candidate answers; None: nothing serves."""
    row = conn.execute(
        "select number from recsys.rollout where model = %s and not candidate",
        (model,),
    ).fetchone()
    return int(row[0]) if row else None
