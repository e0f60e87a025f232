"""From the database to arrays: everything that one update computes with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _db, artifacts
from recsys._db import Connection
from recsys._items import ItemInputs, unpack_rows
from recsys._tower import QueryTower
from recsys.errors import TrainingError
from recsys.types import ItemId
from recsys.updates import frozen, reading
from recsys.updates.histories import PlacedEvents, find_own, padded, rank_of
from recsys.updates.learner import Catalogue, Examples, Lists, Moving
from recsys.updates.objective import Float32, Places, unit
from recsys.updates.reading import News
from recsys.versions import ModelVersion
from recsys.worker.apply import LoadedItems

_ITEMS_AT_ONCE = 2_000
_PROBES = 64
_SMALL = 1e-3
"""A rest shorter than this says nothing about an item."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a version is, and what is new to it. Items are counted by place, 0 to N.

    Attributes:
        version: The version.
        tower: Its query tower.
        items: Id of each item, shape (N,).
        ids: Id of each item that may move, shape (U,).
        known: Whether it has an ID row yet, shape (U,).
        moving: The rows that may move.
        catalogue: Every item as it is searched.
        listed: Whether each has a vector yet, shape (N,).
        rise: What today adds to the popularity of each, shape (N,). Counted with the
            news, it has no place in an examination by them.
        past: History-side rows of the items that somebody met, shape (M, d).
        past_moving: Which row of ``moving`` each is, -1: it stands still, shape (M,).
        events: Everything the users of the news did.
        user: User of each of the news, shape (n,).
        place: Item of each of the news, -1: in no list, shape (n,).
        columns: Raw user and context features, by asker.
        askers: User of each asker: a user in a context, shape (B,).
        asker: Asker of each of the news, shape (n,).
        rest: What user and context add to a query, shape (B, d).
        empty: Query of who has no history, shape (d,).
        left_out: Interactions that nothing can be learned from, by reason.
    """

    version: ModelVersion
    tower: QueryTower
    items: list[ItemId]
    ids: list[ItemId]
    known: NDArray[np.bool_]
    moving: Moving
    catalogue: Catalogue
    listed: NDArray[np.bool_]
    rise: Float32
    past: Float32
    past_moving: Places
    events: PlacedEvents
    user: Places
    place: Places
    columns: tuple[dict[str, list[object]], dict[str, list[object]]]
    askers: Places
    asker: Places
    rest: Float32
    empty: Float32
    left_out: dict[str, int]


def read_problem(
    conn: Connection,
    version: ModelVersion,
    loaded: LoadedItems,
    news: News,
    rises: Mapping[str, float] | None = None,
) -> Problem:
    """Read and encode what the news concern, in the caller's transaction.

    Args:
        conn: An open connection.
        version: A version, with vectors.
        loaded: Its item tower.
        news: What is new to it.
        rises: What is added to the popularity of items, by id as text; None: what the
            workers measured last.

    Raises:
        SourceError: A source fails.
        TrainingError: The item tower does more with learned rows than add them.
    """
    dim = version.config.train.dim
    users, user = _numbered(news.users)
    events = reading.read_events(conn, version, users, float(news.time.max()))
    ids, vectors = reading.read_catalogue(conn, version)
    place = {item: i for i, item in enumerate(ids)}
    wanted = dict.fromkeys(
        item for item, weight in zip(news.items, news.weight, strict=True) if weight > 0
    )
    found = _read_items(conn, loaded, list(wanted))
    for item in found.given.ids:
        if item not in place:
            place[item] = len(ids)
            ids.append(item)
    catalogue = _catalogue(vectors, len(ids), dim)
    if rises is None:
        rises = reading.read_rises(conn, version)
    at = np.array([place[item] for item in found.given.ids], np.int64)
    catalogue.bias[at] = found.rests.bias
    moving = Moving(
        item=at,
        served=found.given.served,
        history=found.given.history,
        served_rest=found.rests.served,
        history_rest=found.rests.history,
    )
    met = np.array([place.get(item, -1) for item in events.items], np.int64)
    past, row = _past(conn, version, ids, met, moving)
    tower = _query_tower(conn, version)
    askers, asker, columns = _askers(conn, version, users, user, news.contexts)
    rest = frozen.query_rests(tower, columns[0], columns[1], len(askers))
    inside = met >= 0
    placed = PlacedEvents(
        users=len(users),
        user=events.user[inside],
        place=met[inside],
        time=events.time[inside],
        weight=events.weight[inside],
        rank=rank_of(ids),
        row=row,
    )
    past_moving = np.full(len(past), -1)
    past_moving[row[at]] = np.arange(len(at))
    problem = Problem(
        version=version,
        tower=tower,
        items=ids,
        ids=found.given.ids,
        known=found.known,
        moving=moving,
        catalogue=catalogue,
        listed=np.arange(len(ids)) < len(vectors),
        rise=_rise(rises, ids),
        past=past,
        past_moving=past_moving,
        events=placed,
        user=user,
        place=np.array([place.get(item, -1) for item in news.items], np.int64),
        columns=columns,
        askers=askers,
        asker=asker,
        rest=rest,
        empty=_default_query(conn, version, dim),
        left_out=_left_out(news, wanted, set(found.given.ids)),
    )
    return _admit(problem)


@dataclass(frozen=True, slots=True)
class _Found:
    """Items of the source that may move."""

    given: ItemInputs
    known: NDArray[np.bool_]
    rests: frozen.ItemRests


def _read_items(conn: Connection, loaded: LoadedItems, wanted: list[ItemId]) -> _Found:
    parts: list[tuple[ItemInputs, list[bool], frozen.ItemRests]] = []
    encoder = loaded.encoder
    with _db.binary_cursor(conn) as cur:
        for first in range(0, len(wanted), _ITEMS_AT_ONCE):
            names = [str(item) for item in wanted[first : first + _ITEMS_AT_ONCE]]
            rows, _ = loaded.find(cur, names)
            if rows:
                given = encoder.inputs(rows, conn)
                rests = frozen.item_rests(encoder.tower, given)
                parts.append((given, [row[1] is not None for row in rows], rests))
    dim = encoder.tower.dim
    none = np.zeros((0, dim), np.float32)
    nothing = np.zeros(0, np.float32)

    def joined(arrays: list[Float32], start: Float32) -> Float32:
        return np.concatenate([start, *arrays])

    return _Found(
        ItemInputs(
            [item for part, *_ in parts for item in part.ids],
            joined([part.served for part, *_ in parts], none),
            joined([part.history for part, *_ in parts], none),
            joined([part.bias for part, *_ in parts], nothing),
            {},
        ),
        np.array([flag for _, flags, _ in parts for flag in flags], np.bool_),
        frozen.ItemRests(
            joined([rests.served for *_, rests in parts], none),
            joined([rests.history for *_, rests in parts], none),
            joined([rests.bias for *_, rests in parts], nothing),
        ),
    )


def _catalogue(stored: NDArray[np.float16], count: int, dim: int) -> Catalogue:
    """Return the stored vectors, and room for items that have none yet."""
    vectors = np.zeros((count, dim), np.float16)
    vectors[: len(stored)] = stored[:, :dim]
    bias = np.zeros(count, np.float32)
    bias[: len(stored)] = stored[:, dim]
    return Catalogue(vectors, bias)


def _rise(rises: Mapping[str, float], ids: list[ItemId]) -> Float32:
    if not rises:
        return np.zeros(len(ids), np.float32)
    return np.array([rises.get(str(item), 0) for item in ids], np.float32)


def _past(
    conn: Connection,
    version: ModelVersion,
    ids: list[ItemId],
    met: Places,
    moving: Moving,
) -> tuple[Float32, Places]:
    """Return the history-side rows that matter, and the row of each item."""
    places = np.unique(np.concatenate([met[met >= 0], moving.item]))
    wanted: list[ItemId] = [ids[i] for i in places.tolist()]
    packed = reading.read_history_rows(conn, version, wanted)
    cells = [packed.get(item) for item in wanted]
    rows = unpack_rows(cells, version.config.train.dim)
    usable = np.array([cell is not None for cell in cells], np.bool_)
    usable |= np.isin(places, moving.item)
    row = np.full(len(ids), -1)
    row[places[usable]] = np.arange(int(usable.sum()))
    rows = rows[usable]
    rows[row[moving.item]] = moving.history + moving.history_rest
    return rows, row


def _query_tower(conn: Connection, version: ModelVersion) -> QueryTower:
    model = artifacts.get(conn, version.artifacts["query_tower"])
    return QueryTower.of(model, version.config)


def _default_query(conn: Connection, version: ModelVersion, dim: int) -> Float32:
    row = conn.execute(
        "select default_query from recsys.model_version"
        " where model = %s and number = %s",
        (version.model, version.number),
    ).fetchone()
    if not row or row[0] is None:
        return np.zeros(dim, np.float32)
    return np.array(row[0], np.float32)


def _askers(
    conn: Connection,
    version: ModelVersion,
    users: list[Any],
    user: Places,
    contexts: list[tuple[object, ...]] | None,
) -> tuple[Places, Places, tuple[dict[str, list[object]], dict[str, list[object]]]]:
    """Return the users in their contexts, and their raw features."""
    config = version.config
    cells = contexts if contexts is not None else [()] * len(user)
    pairs, asker = _numbered(list(zip(user.tolist(), cells, strict=True)))
    askers = np.array([u for u, _ in pairs], np.int64)
    raw = reading.read_users(conn, config, users)
    of_users = {name: [column[u] for u in askers] for name, column in raw.items()}
    names = [feature.name for feature in config.context.features]
    of_context = {n: [cell[i] for _, cell in pairs] for i, n in enumerate(names)}
    return askers, asker, (of_users, of_context)


def _numbered(values: list[Any]) -> tuple[list[Any], Places]:
    """Return the distinct values, and the place of each."""
    index: dict[Any, int] = {}
    places = [index.setdefault(value, len(index)) for value in values]
    return list(index), np.array(places, np.int64)


def _left_out(
    news: News, wanted: dict[ItemId, None], found: set[ItemId]
) -> dict[str, int]:
    out = dict(news.left_out)
    unknown = sum(item in wanted and item not in found for item in news.items)
    weightless = int((news.weight <= 0).sum())
    for reason, count in (("unknown_item", unknown), ("no_weight", weightless)):
        if count:
            out[reason] = count
    return out


def columns_of_users(
    problem: Problem,
) -> tuple[dict[str, list[object]], dict[str, list[object]]]:
    """Return raw user and context features by user, in each one's first context."""
    _, first = np.unique(problem.askers, return_index=True)
    return _some(problem.columns, first)


