"""Model versions: what one is made of, and the statements that make and drop one.

A version plan is everything a revision file says. ``create_statements`` turns it into
SQL; the alembic operation, ``--sql`` and ``--no-revision`` all run these very texts, so
the roads cannot differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import dict_row

from recsys import _sql
from recsys._db import Connection, translated
from recsys._index_key import index_key
from recsys.config import IdType, ModelConfig, model_from_dict
from recsys.encoder.values import json_projection
from recsys.errors import ConfigError, UnknownModel, UnknownVersion

_MAX_EVENTS = 20_000
"""Newest events of a user that a request reads: a bound on one user's cost."""
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
    spec = {**plan.spec, **_ordering(config)}
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


def _ordering(config: ModelConfig) -> dict[str, Any]:
    """Return what recsys._candidates must know of an index over less than vectors."""
    key = index_key(config.index, config.train.dim)
    if key.whole:
        return {}
    by = {
        "item": key.item.format(v="v.embedding"),
        "operator": key.operator,
        "query": key.query.format(v="$1"),
    }
    return {"ordering": by}


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
    features = "null::jsonb"
    if config.users.features:
        fields = json_projection(config.users.features, "source")
        features = (
            f"(select {fields} from ({config.users.sql}\n) as source"
            " where source.user_id = p_user limit 1)"
        )
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
        "features": features,
        "collate": collation(config.item_id),
        "near": near(config, plan.suffix),
        "taste": taste(config, columns=plan.spec.get("columns", ())),
        "newest": newest_history(config, plan.suffix),
        "aggregates": history_aggregates(config),
        **_sequence_values(config, plan.suffix),
    }


def near(config: ModelConfig, suffix: str) -> str:
    """Return the SQL of the candidates that the index gives: item_id, distance.

    Where the index is over less than the whole vectors, those that it finds are
    re-ranked, and more of them for a longer list.
    """
    key = index_key(config.index, config.train.dim)
    lines = [
        "select v.item_id, v.embedding <#> p_query as distance",
        f"from recsys.item_vector_{suffix} as v",
        "where v.item_id <> all (p_exclude)",
        f"order by {key.distance('v.embedding', 'p_query')}",
    ]
    if key.whole:
        return _indented([*lines, "limit p_k"], 16)
    depth = "greatest(p_k, ceil(p_ef * greatest(1, p_k / 20.0) ^ 0.7)::integer)"
    lines = [
        "select short.item_id, short.distance",
        f"from ({_indented([*lines, f'limit {depth}'], 6)}) as short",
        f"order by short.distance, short.item_id{collation(config.item_id)}",
        "limit p_k",
    ]
    return _indented(lines, 16)


def _indented(lines: Sequence[str], spaces: int) -> str:
    """Join lines; all but the first are indented."""
    text = "\n".join(lines)
    return text.replace("\n", "\n" + " " * spaces)


def _sequence_values(config: ModelConfig, suffix: str) -> dict[str, str]:
    """Return what the state functions of encoders other than the mean have more."""
    query = config.query
    values = {"columns": "", "values": "", "session_aggregates": ""}
    values |= {"session_vector": "", "session_join": ""}
    if query.sequential or query.clustered:
        values["columns"] = ", ages float8[], kinds integer[]"
        values["values"] = ", past.ages, past.kinds"
        values["session_aggregates"] = (
            ",\n                array_agg((-1)::float8) as ages, array_agg(0) as kinds"
        )
    if query.clustered:
        values["columns"] += ", vectors bytea"
        values["values"] += ", past.vectors"
        values["session_vector"] = ", v.embedding as served"
        values["session_join"] = (
            f"\n        join recsys.item_vector_{suffix} as v"
            " on v.item_id = given.item_id"
        )
        values["session_aggregates"] += (
            ",\n                string_agg(halfvec_send(session.served), ''::bytea"
            " order by session.position) as vectors"
        )
    return values


