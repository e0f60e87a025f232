"""One user's history as SQL: what requests, updates and evaluations read alike."""

from __future__ import annotations

from recsys import _sql
from recsys.config import ModelConfig
from recsys.encoder.values import json_projection
from recsys.ids import collation

_MAX_EVENTS = 20_000
"""Newest events of a user that a request reads: a bound on one user's cost."""


def user_features(config: ModelConfig, user: str) -> str:
    """Return the SQL of a user's features as jsonb, null without any.

    Args:
        config: Declares them.
        user: SQL of the user's id.
    """
    if not config.users.features:
        return "null::jsonb"
    fields = json_projection(config.users.features, "source")
    return (
        f"(select {fields} from ({config.users.sql}\n) as source"
        f" where source.user_id = {user} limit 1)"
    )


def sequence_values(config: ModelConfig, suffix: str) -> dict[str, str]:
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
