"""Today's popularity: what to add to the scores of a version until it is trained again.

The popularity dimension of a version ends where its data ended. Every few minutes the
workers count what came since and keep, for each item that was chosen, how much higher
the dimension would be now; the search adds that to the scores of its candidates. The
index stays as it is.

Counts fade for all items alike, so fading changes no order and is left out: items that
nobody chose since have no row. Weights are never negative, so nothing falls by being
chosen, and what could leave the candidates unseen is only what rises: those items are
candidates, too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _sql, artifacts, popularity, versions
from recsys._db import Connection
from recsys._source import source_errors
from recsys.popularity import DAY_S, HALF_LIVES_D, Counts, Trend
from recsys.types import ItemId
from recsys.versions import ModelVersion

_MOST_ROWS = 20_000
_MOST_DAYS = 60.0
"""A version older than this is left as it is: train again."""
_LEAST = 1e-3

Float32Array = NDArray[np.float32]


def refresh(conn: Connection, model: str) -> str:
    """Count anew what rose since each live version of a model was trained.

    Args:
        conn: An autocommit connection.
        model: Name of the model.

    Returns:
        What was done, empty for nothing.
    """
    done: list[str] = []
    for version in versions.list_versions(conn, model):
        live = version.state in ("ready", "serving")
        if not live or "trend" not in version.spec:
            continue
        rows = _rising(conn, version)
        with conn.transaction():
            changed = _write(conn, version, rows)
        if changed:
            done.append(f"version {version.number}: {len(rows)} items rise")
    conn.execute(
        "delete from recsys.item_trend as t using recsys.model_version as v"
        " where t.model = %s and v.model = t.model and v.number = t.number"
        " and v.state not in ('ready', 'serving')",
        (model,),
    )
    return "; ".join(done)


def _rising(conn: Connection, version: ModelVersion) -> dict[ItemId, float]:
    """Return what each item that was chosen since rose by, the highest first."""
    counts, place, median = _counts(conn, version)
    trend = Trend.from_dict(version.spec["trend"])
    ids, users, recent = _chosen(conn, version, counts.end)
    if not ids:
        return {}
    at = np.array([place.get(item, -1) for item in ids])
    known = at >= 0
    pop = np.where(known, counts.pop[at], 0).astype(np.float32)
    decayed = np.where(known, counts.decayed[:, at], 0).astype(np.float32)
    before = np.where(known, trend.bias(pop, decayed), median)
    delta = trend.bias(pop + users, decayed + recent) - before
    order = np.argsort(-delta, kind="stable")[:_MOST_ROWS]
    return {ids[i]: float(delta[i]) for i in order.tolist() if delta[i] > _LEAST}


def _chosen(
    conn: Connection, version: ModelVersion, end: float
) -> tuple[list[ItemId], Float32Array, Float32Array]:
    """Return the items chosen since: ids, their new users, and decayed counts.

    A count is as of the version's end, as those in the version are: an event of
    tomorrow counts more than one of then, by as much as that has faded tomorrow.

    Returns:
        T ids, shape (T,) and shape (H, T).
    """
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    counted = ", ".join(
        f"sum(power(2::float8, (event.at - {end!r}) / {days * DAY_S!r}))"
        for days in HALF_LIVES_D
    )
    query = (
        f"select event.item_id, count(*), {counted} from ("
        f" select source.user_id, source.item_id::{config.item_id} as item_id,"
        " max(extract(epoch from source.occurred_at))::float8 as at"
        f" from ({config.interactions.sql}\n) as source"
        f" where source.occurred_at > to_timestamp({end!r})"
        f" and source.occurred_at <= least(now(), to_timestamp({end!r})"
        f" + interval '{_MOST_DAYS:g} days')"
        f" and {versions.weight_expression(config, columns)} > 0"
        " and source.user_id is not null and source.item_id is not null"
        " group by 1, 2) as event group by 1"
    )
    with source_errors("interactions"):
        rows = conn.execute(_sql.trusted(query)).fetchall()
    numbers = np.array([row[1:] for row in rows], np.float32)
    numbers = numbers.reshape(len(rows), 1 + len(HALF_LIVES_D))
    return [row[0] for row in rows], numbers[:, :1].sum(1), numbers[:, 1:].T


def _write(conn: Connection, version: ModelVersion, rows: dict[ItemId, float]) -> int:
    """Make the table say what rose; returns how many rows changed."""
    key = version.model, version.number
    ids = [str(item) for item in rows]
    gone = conn.execute(
        "delete from recsys.item_trend where model = %s and number = %s"
        " and item_id <> all (%s::text[])",
        (*key, ids),
    ).rowcount
    written = conn.execute(
        "insert into recsys.item_trend as t (model, number, item_id, delta)"
        " select %s, %s, n.item_id, n.delta"
        " from unnest(%s::text[], %s::real[]) as n(item_id, delta)"
        " on conflict (model, number, item_id) do update"
        " set delta = excluded.delta, measured_at = now()"
        " where abs(t.delta - excluded.delta) > 1e-3",
        (*key, ids, list(rows.values())),
    ).rowcount
    return gone + written


def _counts(
    conn: Connection, version: ModelVersion
) -> tuple[Counts, dict[ItemId, int], float]:
    """Return a version's counts, the place of each item, and a new item's bias."""
    sha256 = version.artifacts["popularity"]
    kept = _kept(sha256, version.config.item_id)
    if not kept:
        content = artifacts.get(conn, sha256)
        counts = popularity.unpack(content, version.config.item_id)
        trend = Trend.from_dict(version.spec["trend"])
        # What the item tower says of items that nobody has chosen.
        median = float(np.median(trend.bias(counts.pop, counts.decayed)))
        place = {item: number for number, item in enumerate(counts.item_ids)}
        kept.append((counts, place, median))
    return kept[0]


@lru_cache(maxsize=4)
def _kept(sha256: str, id_type: str) -> list[Any]:
    """Return the place where the counts of an artifact are kept."""
    del sha256, id_type
    return []
