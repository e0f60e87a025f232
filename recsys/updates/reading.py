"""What an update reads: the new interactions, and what their users did before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _db, _sql
from recsys._db import Connection
from recsys._history import recent_events, weight_expression
from recsys._source import source_errors
from recsys.config import ModelConfig
from recsys.encoder.values import projection
from recsys.errors import SourceError
from recsys.training.value import value_weights
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion

_USERS_AT_ONCE = 500
_LEAST_DECAY = 1e-4
_DAY_S = 86_400.0
TIMES = {
    "timestamptz": "({})",
    # As epochs count them: a time without a zone is UTC.
    "timestamp": "(({}) at time zone 'UTC')",
    "date": "(({}) at time zone 'UTC')::date",
}
"""A timestamptz as the type of ``occurred_at``, for an index on it."""


@dataclass(frozen=True, slots=True)
class News:
    """Interactions that no update of the version was trained on, oldest first.

    Attributes:
        users: Users, by the application's id.
        items: Item ids, likewise.
        time: Seconds since 1970, shape (n,), float64.
        weight: Weight as a target, shape (n,), float32; 0 is seen only.
        target: Whether evaluation counts each as a hit, shape (n,), bool.
        contexts: Raw context cells, one tuple per interaction; None without features.
        hashes: What tells one from the others, shape (n,), int64.
        left_out: Interactions that cannot be used, by reason.
    """

    users: list[UserId]
    items: list[ItemId]
    time: NDArray[np.float64]
    weight: NDArray[np.float32]
    target: NDArray[np.bool_]
    contexts: list[tuple[object, ...]] | None
    hashes: NDArray[np.int64]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.users)


def read_news(
    conn: Connection, version: ModelVersion, since: datetime, most: int
) -> News:
    """Read what is new to a version.

    Interactions of the future wait until their time has come. One without a time is
    left to the next full update: nothing says that it is new.

    Args:
        conn: An open connection.
        version: Whose source is read.
        since: Interactions from then on, less those it was trained on.
        most: Interactions at most, the oldest ones.

    Raises:
        SourceError: The source fails, or has no ``occurred_at``.
    """
    config = version.config
    kind = time_type(conn, config)
    with source_errors("interactions"), _db.binary_cursor(conn) as cur:
        rows = cur.execute(
            _sql.trusted(_news_query(version, kind)),
            {
                "since": since,
                "model": version.model,
                "number": version.number,
                "most": most,
            },
        ).fetchall()
    kept = [row for row in rows if not row[6]]
    left_out: dict[str, int] = {}
    if len(rows) > len(kept):
        left_out["future"] = len(rows) - len(kept)
    time = np.array([row[2] for row in kept], np.float64)
    nulls = _nulls(conn, config, kind, since, float(time.max())) if kept else 0
    if nulls:
        left_out["null_id"] = nulls
    weight = np.array([row[3] for row in kept], np.float32)
    return News(
        users=[row[0] for row in kept],
        items=[row[1] for row in kept],
        time=time,
        weight=weight * _worth(config, [row[7] for row in kept], time),
        target=np.array([row[4] for row in kept], np.bool_),
        contexts=[row[8:] for row in kept] if config.context.features else None,
        hashes=np.array([row[5] for row in kept], np.int64),
        left_out=left_out,
    )


def _worth(
    config: ModelConfig, values: list[float | None], time: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the weight of each of the news by value and age, as training has it.

    Among themselves: weights of a step are relative, so the mean that counts is that
    of the news.
    """
    worth = np.ones(len(time), np.float32)
    inter = config.interactions
    if inter.value:
        worth *= value_weights(
            np.array(values, np.float64), inter.value, inter.value_cap
        )
    half_life_s = config.train.half_life_days * _DAY_S
    if half_life_s and len(time):
        decay = np.exp2((time - time.max()) / half_life_s)
        worth *= np.maximum(decay, _LEAST_DECAY).astype(np.float32)
    return worth


