"""Measure ANN recall on real requests and choose the version's ``ef_search``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys import _copy, _db, _request_sql, _sql, artifacts, retrieval
from recsys._db import Connection, Halfvec
from recsys._index_key import provisional
from recsys._queries import queries
from recsys._tower import QueryTower
from recsys.errors import VersionStateError
from recsys.progress import Progress
from recsys.types import ItemId
from recsys.versions import ModelVersion

K = 20
_QUERIES_EACH = 150
_MOST_SEEN = 500
"""Users with more seen items are not sampled: their exact lists would be long."""
_MARGIN = 0.003
"""Added to the target: the recall of 150 queries is itself uncertain by about this."""
_EF_SEARCH = (40, 60, 80, 100, 130, 160, 200, 250, 320, 400, 500, 640, 800, 1000)
_RERANKED = (*_EF_SEARCH, 1300, 1600, 2000, 2500, 3200, 4000, 5000)
"""Where the index is over less than the vectors, the depth that is re-ranked."""
_HINT = (
    "Raise index.m and index.ef_construction, or lower index.recall_target, and train"
    " again."
)
_SHORT_HINT = (
    "The index is over too little of the vectors: raise index.prefix, leave out"
    " index.quantisation, or lower index.recall_target, and train again."
)
# float32 sums in another order differ in the last digits.
_TIE = 1e-4


@dataclass(frozen=True, slots=True)
class Query:
    """One request as it reaches the search function.

    Attributes:
        vector: Query vector, shape (dim,), float32.
        exclude: Items it leaves out: what the user has seen, or the item itself.
    """

    vector: NDArray[np.float32]
    exclude: Sequence[ItemId]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured ANN recall of a version.

    Attributes:
        ef_search: Smallest candidate count that reaches the target.
        recall: ANN recall@20 at it, in [0, 1]: the lower of recommending to users and
            of similar items.
        queries: Number of sampled requests.
        curve: Every candidate count that was tried, with its recall, by rising count.
    """

    ef_search: int
    recall: float
    queries: int
    curve: Sequence[tuple[int, float]] = ()


def calibrate(
    conn: Connection, version: ModelVersion, progress: Progress
) -> Calibration:
    """Find the smallest ef_search that reaches the recall target on real requests.

    Requests exclude what the user has seen, and that is what lies nearest: a
    measurement without the exclusions would flatter the index. A result counts when
    its exact score is at least that of place 20 among the items not excluded, so that
    ties are no mistakes.

    Raises:
        VersionStateError: No ef_search reaches the target.
    """
    kinds = (users_queries(conn, version), similar_queries(conn, version))
    target = version.config.index.recall_target
    curve: dict[int, float] = {}
    with progress.stage("Measuring ANN recall") as stage:
        bounds = [_exact_bounds(conn, version, queries) for queries in kinds]
        stage.advance(1, "exact scan done")

        def measured(ef_search: int) -> float:
            recall = min(
                _recall(conn, version, queries, bound, ef_search)
                for queries, bound in zip(kinds, bounds, strict=True)
            )
            curve[ef_search] = recall
            stage.advance(1, f"ef_search {ef_search}: recall {recall:.3f}")
            return recall

        short = provisional(version.config)
        efforts = _RERANKED if short else _EF_SEARCH
        ef_search, recall = _smallest(measured, min(1.0, target + _MARGIN), efforts)
    conn.rollback()
    if recall < target:
        raise VersionStateError(
            f"the index reaches recall {recall:.5f} at ef_search {ef_search}, the "
            f"target is {target}",
            hint=_SHORT_HINT if short else _HINT,
        )
    queries = sum(map(len, kinds))
    return Calibration(ef_search, recall, queries, sorted(curve.items()))


def _smallest(
    recall_at: Callable[[int], float],
    target: float,
    efforts: Sequence[int] = _EF_SEARCH,
) -> tuple[int, float]:
    """Return the smallest candidate that reaches the target, else the largest.

    Recall grows with ef_search, and large ones are slow: the smallest is tried first,
    then the rest is halved.
    """
    low, high = 0, len(efforts) - 1
    recall = recall_at(efforts[0])
    if recall >= target:
        return efforts[0], recall
    found: dict[int, float] = {}
    while high - low > 1:
        middle = (low + high) // 2
        found[middle] = recall_at(efforts[middle])
        if found[middle] >= target:
            high = middle
        else:
            low = middle
    return efforts[high], found.get(high) or recall_at(efforts[high])


