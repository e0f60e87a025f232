"""Interactions of a model's source: streamed, numbered and collected.

What stays are 18 bytes per interaction, in files beyond a size (``columns``), and one
entry per user, kind and context.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from recsys._columns import column_types, errors_of, id_column, source_table
from recsys._wording import counted
from recsys.config import Interactions, ModelConfig
from recsys.encoder.values import Columns
from recsys.errors import SourceError
from recsys.progress import Progress
from recsys.training.columns import Column
from recsys.training.dataset import known_times
from recsys.training.features import EncodedSide, encode_rows, fit_side
from recsys.training.reading import feature_columns, stream
from recsys.training.value import value_weights

logger = logging.getLogger(__name__)

_MOST_KINDS = 1_000

_Connection = psycopg.Connection[Any]
_Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Arrays:
    """What was collected, one entry per interaction; all of shape (n,)."""

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


class Collector:
    """Collects interactions by index.

    Args:
        items: Index of each item id; interactions with others are dropped.
        config: Names the context features.
        now: Times beyond are unknown, in seconds since 1970.
    """

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

    def arrays(self) -> Arrays:
        """Return everything collected, and forget it."""
        return Arrays(
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


def read_interactions(
    conn: _Connection,
    config: ModelConfig,
    found: Collector,
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
        batches = stream(conn, what, query, stage)
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


def warn_of_times(found: Collector, unknown: int, count: int, *, known: bool) -> None:
    """Warn of times that are left aside.

    Args:
        found: Says how many lie in the future, and whether there is a column.
        unknown: Interactions whose time is null or infinite.
        count: All interactions.
        known: Whether any has a time.
    """
    if found.future:
        logger.warning(
            "%s in the future: such a time counts as unknown",
            counted(found.future, "interaction lies", "interactions lie"),
        )
    if not found.timed or not unknown:
        return
    share = "all interactions have"
    if known:
        have = "has" if unknown == 1 else "have"
        share = f"{unknown:,} of {counted(count, 'interaction')} {have}"
    logger.warning(
        "%s no time: occurred_at is null or infinite. Without one they are never"
        " recent, last of a history or new to an update; fill it in interactions.sql.",
        share,
    )


def warn_of_kinds(interactions: Interactions, found: Mapping[str, int]) -> None:
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
