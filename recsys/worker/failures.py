"""Items that cannot be brought into a version: found, recorded, forgotten."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors as pg

from recsys._db import Connection
from recsys._wording import counted
from recsys.errors import RecsysError
from recsys.versions import ModelVersion

if TYPE_CHECKING:
    from recsys.worker.apply import Follower

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 6
"""Attempts before an item stays a dead letter: about half an hour of back-off."""
LONGEST_ID = 2000
"""Bytes of an id that fit into an index row beside the model's name."""
_SOURCE_BROKEN = (
    pg.UndefinedTable,
    pg.UndefinedColumn,
    pg.UndefinedFunction,
    pg.InsufficientPrivilege,
)
"""What a source says that does not fit the database any more: no half is better."""
_NOT_THE_ITEM = (
    pg.DiskFull,
    pg.OutOfMemory,
    pg.DeadlockDetected,
    pg.SerializationFailure,
    psycopg.InterfaceError,
)
"""What is no item's fault: the whole batch goes back to the queue."""
_LIMIT = "54"
"""Class of errors such as a value too long for an index or a tsvector."""


def in_halves(
    conn: Connection, follower: Follower, ids: Sequence[str]
) -> dict[str, str]:
    """Bring the items; on an error each half alone, down to the item at fault.

    Returns:
        Item -> error of those that cannot be brought.

    Raises:
        QueryCanceled: Several items together took longer than statement_timeout.
    """
    if not ids or follower.problem:
        return dict.fromkeys(ids, follower.problem)
    try:
        with conn.transaction():
            follower.bring(conn, ids)
        return {}
    except _NOT_THE_ITEM:
        raise
    except pg.LockNotAvailable:
        # The application writes some of them in this moment: later, without counting.
        busy = set(ids) if len(ids) == 1 else follower.busy(conn, ids)
        if busy:
            conn.execute(
                "select recsys._queue_items(%s, %s)", (follower.version.model, [*busy])
            )
            return in_halves(conn, follower, [i for i in ids if i not in busy])
    except _SOURCE_BROKEN as exc:
        text = exc.diag.message_primary or str(exc)
        if f"_{follower.version.suffix}" in text:
            raise  # the version was dropped meanwhile
        return dict.fromkeys(ids, message(exc))
    except Exception as exc:
        if not _of_an_item(exc, len(ids)):
            raise
        if len(ids) == 1:
            return {ids[0]: message(exc)}
    middle = len(ids) // 2
    return {
        **in_halves(conn, follower, ids[:middle]),
        **in_halves(conn, follower, ids[middle:]),
    }


def _of_an_item(exc: Exception, items: int) -> bool:
    """Say whether an item may be at fault, so that others can do without it."""
    if isinstance(exc, pg.QueryCanceled):
        # Each half would wait as long again in this transaction: the caller takes
        # fewer items at a time.
        return items == 1
    if isinstance(exc, psycopg.OperationalError):
        return (exc.sqlstate or "").startswith(_LIMIT)
    # onnxruntime raises classes of its own, without a common base but Exception.
    return isinstance(
        exc, (psycopg.Error, RecsysError, ArithmeticError, ValueError, TypeError)
    ) or type(exc).__module__.startswith("onnxruntime")


def message(exc: Exception) -> str:
    """Return one line that says what went wrong."""
    primary = exc.diag.message_primary if isinstance(exc, psycopg.Error) else None
    hint = ""
    if isinstance(exc, pg.QueryCanceled):
        hint = "; this item alone takes longer than the role's statement_timeout allows"
    return f"{type(exc).__name__}: {primary or exc}{hint}"[:1000]


def record(conn: Connection, version: ModelVersion, errors: dict[str, str]) -> None:
    """Keep the error; try again after 5 s, 20 s, 80 s, ..., then give up."""
    item, error = next(iter(errors.items()))
    logger.warning(
        "%s of %s version %d failed, such as %s: %s",
        counted(len(errors), "item"), version.model, version.number,
        item[:80], error[:300],
    )  # fmt: skip
    kept = storable(errors)
    conn.execute(
        "insert into recsys.item_failure as f"
        " (model, number, item_id, error, retry_at)"
        " select %s, %s, e.item_id, e.error, now() + interval '5 seconds'"
        " from unnest(%s::text[], %s::text[]) as e(item_id, error)"
        " on conflict (model, number, item_id) do update set"
        " attempts = f.attempts + 1, error = excluded.error, failed_at = now(),"
        " retry_at = case when f.attempts + 1 < %s"
        " then now() + interval '5 seconds' * 4 ^ f.attempts end",
        (version.model, version.number, kept, [errors[i] for i in kept], MAX_ATTEMPTS),
    )


def storable(ids: Sequence[str] | dict[str, str]) -> list[str]:
    """Return the ids that a list of items can hold; the others are dropped, said."""
    kept = [item for item in ids if len(item.encode()) <= LONGEST_ID]
    if len(kept) < len(ids):
        logger.warning(
            "%d item ids of more than %d bytes are too long to be noted: dropped",
            len(ids) - len(kept), LONGEST_ID,
        )  # fmt: skip
    return kept


def forget(
    conn: Connection, version: ModelVersion, ids: Sequence[str], errors: dict[str, str]
) -> None:
    """Forget the failures of items that were brought."""
    healthy = [item for item in ids if item not in errors]
    conn.execute(
        "delete from recsys.item_failure"
        " where model = %s and number = %s and item_id = any(%s)",
        (version.model, version.number, healthy),
    )
