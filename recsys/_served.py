"""Lists of many users, made as a request makes them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from recsys import (
    _history,
    _index_key,
    _request_sql,
    _rerank,
    _sql,
    artifacts,
    retrieval,
)
from recsys._db import Connection, Halfvec
from recsys._interests import sure_places
from recsys._queries import queries
from recsys._rerank import Rerank
from recsys._tower import QueryTower
from recsys.errors import SourceError
from recsys.ids import collation
from recsys.progress import Progress
from recsys.retrieval import Found
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion


@dataclass(frozen=True, slots=True)
class Answer:
    """One user's list and how it was made.

    Attributes:
        items: Item ids, best first.
        scores: Their inner products with the query, and what re-ranking adds.
        seen: What the user had: never in the list.
        query: Query vector, shape (dim,), float32; of several interests (Q, dim).
        rerank: How the first candidates are ranked again; None: they are not.
        seconds: Wall time of both statements and the tower.
    """

    items: Sequence[ItemId]
    scores: Sequence[float]
    seen: Sequence[ItemId]
    query: NDArray[np.float32]
    seconds: float
    rerank: Rerank | None = None


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
        self._statements = _request_sql.statements(version.suffix, config)
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
        rerank = _rerank.of_state(self.version.config, state)
        items: Sequence[ItemId] = ()
        scores: Sequence[float] = ()
        if self._only is None:
            items, scores = self._search(query, state.seen, rerank)
        seconds = time.perf_counter() - start
        return Answer(items, scores, state.seen, query, seconds, rerank)

    def ask_all(
        self,
        users: Mapping[UserId, Sequence[ItemId] | None],
        title: str,
        progress: Progress,
    ) -> list[Answer]:
        """Answer users with histories as ``ask`` does, in their order."""
        answers: list[Answer] = []
        with progress.stage(title, len(users)) as stage:
            for user, history in users.items():
                answers.append(self.ask(user, history))
                stage.advance()
        return answers

    def _search(
        self,
        query: NDArray[np.float32],
        seen: Sequence[ItemId],
        rerank: Rerank | None,
    ) -> Found:
        known = (self.conn, self._statements)
        depth, ef_search = self.depth, self._ef_search
        vectors = [Halfvec(each) for each in np.atleast_2d(query)]
        if len(vectors) == 1:
            return _rerank.nearest(*known, vectors[0], depth, seen, ef_search, rerank)
        sure = sure_places(depth, len(vectors), self.version.config.query.share)
        return retrieval.interests(*known, vectors, depth, seen, ef_search, sure)


def short(answers: Sequence[Answer], depth: int) -> int:
    """Return how many lists have fewer items than were asked for."""
    return sum(len(answer.items) < depth for answer in answers)


def _restricted_state(version: ModelVersion, only: str) -> bytes:
    """Return the state statement with histories of the items that ``only`` has."""
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    features = _history.user_features(config, "given.p_user")
    more = "".join(f", known.{name}" for name in _request_sql.more_columns(config))
    body = (
        "with every as materialized ("
        f"{_history.taste(config, columns=columns)}), item as materialized ("
        f" select every.* from every where exists (select from"
        f" recsys.item_embedding_{only} as loaded"
        " where loaded.item_id = every.item_id))"
        " select (select array_agg(every.item_id) from every) as seen,"
        f" past.* from (select {_history.history_aggregates(config)} from ("
        f"{_history.newest_history(config, version.suffix)}) as newest) as past"
    )
    return _sql.trusted(
        "select m.generation, known.seen, known.weights, known.history,"
        f" {_sql.escaped(features)}{more} from recsys.model as m,"
        f" (select %s::{config.user_id} as p_user, %s::float8 as p_before) as given,"
        f" lateral ({_sql.escaped(body)}) as known"
        f" where m.name = {_sql.literal(config.name)}"
    )


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
    taste = _sql.escaped(_history.taste(config, columns=columns))
    rows = conn.execute(
        _sql.trusted(
            f"select item.item_id from (select %s::{config.user_id} as p_user,"
            f" %s::float8 as p_before) as given, lateral ({taste}) as item"
            " where item.weight > 0 order by item.liked_at desc nulls last,"
            f" item.item_id{collation(config.item_id)} limit %s"
        ),
        (user, before.timestamp() if before else None, limit),
    ).fetchall()
    return [row[0] for row in rows]
