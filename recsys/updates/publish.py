"""Publishing an update and undoing it: each is one transaction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys import artifacts, embeddings
from recsys._db import Connection
from recsys.errors import VersionStateError
from recsys.types import ItemId
from recsys.updates import id_rows, log
from recsys.updates.alone import alone, bring
from recsys.updates.id_rows import NewRows
from recsys.updates.log import Position, Record, position
from recsys.versions import ModelVersion


def publish(
    conn: Connection,
    version: ModelVersion,
    began: Position,
    rows: NewRows,
    record: Record,
    *,
    hashes: NDArray[np.int64],
    times: NDArray[np.float64],
    overlap_s: float,
    keep: int,
    max_load: float = 1.0,
) -> int:
    """Write the rows that differ, and the vectors that follow from them.

    Args:
        conn: Outside a transaction, READ COMMITTED; one is made and committed.
        version: The version.
        began: Where its updates stood when this one read the rows.
        rows: The new rows.
        record: What to write down.
        hashes: Of the interactions that were read, shape (n,).
        times: Their times in seconds since 1970, shape (n,).
        overlap_s: For how long they are kept to be known again.
        keep: Updates whose previous rows are kept.
        max_load: Share of the time to work, above 0 to 1.

    Returns:
        ID rows written.

    Raises:
        VersionStateError: The version is no longer live, another update came in
            between, or the workers did not let go of the items.
    """
    with alone(conn, version) as follower:
        _check_unchanged(conn, version, began)
        changed = id_rows.changed(conn, version, rows)
        update = log.write(conn, version, record, len(changed.ids))
        id_rows.remember(conn, version, update, changed.ids)
        id_rows.write(conn, version, changed)
        bring(conn, follower, _texts(changed.ids), max_load)
        log.know(conn, version, record.until, hashes, times, overlap_s)
        log.forget(conn, version, keep)
    return len(changed.ids)


def record_refusal(
    conn: Connection, version: ModelVersion, record: Record, keep: int
) -> None:
    """Write down an update that is not published; ``keep`` others can be undone."""
    with conn.transaction():
        log.write(conn, version, record, 0)
        log.forget(conn, version, keep)


def undo(
    conn: Connection, version: ModelVersion, updates: int = 1, reason: str = ""
) -> list[int]:
    """Bring back the rows before the newest published updates, newest first.

    The interactions they were trained on stay known: the next update does not learn
    from them again, the next full update does.

    Returns:
        The updates that were undone.

    Raises:
        VersionStateError: There are fewer whose previous rows are kept.
    """
    with alone(conn, version) as follower:
        newest = _undoable(conn, version, updates)
        touched: set[str] = set()
        for update in newest:
            touched.update(id_rows.restore(conn, version, update))
        log.mark_undone(conn, newest, reason)
        bring(conn, follower, sorted(touched))
    return newest


def undo_all(conn: Connection, version: ModelVersion, reason: str = "") -> list[int]:
    """Bring back the rows as they were trained, from the version's artifact.

    Returns:
        The updates that were undone.
    """
    learned = embeddings.unpack(
        artifacts.get(conn, version.artifacts["embeddings"]),
        version.config.item_id,
        version.config.train.dim,
    )
    trained = NewRows(
        list(learned.item_ids),
        learned.served.astype(np.float32),
        learned.history.astype(np.float32),
    )
    with alone(conn, version) as follower:
        published = log.published(conn, version)
        changed = id_rows.changed(conn, version, trained)
        id_rows.write(conn, version, changed)
        added = id_rows.keep_only(conn, version, trained.ids)
        log.mark_undone(conn, published, reason)
        bring(conn, follower, _texts(changed.ids) + added)
    return published


def _undoable(conn: Connection, version: ModelVersion, count: int) -> list[int]:
    """Return the newest published updates, if all rows before them are kept."""
    found: list[int] = []
    for update in log.published(conn, version)[:count]:
        if not log.is_whole(conn, update):
            break
        found.append(update)
    if len(found) < count:
        raise VersionStateError(
            f"version {version.number} of {version.model!r} has no"
            f"{' further' if found else ''} update that can be undone",
            hint="'recsys updates' lists them; --all goes back to the rows"
            " as they were trained.",
        )
    return found


def _check_unchanged(conn: Connection, version: ModelVersion, began: Position) -> None:
    now = position(conn, version)
    if (now.last, now.undone) != (began.last, began.undone):
        raise VersionStateError(
            f"another update of version {version.number} of {version.model!r} was"
            " published or undone meanwhile",
            hint="Nothing was written; the next one begins from there.",
        )


def _texts(ids: Sequence[ItemId]) -> list[str]:
    return [str(item) for item in ids]
