"""Hard negatives from the database: what was shown and not chosen, and neighbours.

Both are read in the snapshot of the training, and both are bounded: the newest pairs of
impressions, and the neighbours of the items that occur most.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from recsys.config import ModelConfig
from recsys.errors import ConfigError
from recsys.ids import parse_id
from recsys.training.dataset import Shown
from recsys.versions import suffix

logger = logging.getLogger(__name__)

MOST_SHOWN = 5_000_000
MOST_ITEMS = 50_000
NEIGHBOURS = 20
# Share of train.budget_s that the search for neighbours may take.
_SHARE = 0.1
_AT_ONCE = 500
_FETCH_ROWS = 50_000

_Connection = psycopg.Connection[Any]


def shown(
    conn: _Connection,
    config: ModelConfig,
    items: dict[Any, int],
    users: dict[Any, int],
    end: float | None,
) -> Shown | None:
    """Read the items that users were shown and have not chosen from that answer.

    Args:
        conn: Inside the snapshot.
        config: ``negatives.shown`` says whether to.
        items: Index of each item id.
        users: Index of each user id.
        end: Only answers before it; None: up to now.

    Returns:
        The newest pairs of a known user and a known item; None where not wanted.
    """
    if not config.negatives.shown:
        return None
    query = """
        select i.user_id, s.item_id, extract(epoch from max(i.occurred_at))::float8
        from recsys.impression as i
        cross join lateral unnest(i.item_ids) as s (item_id)
        where i.model = %(model)s and i.user_id is not null
          and i.occurred_at < %(end)s and i.occurred_at >= %(end)s - %(age)s
          and not exists (select from recsys.outcome as o
                          where o.request_id = i.request_id and o.item_id = s.item_id)
        group by i.user_id, s.item_id
        order by 3 desc
        limit %(most)s"""
    row = conn.execute(
        "select coalesce(to_timestamp(%s), now()), make_interval(secs => %s)",
        (end, config.negatives.shown_days * 86_400),
    ).fetchone()
    assert row is not None
    values = {
        "model": config.name, "end": row[0], "age": row[1], "most": MOST_SHOWN,
    }  # fmt: skip
    parts: list[NDArray[np.float64]] = []
    with conn.cursor(name="recsys_shown", binary=True) as cursor:
        cursor.execute(query, values)
        while rows := cursor.fetchmany(_FETCH_ROWS):
            found = [
                (users.get(_parsed(user, config.user_id), -1),
                 items.get(_parsed(item, config.item_id), -1), at)
                for user, item, at in rows
            ]  # fmt: skip
            parts.append(np.array(found, np.float64).reshape(-1, 3))
    every = np.concatenate(parts) if parts else np.empty((0, 3))
    known = every[(every[:, 0] >= 0) & (every[:, 1] >= 0)]
    return Shown(
        known[:, 0].astype(np.int32), known[:, 1].astype(np.int32), known[:, 2]
    )


def _parsed(text: str, id_type: Any) -> object:
    """Return an id that was logged as text; None for one of another type."""
    try:
        return parse_id("id", text, id_type)
    except ConfigError:
        return None


def neighbours(
    conn: _Connection,
    config: ModelConfig,
    items: dict[Any, int],
    counts: NDArray[np.int64],
    until: datetime | None,
) -> NDArray[np.int32] | None:
    """Ask the version that serves, or the newest one, for the neighbours of items.

    Args:
        conn: Inside the snapshot.
        config: ``negatives.neighbours`` says whether to.
        items: Index of each item id.
        counts: Interactions of each item, shape (N,).
        until: No version that has seen interactions from this time on.

    Returns:
        Shape (N, ``NEIGHBOURS``), -1 where there is none; None where not wanted, or
        where no version exists yet.
    """
    if not config.negatives.neighbours:
        return None
    version = conn.execute(
        """
        select v.number, coalesce(v.ef_search, 100)
        from recsys.model_version as v
        left join recsys.rollout as r on r.model = v.model and r.number = v.number
        where v.model = %(model)s and v.state in ('ready', 'serving')
          and (%(until)s::timestamptz is null
               or (v.spec ->> 'trained_until')::timestamptz <= %(until)s)
        order by r.percent desc nulls last, v.number desc
        limit 1""",
        {"model": config.name, "until": until},
    ).fetchone()
    if version is None:
        logger.info("no version of %s to take neighbours from", config.name)
        return None
    ids = list(items)
    order = np.argsort(-counts, kind="stable")[:MOST_ITEMS]
    wanted = [ids[place] for place in order.tolist() if counts[place]]
    out = np.full((len(ids), NEIGHBOURS), -1, np.int32)
    deadline = time.perf_counter() + _SHARE * config.train.budget_s
    query = _query(config, version[0])
    for first in range(0, len(wanted), _AT_ONCE):
        if time.perf_counter() > deadline:
            logger.info("neighbours of the first %d items only: time", first)
            break
        values = (wanted[first : first + _AT_ONCE], NEIGHBOURS, version[1])
        for item, near in conn.execute(query, values):
            known = [items[other] for other in near if other in items]
            out[items[item], : len(known)] = known
    return out


def _query(config: ModelConfig, number: int) -> sql.Composed:
    """Return the statement that searches with the vectors of some items.

    The direction alone is asked for: popular items are no better negatives.
    """
    name = suffix(config.name, number)
    return sql.SQL(
        """
        select v.item_id, near.item_ids
        from unnest(%s::{type}[]) as asked (item_id)
        join {vectors} as v on v.item_id = asked.item_id
        cross join lateral {search}(
            recsys._direction(v.embedding), %s, array[v.item_id], %s
        ) as near"""
    ).format(
        type=sql.SQL(config.item_id),
        vectors=sql.Identifier("recsys", f"item_vector_{name}"),
        search=sql.Identifier("recsys", f"_search_{name}"),
    )
