"""Reading the sources of a model into memory, streamed and in one snapshot.

Every pass is a binary server-side cursor; rows live only as long as their batch. What
stays are 18 bytes per interaction, in files beyond a size (``columns``), one entry per
id, and encoded features.
The item source is read two or three times (ids, vocabularies, encoding) rather than
kept: the snapshot makes the passes agree.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.pq import TransactionStatus

from recsys._columns import (
    check_sources,
    column_types,
    errors_of,
    id_column,
    source_table,
)
from recsys._texts import Texts
from recsys.config import Interactions, ModelConfig
from recsys.encoder.values import Columns, Side
from recsys.errors import SourceError, TrainingError
from recsys.progress import SILENT, Progress, Stage
from recsys.training import mining
from recsys.training.columns import Column
from recsys.training.dataset import (
    Dataset,
    index_of,
    kind_dislikes,
    kind_weights,
    known_times,
    latest,
)
from recsys.training.features import EncodedSide, encode_rows, fit_side
from recsys.training.reading import feature_columns, stream
from recsys.training.value import value_weights
from recsys.types import ItemId, UserId

logger = logging.getLogger(__name__)

FETCH_ROWS = 50_000
_FETCH_WITH_FEATURES = 10_000
_MOST_KINDS = 1_000

_Connection = psycopg.Connection[Any]
_Row = tuple[Any, ...]


def read(
    conn: _Connection,
    config: ModelConfig,
    *,
    until: datetime | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read items, users and interactions of one snapshot.

    Args:
        conn: Not inside a transaction; it is left so.
        config: Declares the sources and their features.
        until: Only interactions before it are read; without a time zone it is UTC.
        progress: Receives the rows read; None is silence.

    Returns:
        Everything that training needs.

    Raises:
        SourceError: A source fails, lacks a column or has one of a wrong type, or
            repeats or lacks an id.
        TrainingError: The connection is inside a transaction.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise TrainingError(
            "the connection for training is inside a transaction",
            hint="Commit or roll back first: training reads one snapshot of its own.",
        )
    progress = progress or SILENT
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        check_sources(conn, config)
        item_index = _read_ids(conn, config, progress)
        found = _Interactions(item_index, config, _now(conn))
        end = until.replace(tzinfo=until.tzinfo or UTC).timestamp() if until else None
        contexts = _read_interactions(conn, config, found, end, progress)
        arrays = found.arrays()
        # Ages count from the newest interaction, which a training that is resumed up to
        # the same moment finds again.
        last = latest(arrays.time)
        items = _read_side(conn, config, "item", item_index, last, progress)
        users = _read_side(conn, config, "user", found.users, last, progress)
        shown = mining.shown(conn, config, item_index, found.users, end or last)
        counts = np.bincount(arrays.item, minlength=len(item_index))
        neighbours = mining.neighbours(conn, config, item_index, counts, until)
    unknown = int((~np.isfinite(arrays.time)).sum()) - found.future
    _warn_of_times(found, unknown, len(arrays.time), known=last is not None)
    kinds = list(found.kinds) or [""]
    counts_of_kinds = np.bincount(arrays.kind, minlength=len(kinds))
    _warn_of_kinds(config.interactions, dict(zip(kinds, counts_of_kinds, strict=True)))
    weight, target = kind_weights(config.interactions, kinds)
    return Dataset(
        item_ids=cast(list[ItemId], list(item_index)),
        user_ids=cast(list[UserId], list(found.users)),
        user=arrays.user,
        item=arrays.item,
        time=arrays.time,
        kind=arrays.kind,
        kinds=tuple(kinds),
        kind_weight=weight,
        kind_target=target,
        context=arrays.context if contexts is not None else None,
        items=items,
        users=users,
        contexts=contexts,
        dropped=found.dropped,
        until=last,
        value=arrays.weight(config.interactions),
        kind_dislike=kind_dislikes(config.interactions, kinds),
        shown=shown,
        neighbours=neighbours,
        future=found.future,
        untimed=unknown if last is not None else 0,
    )


@dataclass(frozen=True, slots=True)
class _Arrays:
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]
    kind: NDArray[np.int16]
    context: NDArray[np.int32]
    value: NDArray[np.float32]

    def weight(self, interactions: Interactions) -> NDArray[np.float32] | None:
        """Return what the values weigh, None where they are not used."""
        if not interactions.value:
            return None
        return value_weights(
            self.value.astype(np.float64), interactions.value, interactions.value_cap
        )


class _Interactions:
    """Collects interactions by index."""

    def __init__(self, items: dict[Any, int], config: ModelConfig, now: float) -> None:
        self.items = items
        self.valued = bool(config.interactions.value)
        self.now = now
        self.timed = False
        self.future = 0
        self.names = [feature.name for feature in config.context.features]
        self.users: dict[Any, int] = {}
        self.kinds: dict[str, int] = {}
        self.contexts: dict[_Row, int] = {}
        self.dropped = 0
        self._user, self._item = Column(np.int32), Column(np.int32)
        self._time, self._kind = Column(np.float64), Column(np.int16)
        self._context, self._value = Column(np.int32), Column(np.float32)

    def add(self, rows: Sequence[_Row]) -> Columns:
        """Take rows of user, item, time, kind, value and context; return the last."""
        find = self.items.get
        kept = [row for row in rows if row[0] is not None and find(row[1]) is not None]
        self.dropped += len(rows) - len(kept)
        if not kept:
            return {name: [] for name in self.names}
        users, items, times, kinds, values, *context = zip(*kept, strict=True)
        number, code, place = self.users, self.kinds, self.contexts
        time = np.array(times, np.float64)  # None becomes NaN
        time[~np.isfinite(time)] = np.nan
        time, late = known_times(time, self.now)
        self.future += late
        self._user.add(
            _indices((number.setdefault(u, len(number)) for u in users), np.int32)
        )
        self._item.add(_indices((self.items[i] for i in items), np.int32))
        self._time.add(time)
        self._kind.add(
            _indices((code.setdefault(k, len(code)) for k in kinds), np.int16)
        )
        met = zip(*context, strict=True)
        self._context.add(
            _indices((place.setdefault(c, len(place)) for c in met), np.int32)
        )
        self._value.add(np.array(values if self.valued else [], np.float32))
        if len(code) > _MOST_KINDS:
            raise SourceError(
                f"interactions.sql returns more than {_MOST_KINDS} different kinds",
                hint="'kind' names a few sorts of interaction, such as 'purchase'.",
            )
        return dict(zip(self.names, context, strict=True))

    def arrays(self) -> _Arrays:
        """Return everything collected, and forget it."""
        return _Arrays(
            user=self._user.array(),
            item=self._item.array(),
            time=self._time.array(),
            kind=self._kind.array(),
            context=self._context.array(),
            value=self._value.array(),
        )

    def context_columns(self) -> tuple[Columns, int]:
        """Return the distinct contexts as raw columns, and their number."""
        rows = list(self.contexts)
        columns = {n: [row[i] for row in rows] for i, n in enumerate(self.names)}
        return columns, len(rows)


def _indices(values: Iterator[int], kind: type[np.integer[Any]]) -> NDArray[Any]:
    return np.fromiter(values, kind)


def _read_ids(
    conn: _Connection, config: ModelConfig, progress: Progress
) -> dict[Any, int]:
    """Return the index of each item id."""
    what, source = "items.sql", config.items.sql
    names = ["item_id", *(f.name for f in config.items.features)]
    types = column_types(conn, what, source, names)
    id_ = id_column(what, "item_id", types, config.item_id)
    query = sql.SQL("select {} from {}").format(id_, source_table(source))
    ids: list[Any] = []
    with progress.stage("read items") as stage:
        for rows in stream(conn, what, query, FETCH_ROWS, stage):
            ids += [row[0] for row in rows]
    if None in ids:
        raise SourceError(
            f"{what} returns an item_id that is null",
            hint="Add 'where item_id is not null', or use an inner join.",
        )
    return index_of(ids, "item_id")


def _read_interactions(
    conn: _Connection,
    config: ModelConfig,
    found: _Interactions,
    until: float | None,
    progress: Progress,
) -> EncodedSide | None:
    """Collect the interactions; return the encoded distinct contexts."""
    what, source = "interactions.sql", config.interactions.sql
    features = config.context.features
    names = ["user_id", "item_id", *(f.name for f in features)]
    if config.interactions.value:
        names.append("value")
    types = column_types(conn, what, source, names)
    if until is not None and "occurred_at" not in types:
        raise SourceError(
            "interactions.sql has no occurred_at, so training cannot end at a time",
            hint="Add occurred_at to interactions.sql, or leave out --until.",
        )
    time = sql.SQL("null::float8")
    found.timed = "occurred_at" in types
    if found.timed:
        time = sql.SQL("extract(epoch from s.occurred_at)::float8")
    valued = "s.value::float8" if config.interactions.value else "null::float8"
    query = sql.SQL("select {}, {}, {} as seconds, {}, {} as worth{} from {}").format(
        id_column(what, "user_id", types, config.user_id),
        id_column(what, "item_id", types, config.item_id),
        time,
        sql.SQL("coalesce(s.kind::text, '')" if "kind" in types else "''"),
        sql.SQL(valued),
        feature_columns(features),
        source_table(source),
    )
    if until is not None:
        limit = sql.SQL(" where {0} is null or {0} < {1}")
        query += limit.format(time, sql.Literal(until))
    with progress.stage("read interactions") as stage:
        batches = stream(conn, what, query, FETCH_ROWS, stage)
        if not features:
            for rows in batches:
                found.add(rows)
            return None
        # Vocabularies count interactions, not distinct contexts, hence this one pass.
        end = None
        if any(f.type == "time" for f in features):
            end = _last_time(conn, what, time, source, until)
        fitted = fit_side(features, (found.add(rows) for rows in batches), end)
    return encode_rows("context", fitted, [found.context_columns()])


def _warn_of_times(
    found: _Interactions, unknown: int, count: int, *, known: bool
) -> None:
    """Warn of times that are left aside.

    Args:
        found: Says how many lie in the future, and whether there is a column.
        unknown: Interactions whose time is null or infinite.
        count: All interactions.
        known: Whether any has a time.
    """
    if found.future:
        logger.warning(
            "%d interactions lie in the future: their time counts as unknown",
            found.future,
        )
    if not found.timed or not unknown:
        return
    share = f"{unknown:,} of {count:,}" if known else "all"
    logger.warning(
        "%s interactions have no time: occurred_at is null or infinite. They are never"
        " recent, last of a history or new to an update; fill it in interactions.sql.",
        share,
    )


def _warn_of_kinds(interactions: Interactions, found: Mapping[str, int]) -> None:
    """Warn of kinds that are declared and never occur, and of those without a weight.

    A kind that is misspelt would weigh nothing, and nobody would notice.
    """
    declared = {*interactions.weights, *interactions.targets, *interactions.dislikes}
    if not declared or not sum(found.values()):
        return
    absent = sorted(declared - set(found))
    if absent:
        logger.warning("kinds that never occur: %s", ", ".join(absent))
    if not interactions.weights:
        return
    rest = {kind: count for kind, count in found.items() if kind not in declared}
    if rest:
        logger.warning(
            "kinds without a weight, which count as seen and as no taste: %s",
            ", ".join(f"{kind or 'none'} ({n:,})" for kind, n in sorted(rest.items())),
        )


def _now(conn: _Connection) -> float:
    """Return the time of the snapshot by the database's clock."""
    row = conn.execute("select extract(epoch from now())::float8").fetchone()
    assert row is not None
    return row[0]


