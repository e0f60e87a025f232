"""Reading the sources of a model into memory, streamed and in one snapshot.

Every pass is a binary server-side cursor; rows live only as long as their batch. What
stays are the interactions as numbers, one entry per id, and encoded features.
The item source is read two or three times (ids, vocabularies, encoding) rather than
kept: the snapshot makes the passes agree.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from recsys._columns import check_sources, column_types, id_column, source_table
from recsys._texts import Texts
from recsys.config import ModelConfig
from recsys.encoder.values import Columns, Side
from recsys.errors import SourceError, TrainingError
from recsys.progress import SILENT, Progress, Stage
from recsys.training import mining
from recsys.training.dataset import (
    Dataset,
    index_of,
    kind_dislikes,
    kind_weights,
    latest,
)
from recsys.training.features import EncodedSide, encode_rows, fit_side
from recsys.training.interactions import (
    Collector,
    read_interactions,
    warn_of_kinds,
    warn_of_times,
)
from recsys.training.reading import feature_columns, stream
from recsys.types import ItemId, UserId

_FETCH_WITH_FEATURES = 10_000

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
    progress = progress or SILENT
    with _one_snapshot(conn):
        check_sources(conn, config)
        item_index = _read_ids(conn, config, progress)
        found = Collector(item_index, config, _now(conn))
        end = until.replace(tzinfo=until.tzinfo or UTC).timestamp() if until else None
        contexts = read_interactions(conn, config, found, end, progress)
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
    warn_of_times(found, unknown, len(arrays.time), known=last is not None)
    kinds = list(found.kinds) or [""]
    counts_of_kinds = np.bincount(arrays.kind, minlength=len(kinds))
    warn_of_kinds(config.interactions, dict(zip(kinds, counts_of_kinds, strict=True)))
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


@contextmanager
def _one_snapshot(conn: _Connection) -> Generator[None]:
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise TrainingError(
            "the connection for training is inside a transaction",
            hint="Commit or roll back first: training reads one snapshot of its own.",
        )
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        yield


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
        for rows in stream(conn, what, query, stage):
            ids += [row[0] for row in rows]
    if None in ids:
        raise SourceError(
            f"{what} returns an item_id that is null",
            hint="Add 'where item_id is not null', or use an inner join.",
        )
    return index_of(ids, "item_id")


def _now(conn: _Connection) -> float:
    """Return the time of the snapshot by the database's clock."""
    row = conn.execute("select extract(epoch from now())::float8").fetchone()
    assert row is not None
    return row[0]


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
        for rows in stream(conn, what, query, stage, _FETCH_WITH_FEATURES):
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
