"""Reading the sources of a model into memory, streamed and in one snapshot.

Every pass is a binary server-side cursor; rows live only as long as their batch. What
stays are arrays of 18 bytes per interaction, one entry per id, and encoded features.
The item source is read two or three times (ids, vocabularies, encoding) rather than
kept: the snapshot makes the passes agree.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString, TypeVar, cast

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.pq import TransactionStatus

from recsys.config import Feature, IdType, ModelConfig
from recsys.encoder.values import Columns, Side, projection
from recsys.errors import SourceError, TrainingError
from recsys.progress import SILENT, Progress, Stage
from recsys.training.dataset import Dataset, index_of, kind_weights, latest
from recsys.training.features import EncodedSide, encode_rows, fit_side
from recsys.types import ItemId, UserId

FETCH_ROWS = 50_000
_FETCH_WITH_FEATURES = 10_000
_MOST_KINDS = 1_000

_Connection = psycopg.Connection[Any]
_Row = tuple[Any, ...]
_Number = TypeVar("_Number", bound=np.generic)

_ID_TYPES: dict[IdType, tuple[str, ...]] = {
    "bigint": ("int2", "int4", "int8"),
    "uuid": ("uuid",),
    "text": ("text", "varchar", "bpchar", "name"),
}
_TIMES = ("timestamptz", "timestamp", "date")


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
        SourceError: A source fails, lacks a column, has the wrong id type, or repeats
            or lacks an id.
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
        item_index = _read_ids(conn, config, progress)
        found = _Interactions(item_index, config.context.features)
        end = until.replace(tzinfo=until.tzinfo or UTC).timestamp() if until else None
        contexts = _read_interactions(conn, config, found, end, progress)
        arrays = found.arrays()
        end = end or latest(arrays.time)
        items = _read_side(conn, config, "item", item_index, end, progress)
        users = _read_side(conn, config, "user", found.users, end, progress)
    kinds = list(found.kinds) or [""]
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
        until=latest(arrays.time),
    )


@dataclass(frozen=True, slots=True)
class _Arrays:
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]
    kind: NDArray[np.int16]
    context: NDArray[np.int32]


class _Interactions:
    """Collects interactions by index."""

    def __init__(self, items: dict[Any, int], features: Sequence[Feature]) -> None:
        self.items = items
        self.names = [feature.name for feature in features]
        self.users: dict[Any, int] = {}
        self.kinds: dict[str, int] = {}
        self.contexts: dict[_Row, int] = {}
        self.dropped = 0
        self._parts: list[_Arrays] = []

    def add(self, rows: Sequence[_Row]) -> Columns:
        """Take rows of user, item, time, kind and context; return the context."""
        find = self.items.get
        kept = [row for row in rows if row[0] is not None and find(row[1]) is not None]
        self.dropped += len(rows) - len(kept)
        if not kept:
            return {name: [] for name in self.names}
        users, items, times, kinds, *context = zip(*kept, strict=True)
        number, code, place = self.users, self.kinds, self.contexts
        time = np.array(times, np.float64)  # None becomes NaN
        time[~np.isfinite(time)] = np.nan
        part = _Arrays(
            user=_indices((number.setdefault(u, len(number)) for u in users), np.int32),
            item=_indices((self.items[i] for i in items), np.int32),
            time=time,
            kind=_indices((code.setdefault(k, len(code)) for k in kinds), np.int16),
            context=_indices(
                (place.setdefault(c, len(place)) for c in zip(*context, strict=True)),
                np.int32,
            ),
        )
        if len(code) > _MOST_KINDS:
            raise SourceError(
                f"interactions.sql returns more than {_MOST_KINDS} different kinds",
                hint="'kind' names a few sorts of interaction, such as 'purchase'.",
            )
        self._parts.append(part)
        return dict(zip(self.names, context, strict=True))

    def arrays(self) -> _Arrays:
        """Return everything collected, and forget the parts."""
        parts, self._parts = self._parts, []

        def joined(name: str, kind: type[_Number]) -> NDArray[_Number]:
            arrays = [np.empty(0, kind), *(getattr(part, name) for part in parts)]
            return np.concatenate(arrays).astype(kind, copy=False)

        return _Arrays(
            user=joined("user", np.int32),
            item=joined("item", np.int32),
            time=joined("time", np.float64),
            kind=joined("kind", np.int16),
            context=joined("context", np.int32),
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
    types = _column_types(conn, what, source, names)
    id_ = _id_column(what, "item_id", types, config.item_id)
    query = sql.SQL("select {} from {}").format(id_, _from(source))
    ids: list[Any] = []
    with progress.stage("read items") as stage:
        for rows in _stream(conn, what, query, FETCH_ROWS, stage):
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
    types = _column_types(conn, what, source, names)
    _check_time(types, until)
    time = sql.SQL("null::float8")
    if "occurred_at" in types:
        time = sql.SQL("extract(epoch from s.occurred_at)::float8")
    query = sql.SQL("select {}, {}, {} as seconds, {}{} from {}").format(
        _id_column(what, "user_id", types, config.user_id),
        _id_column(what, "item_id", types, config.item_id),
        time,
        sql.SQL("coalesce(s.kind::text, '')" if "kind" in types else "''"),
        _features(features),
        _from(source),
    )
    if until is not None:
        limit = sql.SQL(" where {0} is null or {0} < {1}")
        query += limit.format(time, sql.Literal(until))
    with progress.stage("read interactions") as stage:
        batches = _stream(conn, what, query, FETCH_ROWS, stage)
        if not features:
            for rows in batches:
                found.add(rows)
            return None
        # Vocabularies count interactions, not distinct contexts, hence this one pass.
        end = until
        if end is None and any(f.type == "time" for f in features):
            end = _last_time(conn, what, time, source)
        fitted = fit_side(features, (found.add(rows) for rows in batches), end)
    return encode_rows("context", fitted, [found.context_columns()])


def _check_time(types: Mapping[str, str], until: float | None) -> None:
    kind = types.get("occurred_at")
    if kind is not None and kind not in _TIMES:
        raise SourceError(
            f"occurred_at of interactions.sql is of type {kind}, not a timestamp",
            hint="Select to_timestamp(seconds) as occurred_at.",
        )
    if until is not None and kind is None:
        raise SourceError(
            "interactions.sql has no occurred_at, so training cannot end at a time",
            hint="Add occurred_at to interactions.sql, or leave out --until.",
        )


def _last_time(
    conn: _Connection, what: str, time: sql.Composable, source: str
) -> float | None:
    query = sql.SQL(
        "select max({0}) filter (where {0} < 'infinity'::float8) from {1}"
    ).format(time, _from(source))
    with _errors_of(what):
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
    types = _column_types(conn, what, source.sql, [column, *names])
    wanted = config.item_id if side == "item" else config.user_id
    query = sql.SQL("select {}{} from {}").format(
        _id_column(what, column, types, wanted),
        _features(source.features),
        _from(source.sql),
    )
    ids: list[Any] = []

    def columns(stage: Stage, keep: list[Any] | None) -> Iterator[tuple[Columns, int]]:
        for rows in _stream(conn, what, query, _FETCH_WITH_FEATURES, stage):
            # Users without interactions teach the encoder, but no row is kept.
            kept = rows if keep is None else [row for row in rows if row[0] in index]
            if kept:
                first, *rest = zip(*kept, strict=True)
                if keep is not None:
                    keep += first
                yield dict(zip(names, rest, strict=True)), len(kept)

    with progress.stage(f"learn {side} features") as stage:
        batches = (part for part, _ in columns(stage, None))
        fitted = fit_side(source.features, batches, end)
    with progress.stage(f"encode {side} features") as stage:
        encoded = encode_rows(side, fitted, columns(stage, ids))
    index_of(ids, column)
    return encoded.reordered(ids, list(index))


def _stream(
    conn: _Connection, what: str, query: sql.Composed, size: int, stage: Stage
) -> Generator[list[_Row]]:
    """Yield batches of rows from a binary server-side cursor."""
    with (
        _errors_of(what),
        conn.cursor(name="recsys_training", binary=True) as cursor,
    ):
        cursor.execute(query)
        while rows := cursor.fetchmany(size):
            yield rows
            stage.advance(len(rows))


def _column_types(
    conn: _Connection, what: str, source: str, wanted: Sequence[str]
) -> dict[str, str]:
    """Return the type name of each column of a source.

    Raises:
        SourceError: It fails, or lacks a wanted column.
    """
    with _errors_of(what):
        cursor = conn.execute(
            sql.SQL("select s.* from {} limit 0").format(_from(source))
        )
    types: dict[str, str] = {}
    for column in cursor.description or ():
        known = conn.adapters.types.get(column.type_code)
        types[column.name] = known.name if known else f"oid {column.type_code}"
    missing = [name for name in wanted if name not in types]
    if missing:
        raise SourceError(
            f"{what} returns no column {', '.join(missing)}",
            hint=f"It returns: {', '.join(types) or 'nothing'}.",
        )
    return types


def _id_column(
    what: str, name: str, types: Mapping[str, str], wanted: IdType
) -> sql.Composed:
    """Return the expression that reads an id, after a look at its type."""
    if types[name] not in _ID_TYPES[wanted]:
        raise SourceError(
            f"{name} of {what} is of type {types[name]}, but recsys.toml says {wanted}",
            hint=f"Set {name} in recsys.toml, or select {name}::{wanted} in the SQL.",
        )
    return sql.SQL("s.{}::{} as {}").format(
        sql.Identifier(name), sql.SQL(wanted), sql.Identifier(name)
    )


def _features(features: Sequence[Feature]) -> sql.SQL:
    """Return the features as the tail of a select list."""
    # Column names were checked when recsys.toml was read.
    text = f", {projection(features, 's')}" if features else ""
    return sql.SQL(cast(LiteralString, text))


def _from(source: str) -> sql.SQL:
    """Return a source as the table ``s``; it may end in a comment."""
    return sql.SQL(cast(LiteralString, f"(\n{source}\n) s"))


@contextmanager
def _errors_of(what: str) -> Generator[None]:
    """Turn errors of the source's SQL into ours; lost connections stay as they are."""
    try:
        yield
    except psycopg.OperationalError:
        raise
    except psycopg.Error as exc:
        detail = exc.diag.message_primary or str(exc)
        raise SourceError(
            f"{what} fails: {detail}",
            hint=exc.diag.message_hint
            or "Run the statement in psql to find the place.",
        ) from exc
