"""The SQL of requests to one model version.

It calls the functions that the version brought with its tables (sql/model/state.sql,
sql/model/search.sql) and recsys._candidates; ``retrieval`` runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from recsys import _sql
from recsys._db import BigintArray, Halfvec
from recsys.config import IdType, ModelConfig
from recsys.ids import collation
from recsys.types import ItemId

RISERS = 200
"""Items that rose most today and are candidates of every search without a filter."""
MORE = 20
"""Candidates beside the k nearest, for what rises into the page from behind."""


class Look(NamedTuple):
    """What one call of recsys._candidates looks for; see its header."""

    query: Halfvec
    exclude: list[ItemId]
    named: list[ItemId]
    pinned: list[ItemId]
    never: list[ItemId]
    buried: list[ItemId]
    wish: int
    ef_search: int | None
    first: int | None
    whole: bool
    among: str | None
    min_score: float | None
    keys: str | None
    at_most: int | None
    places: int
    amounts: str | None
    times: str | None
    vectors: bool


class Seen(NamedTuple):
    """What recsys._candidates returns; see its header."""

    item_ids: list[ItemId]
    scores: list[float]
    key_ids: list[ItemId] | None
    keys: list[str | None] | None
    amount_ids: list[ItemId] | None
    amounts: list[float | None] | None
    time_ids: list[ItemId] | None
    times: list[float | None] | None
    vectors: bytes | None
    at: float | None
    stage: str
    scanned: int
    needed: int | None


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL of one model version, written once when it is loaded."""

    suffix: str
    state: bytes
    session: bytes
    direction: bytes
    search: bytes
    candidates: bytes
    bigint: bool
    fresh: bytes | None = None
    interests: bytes = b""
    pool: bytes = b""
    fresh_pool: bytes | None = None
    candidates_each: bytes = b""

    def array(self, ids: Sequence[ItemId]) -> BigintArray | list[ItemId]:
        """Return item ids as they go to the server; their type is checked before."""
        if self.bigint:
            with suppress(TypeError, OverflowError):
                return BigintArray(ids)
        return list(ids)


def statements(
    suffix: str, config: ModelConfig, number: int | None = None
) -> Statements:
    """Return the statements of a version; ``suffix`` and the types are checked.

    Args:
        suffix: Of the version's objects.
        config: Its configuration.
        number: Its number, where its answers follow the trend of the day.
    """
    item, user = config.item_id, config.user_id
    more = "".join(f", {name}" for name in more_columns(config))
    search = (
        f"select item_ids, scores from recsys._search_{suffix}"
        f"(%s::halfvec, %s::integer, %s::{item}[], %s::integer)"
    )
    fresh = None if number is None else _fresh(suffix, config, number)
    return Statements(
        suffix=suffix,
        state=_sql.trusted(
            f"select generation, seen, weights, history, features{more}"
            f" from recsys._state_{suffix}(%s::{user}, %s::float8)"
        ),
        session=_sql.trusted(
            f"select generation, seen, weights, history, features{more}"
            f" from recsys._session_{suffix}(%s::{item}[], %s::{user})"
        ),
        direction=_sql.trusted(
            "select m.generation, (select halfvec_send(recsys._direction(embedding))"
            f" from recsys.item_vector_{suffix} where item_id = %s::{item})"
            f" from recsys.model as m where m.name = '{config.name}'"
        ),
        search=_sql.trusted(search),
        candidates=_sql.trusted(
            f"select {', '.join(Seen._fields)} from {_candidates(suffix, item, '%s')}"
        ),
        bigint=item == "bigint",
        fresh=None if fresh is None else _sql.trusted(fresh),
        interests=_interests(suffix, item),
        pool=_pool(suffix, search),
        fresh_pool=None if fresh is None else _pool(suffix, fresh),
        candidates_each=_sql.trusted(
            f"select {', '.join(f'c.{name}' for name in Seen._fields)}"
            f" from {_QUERIES_OF} lateral {_candidates(suffix, item, 'q.query')} as c"
            " order by q.place"
        ),
    )


_QUERIES_OF = "unnest(array[@queries@]) with ordinality as q(query, place),"
"""The queries of a request as a table; ``of`` writes as many as there are."""


def of(text: bytes, count: int) -> bytes:
    """Return a statement of several queries for so many."""
    return text.replace(b"@queries@", b", ".join([b"%s::halfvec"] * count))


