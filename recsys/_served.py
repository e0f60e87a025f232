"""Lists of many users: as a request makes them, by an exact scan, by popularity."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import tuple_row

from recsys import _db, _index_key, _sql, artifacts, retrieval, versions
from recsys._db import Connection, Halfvec
from recsys._interests import merge, sure_places
from recsys._queries import queries
from recsys._source import source_errors
from recsys._tower import QueryTower
from recsys.config import ModelConfig
from recsys.encoder.values import json_projection
from recsys.errors import SourceError
from recsys.progress import SILENT, Progress
from recsys.retrieval import Found
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion

_RECENT = timedelta(days=30)
_ITEMS = 8_192
_USERS = 512
"""A block of scores, users by items, takes 16 MB, and the places in it twice that."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One user's list and how it was made.

    Attributes:
        items: Item ids, best first.
        scores: Their inner products with the query.
        seen: What the user had: never in the list.
        query: Query vector, shape (dim,), float32; of several interests (Q, dim).
        seconds: Wall time of both statements and the tower.
    """

    items: Sequence[ItemId]
    scores: Sequence[float]
    seen: Sequence[ItemId]
    query: NDArray[np.float32]
    seconds: float


class Served:
    """A version as its requests meet it: statements, tower, calibrated ef_search.

    Args:
        conn: An open connection.
        version: The version.
        depth: List length.
        before: Histories end here; None: all the source has.
        only: Suffix of a version that is loading: histories keep the items that it
            has, so that both versions know the same of a user. Such a version makes
            queries; lists are made of them by ``exact``.
    """

    def __init__(
        self,
        conn: Connection,
        version: ModelVersion,
        depth: int,
        before: datetime | None,
        *,
        only: str | None = None,
    ) -> None:
        self.conn = conn
        self.version = version
        self.depth = depth
        self.before = before
        self._only = only
        config = version.config
        self._statements = retrieval.statements(version.suffix, config)
        if only is not None:
            self._statements = replace(
                self._statements, state=_restricted_state(version, only)
            )
        self._tower = QueryTower.of(
            artifacts.get(conn, version.artifacts["query_tower"]), config
        )
        self._ef_search = _index_key.effort(config, version.ef_search or 100, depth)

    def ask(self, user: UserId, history: Sequence[ItemId] | None = None) -> Answer:
        """Answer one user as a request does; only the query when restricted.

        Args:
            user: Whom.
            history: What a session did, newest first, instead of what is stored.
        """
        start = time.perf_counter()
        state = retrieval.state(self.conn, self._statements, user, history, self.before)
        if state is None:
            raise SourceError(f"model {self.version.model!r} was removed meanwhile")
        query = queries(self._tower, self.version.config, state)
        items: Sequence[ItemId] = ()
        scores: Sequence[float] = ()
        if self._only is None:
            items, scores = self._search(query, state.seen)
        seconds = time.perf_counter() - start
        return Answer(items, scores, state.seen, query, seconds)

    def _search(self, query: NDArray[np.float32], seen: Sequence[ItemId]) -> Found:
        known = (self.conn, self._statements)
        depth, ef_search = self.depth, self._ef_search
        vectors = [Halfvec(each) for each in np.atleast_2d(query)]
        if len(vectors) == 1:
            return retrieval.search(*known, vectors[0], depth, seen, ef_search)
        sure = sure_places(depth, len(vectors), self.version.config.query.share)
        return retrieval.interests(*known, vectors, depth, seen, ef_search, sure)


def _restricted_state(version: ModelVersion, only: str) -> bytes:
    """Return the state statement with histories of the items that ``only`` has."""
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    features = "null::jsonb"
    if config.users.features:
        fields = json_projection(config.users.features, "source")
        features = (
            f"(select {fields} from ({config.users.sql}\n) as source"
            " where source.user_id = given.p_user limit 1)"
        )
    more = "".join(f", known.{name}" for name in retrieval.more_columns(config))
    body = (
        "with every as materialized ("
        f"{versions.taste(config, columns=columns)}), item as materialized ("
        f" select every.* from every where exists (select from"
        f" recsys.item_embedding_{only} as loaded"
        " where loaded.item_id = every.item_id))"
        " select (select array_agg(every.item_id) from every) as seen,"
        f" past.* from (select {versions.history_aggregates(config)} from ("
        f"{versions.newest_history(config, version.suffix)}) as newest) as past"
    )
    return _sql.trusted(
        "select m.generation, known.seen, known.weights, known.history,"
        f" {_percent(features)}{more} from recsys.model as m,"
        f" (select %s::{config.user_id} as p_user, %s::float8 as p_before) as given,"
        f" lateral ({_percent(body)}) as known"
        f" where m.name = {_sql.literal(config.name)}"
    )


@dataclass(frozen=True, slots=True)
class Ranking:
    """One user's list by an exact scan: item ids and scores, best first."""

    items: list[ItemId]
    scores: NDArray[np.float32]