def users_queries(
    conn: Connection, version: ModelVersion, *, size: int = _QUERIES_EACH
) -> list[Query]:
    """Return requests of sampled users, and one of a user without history."""
    config, suffix = version.config, version.suffix
    tower = QueryTower.of(artifacts.get(conn, version.artifacts["query_tower"]), config)
    nobody = retrieval.State(0, [], [], None, None)
    found = _each(queries(tower, config, nobody), [])
    users = conn.execute(
        _sql.trusted(
            f"select user_id::{config.user_id} from (select distinct user_id"
            f" from ({config.interactions.sql}\n) as i where user_id is not null) as u"
            f" order by hashtextextended(user_id::text, 0) limit {size:d}"
        )
    ).fetchall()
    statements = _request_sql.statements(suffix, config)
    for (user,) in users:
        state = retrieval.state(conn, statements, user, None)
        if state is None or len(state.seen) > _MOST_SEEN:
            continue
        found += _each(queries(tower, config, state), state.seen)
    return found


def _each(vectors: NDArray[np.float32], seen: Sequence[ItemId]) -> list[Query]:
    """Return the searches of one request: one for each of its interests."""
    return [Query(vector, seen) for vector in np.atleast_2d(vectors)]


def similar_queries(
    conn: Connection, version: ModelVersion, *, size: int = _QUERIES_EACH
) -> list[Query]:
    """Return requests for items similar to sampled ones."""
    with _db.binary_cursor(conn) as cur:
        rows = cur.execute(
            _sql.trusted(
                "select item_id, halfvec_send(recsys._direction(embedding))"
                f" from recsys.item_vector_{version.suffix}"
                " order by hashtextextended(item_id::text, 1) limit %s"
            ),
            (size,),
        ).fetchall()
    return [
        Query(_db.unpack_halfvecs(packed, version.dim)[0].astype(np.float32), [item])
        for item, packed in rows
    ]


def _exact_bounds(
    conn: Connection, version: ModelVersion, queries: Sequence[Query]
) -> list[tuple[float, int]]:
    """Return per query the exact score of its last place, and the places there are."""
    # The search rounds the query to halfvec, too.
    vectors = np.stack([query.vector for query in queries])
    vectors = vectors.astype(np.float16).astype(np.float32)
    depth = K + max(len(query.exclude) for query in queries)
    top = np.full((len(queries), depth), -np.inf, np.float32)
    table = f"item_vector_{version.suffix}"
    for block in _copy.read_vectors(conn, table, version.dim):
        scores = np.concatenate([top, vectors @ block.T], axis=1)
        top = np.partition(scores, scores.shape[1] - depth, axis=1)[:, -depth:]
    top = -np.sort(-top, axis=1)
    return [
        _bound(best, _excluded_scores(conn, version, vector, query.exclude))
        for best, vector, query in zip(top, vectors, queries, strict=True)
    ]


def _excluded_scores(
    conn: Connection,
    version: ModelVersion,
    vector: NDArray[np.float32],
    exclude: Sequence[ItemId],
) -> NDArray[np.float32]:
    with _db.binary_cursor(conn) as cur:
        rows = cur.execute(
            _sql.trusted(
                "select halfvec_send(embedding)"
                f" from recsys.item_vector_{version.suffix}"
                f" where item_id = any(%s::{version.config.item_id}[])"
            ),
            (list(exclude),),
        ).fetchall()
    packed = b"".join(row[0] for row in rows)
    return _db.unpack_halfvecs(packed, version.dim).astype(np.float32) @ vector


def _bound(
    best: NDArray[np.float32], excluded: NDArray[np.float32]
) -> tuple[float, int]:
    """Return the score of the K-th place that is not excluded, and the places up to K.

    Args:
        best: Exact scores, best first; -inf where there are no more items.
        excluded: Scores of the excluded items; each is among all items.
    """
    best = best[np.isfinite(best)]
    # Of the items down to each place, how many are not excluded?
    taken = (excluded[None, :] >= best[:, None] - 1e-5).sum(1)
    free = np.arange(1, len(best) + 1) - taken
    enough = np.flatnonzero(free >= K)
    if len(enough):
        return float(best[enough[0]]), K
    places = int(free[-1]) if len(free) else 0
    return (float(best[-1]) if len(best) else np.inf), places


def _recall(
    conn: Connection,
    version: ModelVersion,
    queries: Sequence[Query],
    bounds: Sequence[tuple[float, int]],
    ef_search: int,
) -> float:
    found = wanted = 0
    for query, (bound, places) in zip(queries, bounds, strict=True):
        scores = _search(conn, version, query, ef_search)[:places]
        found += sum(score >= bound - _TIE for score in scores)
        wanted += places
    return found / wanted if wanted else 1.0


def _search(
    conn: Connection, version: ModelVersion, query: Query, ef_search: int
) -> Sequence[float]:
    with _db.binary_cursor(conn) as cur:
        row = cur.execute(
            _sql.trusted(
                f"select scores from recsys._search_{version.suffix}"
                f"(%s::halfvec, %s, %s::{version.config.item_id}[], %s)"
            ),
            (Halfvec(query.vector), K, list(query.exclude), ef_search),
        ).fetchone()
    return row[0] if row else []
