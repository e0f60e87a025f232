"""From the database to arrays: reads and encodes what one update computes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _db, artifacts
from recsys._db import Connection
from recsys._items import ItemInputs, unpack_rows
from recsys._tower import QueryTower
from recsys.types import ItemId
from recsys.updates import frozen, reading
from recsys.updates.admission import admit
from recsys.updates.histories import PlacedEvents, rank_of
from recsys.updates.learner import Catalogue, Moving
from recsys.updates.objective import Float32, Places
from recsys.updates.problem import Features, Problem
from recsys.updates.reading import Events, News
from recsys.versions import ModelVersion
from recsys.worker.apply import LoadedItems

_ITEMS_AT_ONCE = 2_000


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
    moving = found.moving(place)
    catalogue = _catalogue(vectors, len(ids), dim)
    catalogue.bias[moving.item] = found.rests.bias
    if rises is None:
        rises = reading.read_rises(conn, version)
    met = np.array([place.get(item, -1) for item in events.items], np.int64)
    past, row = _past(conn, version, ids, met, moving)
    past_moving = np.full(len(past), -1)
    past_moving[row[moving.item]] = np.arange(len(moving.item))
    tower = _query_tower(conn, version)
    askers, asker, columns = _askers(conn, version, users, user, news.contexts)
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
        events=_placed(events, len(users), met, rank_of(ids), row),
        user=user,
        place=np.array([place.get(item, -1) for item in news.items], np.int64),
        columns=columns,
        askers=askers,
        asker=asker,
        rest=frozen.query_rests(tower, columns[0], columns[1], len(askers)),
        empty=_default_query(conn, version, dim),
        left_out=_left_out(news, wanted, set(found.given.ids)),
    )
    return admit(problem)


@dataclass(frozen=True, slots=True)
class _Found:
    """Items of the source that may move."""

    given: ItemInputs
    known: NDArray[np.bool_]
    rests: frozen.ItemRests

    def moving(self, place: Mapping[ItemId, int]) -> Moving:
        """Return their rows; ``place`` is that of each item in the catalogue."""
        return Moving(
            item=np.array([place[item] for item in self.given.ids], np.int64),
            served=self.given.served,
            history=self.given.history,
            served_rest=self.rests.served,
            history_rest=self.rests.history,
        )


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


def _placed(
    events: Events, users: int, met: Places, rank: Places, row: Places
) -> PlacedEvents:
    """Return the events over items of the catalogue."""
    inside = met >= 0
    return PlacedEvents(
        users=users,
        user=events.user[inside],
        place=met[inside],
        time=events.time[inside],
        weight=events.weight[inside],
        rank=rank,
        row=row,
    )


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
) -> tuple[Places, Places, Features]:
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