def exact(
    conn: Connection,
    version: ModelVersion,
    answers: Sequence[Answer],
    depth: int,
    *,
    only: str | None = None,
    among: Collection[ItemId] | None = None,
    progress: Progress = SILENT,
) -> list[Ranking]:
    """Rank by an exact scan of the stored vectors; ties by id.

    Args:
        conn: An open connection.
        version: Whose vectors.
        answers: Queries of this version and what each leaves out.
        depth: List length.
        only: Suffix of a version: its items alone are ranked.
        among: Only these items are ranked.
        progress: Receives the progress.
    """
    several = [np.atleast_2d(answer.query) for answer in answers]
    single = [
        replace(answer, query=query)
        for answer, each in zip(answers, several, strict=True)
        for query in each
    ]
    ranked = _rank(conn, version, single, depth, only, among, progress)
    if len(ranked) == len(answers):
        return ranked
    out: list[Ranking] = []
    place = 0
    for each in several:
        lists = [
            (one.items, one.scores.tolist()) for one in ranked[place:][: len(each)]
        ]
        sure = sure_places(depth, len(each), version.config.query.share)
        items, scores = merge(lists, depth, sure)
        out.append(Ranking(list(items), np.array(scores, np.float32)))
        place += len(each)
    return out


def _rank(
    conn: Connection,
    version: ModelVersion,
    answers: Sequence[Answer],
    depth: int,
    only: str | None,
    among: Collection[ItemId] | None,
    progress: Progress,
) -> list[Ranking]:
    """Rank for one query each."""
    queries = np.stack([answer.query for answer in answers])
    queries = queries.astype(np.float16).astype(np.float32)  # as the search rounds
    without: dict[ItemId, list[int]] = defaultdict(list)
    for row, answer in enumerate(answers):
        for item in answer.seen:
            without[item].append(row)
    ids: list[ItemId] = []
    scores = np.full((len(answers), depth), -np.inf, np.float32)
    places = np.zeros((len(answers), depth), np.int64)
    with progress.stage("Ranking exactly", version.item_count) as stage:
        for block_ids, vectors in _blocks(conn, version, only):
            if among is not None:
                keep = [i for i, item in enumerate(block_ids) if item in among]
                block_ids, vectors = [block_ids[i] for i in keep], vectors[keep]
            rows = [without.get(item, ()) for item in block_ids]
            gone_row = np.array([row for some in rows for row in some], np.int64)
            gone_item = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
            for start in range(0, len(queries), _USERS):
                part = slice(start, start + _USERS)
                found = queries[part] @ vectors.T  # (B, N)
                here = (gone_row >= start) & (gone_row < start + _USERS)
                found[gone_row[here] - start, gone_item[here]] = -np.inf
                _merge(scores[part], places[part], found, len(ids))
            ids += block_ids
            stage.advance(len(block_ids))
    return [
        Ranking([ids[i] for i in place[np.isfinite(score)]], score[np.isfinite(score)])
        for score, place in zip(scores, places, strict=True)
    ]


def _blocks(
    conn: Connection, version: ModelVersion, only: str | None
) -> Generator[tuple[list[ItemId], NDArray[np.float32]]]:
    """Yield ids and vectors, by id.

    One statement: a backfill that moves rows cannot come between ids and vectors.
    """
    shared = f" join recsys.item_vector_{only} using (item_id)" if only else ""
    query = _sql.trusted(
        f"select v.item_id, halfvec_send(v.embedding)"
        f" from recsys.item_vector_{version.suffix} as v{shared}"
        f" order by v.item_id{versions.collation(version.config.item_id)}"
    )
    # A cursor of the server's: a million vectors need not be here at once.
    with (
        conn.transaction(),
        psycopg.ServerCursor(conn, "recsys_exact", row_factory=tuple_row) as rows,
    ):
        rows.execute(query, binary=True)
        while some := rows.fetchmany(_ITEMS):
            packed = b"".join(cell for _, cell in some)
            vectors = _db.unpack_halfvecs(packed, version.dim).astype(np.float32)
            yield [item for item, _ in some], vectors