def examples(problem: Problem, chosen: NDArray[np.bool_], weight: Float32) -> Examples:
    """Return some of the news as what to learn from.

    Args:
        problem: The problem.
        chosen: Marks the news, shape (n,).
        weight: Weight of each of the news, shape (n,).
    """
    most = problem.version.config.train.history
    history = problem.events.taste(math.inf, most)
    moving_of = np.full(len(problem.catalogue.bias), -1)
    moving_of[problem.moving.item] = np.arange(len(problem.moving.item))
    place = problem.place
    at = np.flatnonzero(chosen & (weight > 0) & (place >= 0))
    at = at[moving_of[place[at]] >= 0]
    user, row = problem.user[at], problem.events.row[place[at]]
    fixed = _fixed_queries(problem, history)
    return Examples(
        list_of=problem.askers,
        history=history,
        past=problem.past,
        past_moving=problem.past_moving,
        seen=problem.events.seen(math.inf),
        rest=problem.rest,
        empty=problem.empty,
        fixed=fixed,
        asker=problem.asker[at],
        target=moving_of[place[at]],
        own=find_own(history, user, row),
        weight=weight[at].astype(np.float32),
    )


def _fixed_queries(problem: Problem, history: Lists) -> Float32 | None:
    """Return the tower's own queries where it does not take the mean of the history."""
    some = np.arange(len(problem.askers))[:_PROBES]
    rows, weight = padded(history, problem.past, problem.askers[some])
    total = weight.sum(1, keepdims=True)
    mean = (rows * weight[:, :, None]).sum(1) / np.maximum(total, 1e-12)
    mean = np.where(total > 0, mean, problem.empty)
    expected = unit(mean + problem.rest[some])[0]
    columns = _some(problem.columns, some)
    if frozen.takes_the_mean(problem.tower, expected, rows, weight, *columns):
        return None
    out = np.empty_like(problem.rest)
    for first in range(0, len(out), 256):
        part = np.arange(first, min(first + 256, len(out)))
        rows, weight = padded(history, problem.past, problem.askers[part])
        query = problem.tower.encode(rows, weight, *_some(problem.columns, part))
        if query.ndim > 2:
            raise TrainingError(
                "this version asks by several query vectors at once",
                hint="Incremental updates cannot follow it: use full updates.",
            )
        out[part] = query[:, : out.shape[1]]
    return out


