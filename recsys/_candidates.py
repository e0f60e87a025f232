"""The candidates of one request: from what was asked to the items of the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from recsys import _db, _index_key, _interests, _rerank, filters, retrieval
from recsys._arguments import check_ids
from recsys._db import Connection, Halfvec
from recsys._loaded import Loaded
from recsys._request_sql import Look, Seen
from recsys._rerank import Rerank
from recsys._wanted import NO_RULES, Wanted
from recsys.errors import SourceError
from recsys.filters import Normalised
from recsys.retrieval import Found
from recsys.rules import (
    Candidates,
    Fresh,
    order,
)
from recsys.types import ItemId

_WHOLE = re.compile(
    r"\b(limit|fetch|offset|over|distinct\s+on|having|random|nextval)\b", re.IGNORECASE
)
"""What may keep Postgres from asking a filter about a few items only."""


def find(
    conn: Connection,
    version: Loaded,
    query: NDArray[np.float32],
    wanted: Wanted,
    seen: Sequence[ItemId] = (),
    rerank: Rerank | None = None,
) -> Found:
    """Return the items of a page and their scores, in the order of the page.

    Args:
        conn: An open connection.
        version: Who answers.
        query: Query vector, shape (D + 1,), float32; of several interests (Q, D + 1).
        wanted: What was asked.
        seen: Items left out because the user knows them; pinned ones may be among
            them.
        rerank: How the first candidates of a single query are ranked again.

    Raises:
        ConfigError: An id is not of the model's type.
        SourceError: A query of the application fails.
    """
    check_ids(version.config, None, None, wanted.named)
    if wanted.nothing:
        return [], []
    exact, ef_search = effort(version, wanted.recall_target)
    exclude = [*seen, *wanted.exclude]
    if query.ndim == 2:
        if len(query) > 1:
            return _find_each(conn, version, query, wanted, exclude)
        query = query[0]
    if wanted.plain and not exact:
        return _rerank.nearest(
            conn,
            version.statements,
            Halfvec(query),
            wanted.k,
            exclude,
            _index_key.effort(version.config, ef_search, wanted.k),
            rerank,
            weight=float(query[-1]),
        )
    look = _look(conn, wanted, Halfvec(query), exclude)
    if rerank is not None:
        # What counts of an item is its score after all.
        wish = max(look.wish, _rerank.pool(wanted.k))
        look = look._replace(wish=wish, min_score=None, vectors=True)
    memory = _Memory(version, wanted, look.wish)
    if exact:
        look = look._replace(ef_search=None)
    else:
        look = look._replace(ef_search=ef_search, first=memory.first(ef_search))
    found = retrieval.candidates(conn, version.statements, look)
    memory.keep(found.needed)
    plain = wanted.rules is None and not wanted.amounts and wanted.boost is None
    if plain and rerank is None:
        return found.item_ids[: wanted.k], found.scores[: wanted.k]
    return _page(wanted, found, version.tower.dim, rerank)


def _find_each(
    conn: Connection,
    version: Loaded,
    queries: NDArray[np.float32],
    wanted: Wanted,
    exclude: list[ItemId],
) -> Found:
    """Return the page of several interests; see ``_interests``."""
    exact, ef_search = effort(version, wanted.recall_target)
    vectors = [Halfvec(query) for query in queries]
    share = version.config.query.share
    sure = _interests.sure_places(wanted.k, len(vectors), share)
    if wanted.plain and not exact:
        ef_search = _index_key.effort(version.config, ef_search, wanted.k)
        return retrieval.interests(
            conn, version.statements, vectors, wanted.k, exclude, ef_search, sure
        )
    look = _look(conn, wanted, vectors[0], exclude)
    memory = _Memory(version, wanted, look.wish)
    if exact:
        look = look._replace(ef_search=None)
    else:
        look = look._replace(ef_search=ef_search, first=memory.first(ef_search))
    found = retrieval.candidates_each(conn, version.statements, vectors, look)
    memory.keep(_interests.needed(found))
    if wanted.rules is None and not wanted.amounts and wanted.boost is None:
        lists = [(one.item_ids[: wanted.k], one.scores[: wanted.k]) for one in found]
        return _interests.merge(lists, wanted.k, sure)
    return _page(wanted, _interests.pooled(found), version.tower.dim)


def effort(version: Loaded, target: float | None) -> tuple[bool, int]:
    """Return whether the scan is exact, and else the candidates of the index.

    Above what was measured only the exact scan is sure to reach a target.

    Args:
        version: Who answers.
        target: Recall of the request; None: that of the version.
    """
    if target is None:
        return False, version.ef_search
    if target < 1:
        for ef_search, recall in version.recall_curve:
            if recall >= target:
                return False, ef_search
        if target <= version.config.index.recall_target:
            return False, version.ef_search
    return True, version.ef_search


def _look(
    conn: Connection, wanted: Wanted, query: Halfvec, exclude: list[ItemId]
) -> Look:
    """Return what the database is asked for; the effort is still open."""

    def text(given: Normalised | None, name: str) -> str | None:
        return None if given is None else filters.literal(conn, given, name=name)

    rules = wanted.rules or NO_RULES
    among = text(wanted.among, "among")
    return Look(
        query=query,
        exclude=exclude,
        named=list(wanted.amounts),
        pinned=list(rules.pin),
        never=list(wanted.exclude),
        buried=list(rules.bury),
        wish=wanted.considered,
        ef_search=None,
        first=None,
        whole=among is not None and _WHOLE.search(among) is not None,
        among=among,
        min_score=wanted.min_score,
        keys=text(wanted.per, "rules.per"),
        at_most=rules.at_most,
        places=wanted.k,
        amounts=text(wanted.boost, "boost"),
        times=text(wanted.times, "rules.fresh.times"),
        vectors=rules.mmr is not None,
    )


def _page(wanted: Wanted, found: Seen, dim: int, rerank: Rerank | None = None) -> Found:
    """Return the page that re-ranking, boosts and rules make of the candidates."""
    rules = wanted.rules or NO_RULES
    directions = None
    if found.vectors is not None:
        directions = _directions(found.vectors, dim)
    if rerank is not None and directions is not None:
        found, directions = _reranked(wanted, found, directions, rerank)
    ids, scores = found.item_ids, np.array(found.scores, np.float64)
    scores += [wanted.amounts.get(item, 0.0) for item in ids]
    scores += _bonus(ids, found.amount_ids, found.amounts)
    if rules.fresh is not None:
        scores += _freshness(rules.fresh, found)
    keys = {
        item: key
        for item, key in zip(found.key_ids or (), found.keys or (), strict=True)
        if key is not None
    }
    places = order(Candidates(ids, scores, keys, directions), rules, wanted.k)
    return [ids[place] for place in places], [float(scores[place]) for place in places]


def _directions(packed: bytes | None, dim: int) -> NDArray[np.float32]:
    """Return packed item vectors without their popularity, shape (N, d)."""
    return _db.unpack_halfvecs(packed, dim + 1)[:, :dim].astype(np.float32)


def _reranked(
    wanted: Wanted, found: Seen, directions: NDArray[np.float32], rerank: Rerank
) -> tuple[Seen, NDArray[np.float32]]:
    """Return candidates with their final scores, those of too low a score left out."""
    scores = np.array(found.scores, np.float32) + rerank.bonus(directions)
    least = -np.inf if wanted.min_score is None else wanted.min_score
    pinned = set((wanted.rules or NO_RULES).pin)
    kept = [
        place
        for place, item in enumerate(found.item_ids)
        if scores[place] >= least or item in pinned
    ]
    ids = [found.item_ids[place] for place in kept]
    return found._replace(item_ids=ids, scores=scores[kept].tolist()), directions[kept]


def _bonus(
    ids: Sequence[ItemId],
    given: Sequence[ItemId] | None,
    amounts: Sequence[float | None] | None,
) -> NDArray[np.float64]:
    """Return what a boost query adds to each item; nothing where it has no amount.

    Raises:
        SourceError: An amount is infinite or not a number.
    """
    found = dict(zip(given or (), amounts or (), strict=True))
    bonus = np.array([found.get(item) or 0.0 for item in ids], np.float64)
    if not np.isfinite(bonus).all():
        raise SourceError(
            "the query 'boost' returns an amount that is no finite number",
            hint="Its second column is what is added to the score.",
        )
    return bonus


def _freshness(fresh: Fresh, found: Seen) -> NDArray[np.float64]:
    """Return the bonus of each item; an infinite time is an unknown one."""
    times = dict(zip(found.time_ids or (), found.times or (), strict=True))
    known = [times.get(item) for item in found.item_ids]
    since = np.array([np.nan if t is None else t for t in known], np.float64)
    age = np.maximum((found.at or 0.0) - since, 0.0)
    share = np.exp2(-age / fresh.half_life.total_seconds())
    return np.where(np.isfinite(since), fresh.weight * share, 0.0)


class _Memory:
    """How deep the index had to be read for a filter: where to begin next time.

    It saves time and decides no answer's completeness. A filter with other parameters
    begins at the same depth, and goes on where that is too little.
    """

    _known: ClassVar[dict[tuple[str, bytes, int], int]] = {}
    _MOST = 1000
    _DEEPEST = 8
    """Times the calibrated depth: what a wrong beginning may cost."""

    def __init__(self, version: Loaded, wanted: Wanted, wish: int) -> None:
        rules = wanted.rules
        what = "\0".join(
            (
                "" if wanted.among is None else wanted.among[0],
                ""
                if wanted.per is None
                else f"{wanted.per[0]}\0{rules and rules.at_most}",
            )
        )
        # A filter may be a list of ids of any length.
        digest = blake2b(what.encode(), digest_size=16).digest()
        self._key = version.statements.suffix, digest, wish

    def first(self, ef_search: int) -> int | None:
        known = self._known.get(self._key)
        return None if known is None else min(known, self._DEEPEST * ef_search)

    def keep(self, needed: int | None) -> None:
        if needed is None:
            self._known.pop(self._key, None)
            return
        if len(self._known) >= self._MOST:
            self._known.clear()
        # To go on costs one more look at the filter, to begin too deep costs each time.
        known = self._known.get(self._key, needed)
        self._known[self._key] = round(known + 0.2 * (1.1 * needed - known))
