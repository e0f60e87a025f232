"""Lists of many users by an exact scan of the stored vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import tuple_row

from recsys import _db, _rerank, _sql
from recsys._db import Connection
from recsys._interests import merge, sure_places
from recsys._served import Answer
from recsys.ids import collation
from recsys.progress import SILENT, Progress
from recsys.types import ItemId
from recsys.versions import ModelVersion

_ITEMS = 8_192
_USERS = 512
"""A block of scores, users by items, takes 16 MB, and the places in it twice that."""
_AGAIN = 100
"""Users whose candidates' vectors are read at a time."""


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

    Where answers are ranked again, so are the first of the scan.

    Args:
        conn: An open connection.
        version: Whose vectors.
        answers: Queries of this version and what each leaves out.
        depth: List length.
        only: Suffix of a version: its items alone are ranked.
        among: Only these items are ranked.
        progress: Receives the progress.
    """
    if any(answer.rerank is not None for answer in answers):
        pool = _rerank.pool(depth)
        ranked = _rank(conn, version, answers, pool, only, among, progress)
        return _again(conn, version, answers, ranked, depth)
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


def _again(
    conn: Connection,
    version: ModelVersion,
    answers: Sequence[Answer],
    ranked: Sequence[Ranking],
    depth: int,
) -> list[Ranking]:
    """Rank the first of each list again, as a request does."""
    out: list[Ranking] = []
    for start in range(0, len(answers), _AGAIN):
        part = slice(start, start + _AGAIN)
        wanted = {item for one in ranked[part] for item in one.items}
        vectors = _vectors(conn, version, list(wanted))
        for answer, one in zip(answers[part], ranked[part], strict=True):
            # An item may have left the catalogue since the scan.
            left = [place for place, item in enumerate(one.items) if item in vectors]
            if answer.rerank is None or not left:
                out.append(Ranking(one.items[:depth], one.scores[:depth]))
                continue
            there = [one.items[place] for place in left]
            rows = np.stack([vectors[item] for item in there])
            items, scores = _rerank.again(
                there, one.scores[left], rows[:, :-1], answer.rerank, depth
            )
            out.append(Ranking(items, np.array(scores, np.float32)))
    return out


def _vectors(
    conn: Connection, version: ModelVersion, items: list[ItemId]
) -> dict[ItemId, NDArray[np.float16]]:
    """Return the stored vectors of some items, each of shape (dim,)."""
    query = _sql.trusted(
        "select v.item_id, halfvec_send(v.embedding)"
        f" from recsys.item_vector_{version.suffix} as v where v.item_id = any (%s)"
    )
    with conn.cursor(binary=True, row_factory=tuple_row) as cur:
        rows = cur.execute(query, (items,)).fetchall()
    return {item: _db.unpack_halfvecs(cell, version.dim)[0] for item, cell in rows}


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
        f" order by v.item_id{collation(version.config.item_id)}"
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