def _merge(
    scores: NDArray[np.float32],
    places: NDArray[np.int64],
    found: NDArray[np.float32],
    first: int,
) -> None:
    """Keep the best of what is kept and what was found; ties by place."""
    depth = scores.shape[1]
    if found.shape[1] > depth:
        place_of = np.argpartition(found, -depth, axis=1)[:, -depth:]
        best = np.sort(place_of.astype(np.int64), axis=1)
        found = np.take_along_axis(found, best, axis=1)
    else:
        best = np.tile(np.arange(found.shape[1], dtype=np.int64), (len(found), 1))
    every = np.concatenate([scores, found], axis=1)
    place = np.concatenate([places, best + first], axis=1)
    # Stable: kept ones stand in front and have the smaller places.
    order = np.argsort(-every, axis=1, kind="stable")[:, :depth]
    scores[:] = np.take_along_axis(every, order, axis=1)
    places[:] = np.take_along_axis(place, order, axis=1)


def popularity(
    conn: Connection,
    version: ModelVersion,
    before: datetime | None,
    since: datetime | None = None,
) -> dict[ItemId, int]:
    """Return how many users took each of the version's items, most first.

    Items that nobody took are left out.
    """
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    weight = versions.weight_expression(config, columns)
    conditions = [f"{_percent(weight)} > 0"]
    parameters: list[float] = []
    for bound, operator in ((before, "<"), (since, ">=")):
        if bound is not None and "occurred_at" in columns:
            conditions.append(f"extract(epoch from source.occurred_at) {operator} %s")
            parameters.append(bound.timestamp())
    query = (
        f"select v.item_id, counted.n from recsys.item_vector_{version.suffix} as v"
        f" join (select source.item_id::{config.item_id} as item_id,"
        " count(distinct source.user_id) as n"
        f" from ({_percent(config.interactions.sql)}\n) as source"
        f" where {' and '.join(conditions)} group by 1) as counted"
        " using (item_id) order by counted.n desc, v.item_id"
    )
    with source_errors("interactions"):
        return dict(conn.execute(_sql.trusted(query), parameters).fetchall())


def floors(
    conn: Connection,
    version: ModelVersion,
    before: datetime | None,
    seen: Sequence[Sequence[ItemId]],
    depth: int,
) -> dict[str, list[Sequence[ItemId]]]:
    """Rank everybody by popularity, all time and of the last 30 days.

    Returns:
        "most_popular" and, for interactions with a time, "popular_30d": one list per
        user without what the user has seen.
    """
    orders = {"most_popular": popularity(conn, version, before)}
    if "occurred_at" in version.spec.get("columns", ()):
        since = before or _latest(conn, version.config)
        if since is not None:
            recent = popularity(conn, version, before, since - _RECENT)
            orders["popular_30d"] = recent
    return {
        name: [_unseen(list(order), set(some), depth) for some in seen]
        for name, order in orders.items()
    }


def _unseen(order: Sequence[ItemId], seen: set[ItemId], k: int) -> list[ItemId]:
    out: list[ItemId] = []
    for item in order:
        if item not in seen:
            out.append(item)
            if len(out) == k:
                break
    return out


def _latest(conn: Connection, config: ModelConfig) -> datetime | None:
    row = conn.execute(
        _sql.trusted(
            f"select max(source.occurred_at)::timestamptz"
            f" from ({config.interactions.sql}\n) as source"
        )
    ).fetchone()
    return row[0] if row else None


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def newest_items(
    conn: Connection,
    version: ModelVersion,
    user: UserId,
    before: datetime | None,
    limit: int,
) -> list[ItemId]:
    """Return what a user liked last, newest first, to show beside a list."""
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    taste = _percent(versions.taste(config, columns=columns))
    rows = conn.execute(
        _sql.trusted(
            f"select item.item_id from (select %s::{config.user_id} as p_user,"
            f" %s::float8 as p_before) as given, lateral ({taste}) as item"
            " where item.weight > 0 order by item.liked_at desc nulls last,"
            f" item.item_id{versions.collation(config.item_id)} limit %s"
        ),
        (user, before.timestamp() if before else None, limit),
    ).fetchall()
    return [row[0] for row in rows]