def recent_events(config: ModelConfig, *, columns: tuple[str, ...]) -> str:
    """Return the SQL of one user's newest events: item_id, occurred_at, weight."""
    timed = "occurred_at" in columns
    # An infinite time is an unknown one, in training too.
    time = "case when isfinite(source.occurred_at) then source.occurred_at end"
    time = time if timed else "null::timestamptz"
    kind = ""
    if config.query.sequential or config.query.clustered:
        kind = f"\n                   {kind_expression(config, columns)} as kind,"
    lines = [
        f"            select source.item_id::{config.item_id} as item_id,{kind}",
        f"                   {time} as occurred_at,",
        f"                   {weight_expression(config, columns)}::real as weight",
        f"            from ({config.interactions.sql}\n            ) as source",
        "            where source.user_id = p_user and source.item_id is not null",
    ]
    if timed:
        lines += [
            "              and (p_before is null or source.occurred_at is null",
            "                   or extract(epoch from source.occurred_at) < p_before)",
            "            order by source.occurred_at desc nulls last",
        ]
    lines.append(f"            limit {_MAX_EVENTS}")
    return "\n".join(lines)


def taste(config: ModelConfig, *, columns: tuple[str, ...]) -> str:
    """Return the SQL of one user's items: item_id, weight, liked_at, perhaps kind.

    The kind is that of the newest event of positive weight.
    """
    kind = ""
    if config.query.sequential or config.query.clustered:
        kind = (
            "               (array_agg(event.kind order by"
            " event.occurred_at desc nulls last, event.kind)"
            " filter (where event.weight > 0))[1] as kind,\n"
        )
    return (
        "        select event.item_id, max(event.weight) as weight,\n"
        f"{kind}"
        "               max(event.occurred_at) filter (where event.weight > 0)"
        " as liked_at\n"
        "        from (\n"
        f"{recent_events(config, columns=columns)}\n"
        "        ) as event\n"
        "        group by event.item_id"
    )


def newest_history(config: ModelConfig, suffix: str) -> str:
    """Return the SQL of the history: weight, embedding and packed, newest first.

    The inner order lets the join stop at the limit: a user with 20,000 items costs no
    20,000 look-ups.
    """
    order = f"liked_at desc nulls last, item_id{collation(config.item_id)}"
    kind = age = vector = ""
    if config.query.sequential or config.query.clustered:
        kind = ", item.kind"
        age = (
            ", liked.kind,\n                   case when liked.liked_at is null then -1"
            " else greatest(0, coalesce(p_before, extract(epoch from now())::float8)"
            " - extract(epoch from liked.liked_at)::float8) end as age"
        )
    join = ""
    if config.query.clustered:
        vector = ", halfvec_send(v.embedding) as vector"
        join = (
            f"            join recsys.item_vector_{suffix} as v"
            " on v.item_id = liked.item_id\n"
        )
    return (
        f"            select liked.weight{age}, h.embedding,"
        f" halfvec_send(h.embedding) as packed{vector}\n"
        f"            from (select item.item_id, item.weight, item.liked_at{kind}"
        " from item where item.weight > 0\n"
        f"                  order by {order}) as liked\n"
        f"            join recsys.item_embedding_{suffix} as h"
        f" on h.item_id = liked.item_id\n{join}"
        "            order by liked.liked_at desc nulls last,"
        f" liked.item_id{collation(config.item_id)}\n"
        f"            limit {config.history}"
    )


def history_aggregates(config: ModelConfig) -> str:
    """Return the SQL that packs the history, over rows of it called newest."""
    text = (
        "array_agg(newest.weight) as weights,"
        " string_agg(newest.packed, ''::bytea) as history"
    )
    if config.query.sequential or config.query.clustered:
        text += ", array_agg(newest.age) as ages, array_agg(newest.kind) as kinds"
    if config.query.clustered:
        text += ", string_agg(newest.vector, ''::bytea) as vectors"
    return text


def collation(id_type: IdType) -> str:
    """Return the collation that orders text ids alike in every database and in Python.

    Ids of other types have their own order.
    """
    return ' collate "C"' if id_type == "text" else ""


def weight_expression(config: ModelConfig, columns: tuple[str, ...]) -> str:
    """Return the SQL expression of an interaction's weight from its kind."""
    weights = config.interactions.weights
    if not weights or "kind" not in columns:
        return "1"
    cases = " ".join(
        f"when {_sql.literal(kind)} then {float(weight)!r}"
        for kind, weight in weights.items()
    )
    return f"(case source.kind::text {cases} else 0 end)"


def kind_expression(config: ModelConfig, columns: tuple[str, ...]) -> str:
    """Return the SQL expression of a kind's number: from 1, 0 for an unknown one."""
    known = config.query.kinds
    if not known or "kind" not in columns:
        return "0"
    cases = " ".join(
        f"when {_sql.literal(kind)} then {place}"
        for place, kind in enumerate(known, start=1)
    )
    return f"(case coalesce(source.kind::text, '') {cases} else 0 end)"


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
