"""Today's popularity: what to add to the scores of a version until it is trained again.

The popularity dimension of a version ends where its data ended. Every few minutes the
workers count what came since and keep, for each item that was chosen, how much higher
the dimension would be if it were computed now; the search adds that to the scores of
its candidates. The index stays as it is.

Only what rises has a row, and rises to where the dimension of now would have it. What
falls stays until the next training: it is most of a catalogue, and the index would
have to be written for it. What could leave the candidates unseen is only what rises:
those items are candidates, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from recsys import _sql, artifacts, popularity, versions
from recsys._db import Connection
from recsys._history import weight_expression
from recsys._source import source_errors
from recsys._wording import counted
from recsys.errors import RecsysError
from recsys.popularity import DAY_S, HALF_LIVES_D, Counts, Trend
from recsys.types import ItemId
from recsys.updates import reading
from recsys.versions import ModelVersion

_MOST_ROWS = 20_000
_MOST_DAYS = 60.0
"""A version older than this is left as it is: train again."""
_LEAST = 1e-3
_MOST = 2.0
"""The range of a cosine: what rose by it is before anything that did not."""

Float32Array = NDArray[np.float32]


def refresh(conn: Connection, model: str) -> str:
    """Count anew what rose since each version that answers users was trained.

    Args:
        conn: An autocommit connection.
        model: Name of the model.

    Returns:
        What was done, empty for nothing.

    Raises:
        RecsysError: Of one version; the others are done.
        psycopg.Error: Likewise.
    """
    done: list[str] = []
    problems: list[RecsysError | psycopg.Error] = []
    answering = _answering(conn, model)
    for version in answering:
        if "trend" not in version.spec:
            continue
        try:
            rows = risen(conn, version)
            with conn.transaction():
                changed = write(conn, version, rows)
        except (RecsysError, psycopg.Error) as exc:
            if conn.closed:
                raise
            problems.append(exc)
            continue
        if changed:
            rising = counted(len(rows), "item rises", "items rise")
            done.append(f"version {version.number}: {rising}")
    conn.execute(
        "delete from recsys.item_trend where model = %s and number <> all (%s)",
        (model, [version.number for version in answering]),
    )
    if problems:
        raise problems[0]
    return "; ".join(done)


def _answering(conn: Connection, model: str) -> list[ModelVersion]:
    """Return the versions of the rollout and of a running experiment."""
    rows = conn.execute(
        "select v.number from recsys.model_version as v where v.model = %s"
        " and v.state in ('ready', 'serving') and (exists (select from recsys.rollout"
        " as r where r.model = v.model and r.number = v.number)"
        " or recsys._experiment_uses(v.model, v.number) is not null)",
        (model,),
    ).fetchall()
    numbers = {row[0] for row in rows}
    return [v for v in versions.list_versions(conn, model) if v.number in numbers]


def risen(
    conn: Connection, version: ModelVersion, moment: float | None = None
) -> dict[ItemId, float]:
    """Return what each item that was chosen since rose by, the highest first.

    Args:
        conn: An open connection.
        version: A version with the popularity it was trained with.
        moment: Seconds since 1970, as of which; None is now.
    """
    counts, place, median = _counts(conn, version)
    trend = Trend.from_dict(version.spec["trend"])
    # What items without a learned row are served with; older versions do not say.
    cold = float(version.spec["trend"].get("cold", median))
    now, ids, users, recent = _chosen(conn, version, counts.end, moment)
    if not ids:
        return {}
    at = np.array([place.get(item, -1) for item in ids])
    known = at >= 0
    pop = np.where(known, counts.pop[at], 0).astype(np.float32)
    then = np.where(known, counts.decayed[:, at], 0).astype(np.float32)
    age = max(now - counts.end, 0.0) / DAY_S
    faded = then * np.exp2(-age / np.array(HALF_LIVES_D))[:, None]
    before = np.where(known, trend.bias(pop, then), cold)
    # An interaction that came late is subtracted without having been counted.
    after = trend.bias(pop + users, np.maximum(faded + recent, 0).astype(np.float32))
    delta = np.minimum(after - before, _MOST)
    order = np.argsort(-delta, kind="stable")[:_MOST_ROWS]
    return {ids[i]: float(delta[i]) for i in order.tolist() if delta[i] > _LEAST}


def _chosen(
    conn: Connection, version: ModelVersion, end: float, moment: float | None
) -> tuple[float, list[ItemId], Float32Array, Float32Array]:
    """Return the items chosen since: ids, their new users, and what counts rose by.

    As in training a user counts once per item, with the latest time: whoever had the
    item before is no new user, and what that time still counted goes.

    Returns:
        The moment in seconds since 1970, from which ages are counted; T ids, shape
        (T,) and shape (H, T).
    """
    with source_errors("interactions"):
        if moment is None:
            row = conn.execute("select extract(epoch from now())::float8").fetchone()
            assert row is not None
            moment = float(row[0])
        kind = reading.time_type(conn, version.config)
        query = _chosen_query(version, end, moment, kind)
        rows = conn.execute(_sql.trusted(query)).fetchall()
    numbers = np.array([row[1:] for row in rows], np.float32)
    numbers = numbers.reshape(len(rows), 1 + len(HALF_LIVES_D))
    return moment, [row[0] for row in rows], numbers[:, :1].sum(1), numbers[:, 1:].T


def _chosen_query(version: ModelVersion, end: float, now: float, kind: str) -> str:
    """Write the statement of ``_chosen``: item, new users, and H sums."""
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    weight = weight_expression(config, columns)
    # An infinite time is an unknown one, in training too.
    time = (
        "case when isfinite(source.occurred_at)"
        " then extract(epoch from source.occurred_at)::float8 end"
    )
    until = min(now, end + _MOST_DAYS * DAY_S)
    # The index on the time finds them; the epochs say which of them, in every zone.
    since = reading.TIMES[kind].format(f"to_timestamp({end!r})")
    counted = ", ".join(
        f"sum({_fading('pair.at', now, days)} - {_fading('pair.before', now, days)})"
        for days in HALF_LIVES_D
    )
    return (
        "with news as materialized ("
        f" select source.user_id::{config.user_id} as user_id,"
        f" source.item_id::{config.item_id} as item_id, max({time}) as at"
        f" from ({config.interactions.sql}\n) as source"
        f" where source.occurred_at >= {since}"
        f" and {time} > {end!r} and {time} <= {until!r} and {weight} > 0"
        " and source.user_id is not null and source.item_id is not null"
        " group by 1, 2),"
        " pair as (select news.item_id, news.at, count(old.known) as known,"
        " max(old.at) as before from news left join ("
        " select source.user_id, source.item_id, true as known,"
        f" {time} as at from ({config.interactions.sql}\n) as source"
        f" where {weight} > 0 and coalesce({time}, {end!r}) <= {end!r}) as old"
        " on old.user_id = news.user_id"
        f" and old.item_id::{config.item_id} = news.item_id"
        " group by news.user_id, news.item_id, news.at)"
        " select pair.item_id, count(*) filter (where pair.known = 0),"
        f" {counted} from pair group by 1"
    )


def _fading(at: str, now: float, days: float) -> str:
    """Return the SQL of what an event counts now; nothing without a time."""
    return f"power(2::float8, greatest(({at} - {now!r}) / {days * DAY_S!r}, -1000))"


def write(conn: Connection, version: ModelVersion, rows: Mapping[ItemId, float]) -> int:
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
        " where abs(t.delta - excluded.delta) > 1e-3"
        # Searches leave out what nobody has measured for a day.
        " or t.measured_at < now() - interval '1 hour'",
        (*key, ids, list(rows.values())),
    ).rowcount
    return gone + written


def _counts(
    conn: Connection, version: ModelVersion
) -> tuple[Counts, dict[ItemId, int], float]:
    """Return a version's counts, the place of each item, and the median bias."""
    sha256 = version.artifacts["popularity"]
    kept = _kept(sha256, version.config.item_id)
    if not kept:
        content = artifacts.get(conn, sha256)
        counts = popularity.unpack(content, version.config.item_id)
        trend = Trend.from_dict(version.spec["trend"])
        median = float(np.median(trend.bias(counts.pop, counts.decayed)))
        place = {item: number for number, item in enumerate(counts.item_ids)}
        kept.append((counts, place, median))
    return kept[0]


@lru_cache(maxsize=4)
def _kept(sha256: str, id_type: str) -> list[Any]:
    """Return the place where the counts of an artifact are kept."""
    del sha256, id_type
    return []