def _some(
    columns: tuple[dict[str, list[object]], dict[str, list[object]]], rows: Places
) -> tuple[dict[str, list[object]], dict[str, list[object]]]:
    user, context = (
        {name: [cells[r] for r in rows.tolist()] for name, cells in side.items()}
        for side in columns
    )
    return user, context


def _admit(problem: Problem) -> Problem:
    """Give a first row to items that have none and of which the content says nothing.

    It points where those who met it look, at the usual length.
    """
    moving = problem.moving
    rest = np.sqrt(np.square(moving.served_rest).sum(1))
    new = np.flatnonzero(~problem.known & (rest < _SMALL))
    if not len(new):
        return problem
    history = problem.events.taste(math.inf, problem.version.config.train.history)
    owner, entry = history.take(np.arange(problem.events.users))
    row, weight = history.place[entry], history.weight[entry]
    fresh = np.zeros(len(problem.past), np.bool_)
    fresh[problem.events.row[moving.item[new]]] = True
    weight = np.where(fresh[row], 0, weight)  # nothing is known of these rows
    mean = np.zeros((problem.events.users, moving.served.shape[1]), np.float32)
    np.add.at(mean, owner, problem.past[row] * weight[:, None])
    none = np.bincount(owner, weight, len(mean)) <= 0
    mean[none] = problem.empty
    taste = unit(mean)[0]
    index = np.full(len(problem.catalogue.bias), -1)
    index[moving.item[new]] = np.arange(len(new))
    direction = np.zeros((len(new), taste.shape[1]), np.float32)
    at = np.flatnonzero(problem.place >= 0)
    at = at[index[problem.place[at]] >= 0]
    np.add.at(direction, index[problem.place[at]], taste[problem.user[at]])
    direction = unit(direction)[0]
    served, past = moving.served.copy(), moving.history.copy()
    served[new] = direction * _usual_length(moving.served[problem.known])
    past[new] = direction * _usual_length(moving.history[problem.known])
    rows = problem.past.copy()
    rows[problem.events.row[moving.item]] = past + moving.history_rest
    return replace(
        problem, moving=replace(moving, served=served, history=past), past=rows
    )


def _usual_length(rows: Float32) -> float:
    if not len(rows):
        return 1.0
    return float(np.median(np.sqrt(np.square(rows).sum(1)))) or 1.0