def _candidates(suffix: str, item: IdType, query: str) -> str:
    return (
        f"recsys._candidates('{suffix}', {query}::halfvec,"
        + f" %s::{item}[]," * 5
        + " %s::integer, %s::integer, %s::integer, %s::boolean, %s::text,"
        " %s::real, %s::text, %s::integer, %s::integer, %s::text, %s::text,"
        " %s::boolean)"
    )


def _interests(suffix: str, item: IdType) -> bytes:
    """Return the search of several queries: one page, each sure of some places.

    The best items of every interest come first, however they score; what is left is
    filled by score. ``_interests.merge`` is the same in Python.
    """
    order = f"p.score desc, p.item_id{collation(item)}"
    return _sql.trusted(
        f"with found as (select n.item_id, n.score, n.place from {_QUERIES_OF}"
        f" lateral recsys._search_{suffix}"
        f"(q.query, %s::integer, %s::{item}[], %s::integer) as s,"
        " lateral unnest(s.item_ids, s.scores) with ordinality"
        " as n(item_id, score, place)),"
        " item as (select f.item_id, max(f.score) as score,"
        " bool_or(f.place <= %s::integer) as sure from found as f group by f.item_id),"
        " page as (select i.item_id, i.score from item as i"
        f" order by i.sure desc, i.score desc, i.item_id{collation(item)}"
        " limit %s::integer)"
        f" select coalesce(array_agg(p.item_id order by {order}), '{{}}'),"
        f" coalesce(array_agg(p.score order by {order}), '{{}}') from page as p"
    )


def _pool(suffix: str, search: str) -> bytes:
    """Return a search whose third column are the vectors of what it finds, packed."""
    return _sql.trusted(
        # Of one row, which the planner takes for a thousand.
        f"with found(item_ids, scores) as materialized ({search} limit 1)"
        f" select found.item_ids, found.scores, recsys._vectors_{suffix}"
        "(found.item_ids) from found"
    )


def _fresh(suffix: str, config: ModelConfig, number: int) -> str:
    """Return the search that adds what today's interactions are worth.

    Candidates are the nearest, some more than wanted, and what rose most: a riser may
    be far behind. Without anything that rose it is the search as it is.
    """
    item = config.item_id
    # The trend's ids are "C", those of the vectors not: their index wants its own.
    native = ' collate "default"' if item == "text" else ""
    # What nobody has measured for a day is no news: the workers are down.
    mine = (
        f"t.model = '{config.name}' and t.number = {number}"
        " and t.measured_at > now() - interval '1 day'"
    )
    return (
        "with risen as materialized (select t.item_id, t.delta from recsys.item_trend"
        f" as t where {mine} order by t.delta desc limit {RISERS}),"
        " asked as materialized (select %s::halfvec as query, %s::integer as k,"
        f" %s::{item}[] as exclude, %s::integer as ef, %s::real as weight),"
        " found as (select n.item_id, n.score from asked,"
        f" recsys._search_{suffix}(asked.query, asked.k + case when exists"
        f" (select from risen) then {MORE} else 0 end, asked.exclude, asked.ef) as s,"
        " unnest(s.item_ids, s.scores) as n(item_id, score)"
        " union all select v.item_id, (-(v.embedding <#> asked.query))::real"
        f" from asked, risen join recsys.item_vector_{suffix} as v"
        f" on v.item_id = risen.item_id::{item}{native}"
        " where v.item_id <> all (array_remove(asked.exclude, null))),"
        " best as (select f.item_id, (max(f.score) + asked.weight"
        " * coalesce(max(t.delta), 0))::real as score from asked, found as f"
        f" left join recsys.item_trend as t on {mine} and t.item_id = f.item_id::text"
        " group by f.item_id, asked.weight, asked.k"
        f" order by 2 desc, f.item_id{collation(item)} limit (select k from asked))"
        f" select coalesce(array_agg(b.item_id order by b.score desc,"
        f" b.item_id{collation(item)}), '{{}}'),"
        f" coalesce(array_agg(b.score order by b.score desc,"
        f" b.item_id{collation(item)}), '{{}}') from best as b"
    )


def more_columns(config: ModelConfig) -> tuple[str, ...]:
    """Return what the state functions of a version have beside the usual columns."""
    if config.query.clustered:
        return ("ages", "kinds", "vectors")
    return ("ages", "kinds") if config.query.sequential else ()