def _last_time(
    conn: _Connection,
    what: str,
    time: sql.Composable,
    source: str,
    until: float | None,
) -> float | None:
    query = sql.SQL(
        "select max({0}) filter (where {0} < least(extract(epoch from now()), {2}))"
        " from {1}"
    ).format(time, source_table(source), sql.Literal(until))
    with errors_of(what):
        row = conn.execute(query).fetchone()
    return row[0] if row else None


def _read_side(
    conn: _Connection,
    config: ModelConfig,
    side: Side,
    index: dict[Any, int],
    end: float | None,
    progress: Progress,
) -> EncodedSide | None:
    """Return the encoded features of items or users, in the order of ``index``."""
    source = config.items if side == "item" else config.users
    if not source.features:
        return None
    what, column = f"{side}s.sql", f"{side}_id"
    names = [feature.name for feature in source.features]
    types = column_types(conn, what, source.sql, [column, *names])
    wanted = config.item_id if side == "item" else config.user_id
    query = sql.SQL("select {}{} from {}").format(
        id_column(what, column, types, wanted),
        feature_columns(source.features),
        source_table(source.sql),
    )
    ids: list[Any] = []
    # In this read-only transaction nothing can be kept; 'recsys train' did it before.
    texts = Texts(source.features, keep=False)

    def columns(stage: Stage, keep: list[Any] | None) -> Iterator[tuple[Columns, int]]:
        for rows in stream(conn, what, query, _FETCH_WITH_FEATURES, stage):
            # Users without interactions teach the encoder, but no row is kept.
            kept = rows if keep is None else [row for row in rows if row[0] in index]
            if kept:
                first, *rest = zip(*kept, strict=True)
                if keep is not None:
                    keep += first
                part: Columns = dict(zip(names, rest, strict=True))
                # Vectors teach the encoder nothing: the first pass does without.
                yield part if keep is None else texts.fill(conn, part), len(kept)

    with progress.stage(f"learn {side} features") as stage:
        batches = (part for part, _ in columns(stage, None))
        fitted = fit_side(source.features, batches, end)
    with progress.stage(f"encode {side} features") as stage:
        encoded = encode_rows(side, fitted, columns(stage, ids))
    index_of(ids, column)
    return encoded.reordered(ids, list(index))