def _nulls(
    conn: Connection, config: ModelConfig, kind: str, since: datetime, until: float
) -> int:
    """Count what names no user or no item, up to the newest of the news."""
    query = (
        f"select count(*) from ({_sql.escaped(config.interactions.sql)}\n) as source"
        f" where source.occurred_at >= {TIMES[kind].format('%(since)s::timestamptz')}"
        " and extract(epoch from source.occurred_at)::float8 <= %(until)s"
        " and (source.user_id is null or source.item_id is null)"
    )
    with source_errors("interactions"):
        row = conn.execute(
            _sql.trusted(query), {"since": since, "until": until}
        ).fetchone()
    return int(row[0]) if row else 0


def time_type(conn: Connection, config: ModelConfig) -> str:
    """Return the type of ``occurred_at``."""
    with source_errors("interactions"):
        cursor = conn.execute(
            _sql.trusted(
                f"select * from ({config.interactions.sql}\n) as source limit 0"
            )
        )
    for column in cursor.description or ():
        if column.name == "occurred_at":
            known = conn.adapters.types.get(column.type_code)
            if known and known.name in TIMES:
                return known.name
            raise SourceError(
                "occurred_at of interactions.sql is not a timestamp",
                hint="Select to_timestamp(seconds) as occurred_at.",
            )
    raise SourceError(
        "interactions.sql has no occurred_at, so nothing says which are new",
        hint="Add a timestamp named occurred_at, or train a new version instead.",
    )


def _news_query(version: ModelVersion, kind: str) -> str:
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    weight = weight_expression(config, columns)
    named = "source.kind::text" if "kind" in columns else "''"
    target = f"({weight}) > 0"
    if config.interactions.targets:
        listed = ", ".join(map(_sql.literal, config.interactions.targets))
        target += f" and {named} in ({listed})"
    contexts = projection(config.context.features, "source")
    time = "extract(epoch from source.occurred_at)::float8"
    since = TIMES[kind].format("%(since)s::timestamptz")
    value = "source.value::float8" if config.interactions.value else "null::float8"
    return (
        "select * from (select"
        f" source.user_id::{config.user_id} as u,"
        f" source.item_id::{config.item_id} as i,"
        f" {time} as t, ({weight})::real as w, {target} as hit,"
        " hashtextextended(concat_ws(E'\\x1f', source.user_id::text,"
        f" source.item_id::text, {named}, {time}::text), 0) as h,"
        f" {time} > extract(epoch from now()) as later, {value} as worth"
        f"{', ' if contexts else ''}{contexts}"
        f" from ({_sql.escaped(config.interactions.sql)}\n) as source"
        f" where source.occurred_at >= {since} and isfinite(source.occurred_at)"
        # Nothing remembers them, so they would take the places of others for ever.
        " and source.user_id is not null and source.item_id is not null"
        ") as new where not exists (select from recsys.id_update_seen as s"
        " where s.model = %(model)s and s.number = %(number)s and s.hash = new.h)"
        " order by later, t, h limit %(most)s"
    )


@dataclass(frozen=True, slots=True)
class Events:
    """What some users did, repeats included.

    Attributes:
        user: Index of the user, ascending, shape (n,).
        items: Item id of each.
        time: Seconds since 1970, NaN when unknown, shape (n,).
        weight: Weight as taste, shape (n,).
    """

    user: NDArray[np.int64]
    items: list[ItemId]
    time: NDArray[np.float64]
    weight: NDArray[np.float32]


def read_events(
    conn: Connection, version: ModelVersion, users: Sequence[UserId], until: float
) -> Events:
    """Read the newest events of some users, as a request does.

    Args:
        conn: An open connection.
        version: Whose source is read.
        users: Distinct users; an event's user is its place here.
        until: Later events are left out, in seconds since 1970.
    """
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    query = _sql.trusted(
        "select given.place, e.item_id, extract(epoch from e.occurred_at)::float8,"
        " e.weight"
        f" from unnest(%(users)s::{config.user_id}[]) with ordinality"
        " as given(p_user, place)"
        " cross join (select %(before)s::float8 as p_before) as moment"
        # The parameters of recsys._state_<version>, as columns.
        " cross join lateral ("
        f"{_sql.escaped(recent_events(config, columns=columns))}) as e"
    )
    rows: list[Any] = []
    with source_errors("interactions"), _db.binary_cursor(conn) as cur:
        for first in range(0, len(users), _USERS_AT_ONCE):
            part = list(users[first : first + _USERS_AT_ONCE])
            found = cur.execute(
                query, {"users": part, "before": np.nextafter(until, np.inf).item()}
            ).fetchall()
            rows += [(first + row[0] - 1, *row[1:]) for row in found]
    user = np.array([row[0] for row in rows], np.int64)
    order = np.argsort(user, kind="stable")
    return Events(
        user=user[order],
        items=[rows[i][1] for i in order],
        time=np.array([rows[i][2] for i in order], np.float64),
        weight=np.array([rows[i][3] for i in order], np.float32),
    )


def read_catalogue(
    conn: Connection, version: ModelVersion
) -> tuple[list[ItemId], NDArray[np.float16]]:
    """Read every item vector, shape (N, dim + 1)."""
    query = (
        "select item_id, halfvec_send(embedding)"
        f" from recsys.item_vector_{version.suffix}"
    )
    ids: list[ItemId] = []
    parts: list[NDArray[np.float16]] = []
    with conn.cursor(name="recsys_catalogue", binary=True) as cursor:
        cursor.itersize = 20_000
        cursor.execute(_sql.trusted(query))
        while rows := cursor.fetchmany(20_000):
            ids += [row[0] for row in rows]
            packed = b"".join(row[1] for row in rows)
            parts.append(_db.unpack_halfvecs(packed, version.dim).astype(np.float16))
    none = np.zeros((0, version.dim), np.float16)
    return ids, np.concatenate([none, *parts])


def read_rises(conn: Connection, version: ModelVersion) -> dict[str, float]:
    """Read what today adds to the popularity of items, by id as text."""
    return dict(
        conn.execute(
            "select item_id, delta from recsys.item_trend"
            " where model = %s and number = %s"
            " and measured_at > now() - interval '1 day'",
            (version.model, version.number),
        ).fetchall()
    )


def read_history_rows(
    conn: Connection, version: ModelVersion, items: Sequence[ItemId]
) -> dict[ItemId, bytes]:
    """Read the history-side rows of some items, as halfvec_send packs them."""
    query = _sql.trusted(
        "select item_id, halfvec_send(embedding) from"
        f" recsys.item_embedding_{version.suffix}"
        f" where item_id = any(%s::{version.config.item_id}[])"
    )
    with _db.binary_cursor(conn) as cur:
        return dict(cur.execute(query, (list(items),)).fetchall())


def read_users(
    conn: Connection, config: ModelConfig, users: Sequence[UserId]
) -> dict[str, list[object]]:
    """Read raw user features, aligned with ``users``; unknown users have none."""
    names = [feature.name for feature in config.users.features]
    if not names:
        return {}
    fields = projection(config.users.features, "source")
    query = _sql.trusted(
        f"select source.user_id::{config.user_id}, {fields.replace('%', '%%')}"
        f" from ({_sql.escaped(config.users.sql)}\n) as source"
        f" where source.user_id = any(%s::{config.user_id}[])"
    )
    with source_errors("users"), _db.binary_cursor(conn) as cur:
        found = {row[0]: row[1:] for row in cur.execute(query, (list(users),))}
    nothing = (None,) * len(names)
    cells = [found.get(user, nothing) for user in users]
    return {name: [row[i] for row in cells] for i, name in enumerate(names)}
