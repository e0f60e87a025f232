"""The rows of the impression log: their sizes, their store, and what became of them."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg import errors as pg
from psycopg.rows import tuple_row

from recsys._db import Connection

logger = logging.getLogger(__name__)

_WARN_EVERY_S = 60.0
_REMEMBERED = 10_000

Key = tuple[str, str]

SOON = (pg.CheckViolation, pg.QueryCanceled)
"""Over in a moment (the row's partition was just made), or never."""
ONE_ROW = (
    psycopg.DataError,
    psycopg.IntegrityError,
    pg.ProgramLimitExceeded,
    pg.StatementTooComplex,
    pg.QueryCanceled,
    pg.RaiseException,
    pg.InternalError_,
)
"""May be the fault of one row."""


class Row(NamedTuple):
    """What is written: JSON texts of an answer, of an exposure, or of both.

    ``at`` is when it was queued, by ``time.monotonic``.
    """

    answer: str | None
    exposure: str | None = None
    key: Key | None = None
    at: float = 0.0
    tries: int = 0

    @property
    def size(self) -> int:
        """Bytes this row counts for; the texts are ASCII."""
        return len(self.answer or "") + len(self.exposure or "") + 200


class LogStats(NamedTuple):
    """What became of the answers of this process.

    Attributes:
        written: Stored, as far as this process knows.
        dropped: Never queued, because the queue was full or the process was ending.
        failed: Refused by the database.
        queued: Waiting to be written.
        exposures_lost: First exposures to an experiment that were dropped, refused or
            locked by others; the unit's next answer tries again.
        outcomes_lost: Of ``record()``, locked out; their interactions are stored.
    """

    written: int
    dropped: int
    failed: int
    queued: int
    exposures_lost: int = 0
    outcomes_lost: int = 0


class Warner:
    """Says once a minute at most how many rows were lost, and why."""

    def __init__(self) -> None:
        self._lost = 0
        self._next = 0.0

    def lost(self, rows: int, why: str) -> None:
        """Count rows that nobody will find in recsys.impression."""
        self._lost += rows
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _WARN_EVERY_S
        count, self._lost = self._lost, 0
        if count:
            logger.warning("%d impressions were not logged: %s", count, why)
        else:
            logger.warning("impressions are waiting to be logged: %s", why)


class Seen:
    """The exposures this process has written lately: the newest ones, bounded.

    Only single operations of one OrderedDict, which the interpreter makes atomic: no
    lock that a fork could inherit locked.
    """

    def __init__(self, size: int = _REMEMBERED) -> None:
        self._size = size
        self._keys: OrderedDict[Key, None] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        try:
            self._keys.move_to_end(key)
        except KeyError:
            return False
        return True

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: Key) -> None:
        """Remember a key; forget the one unused for longest."""
        self._keys[key] = None
        if len(self._keys) > self._size:
            try:
                self._keys.popitem(last=False)
            except KeyError:
                return

    def discard(self, key: Key) -> None:
        """Forget a key."""
        self._keys.pop(key, None)


def write(conn: Connection, rows: Sequence[Row]) -> bool:
    """Store rows with one statement, in the transaction of the connection.

    Returns:
        Whether the exposures were stored too; if not, others hold a lock on them.

    Raises:
        psycopg.Error: The database refuses the rows.
    """
    answers = ",".join(row.answer for row in rows if row.answer)
    exposures = ",".join(row.exposure for row in rows if row.exposure)
    # Not conn.execute(): a borrowed connection may bring a cursor of another kind.
    with psycopg.Cursor(conn, row_factory=tuple_row) as cur:
        cur.execute(
            "select recsys._log_answers(%s::json, %s::json)",
            (f"[{answers}]", f"[{exposures}]" if exposures else None),
        )
        found = cur.fetchone()
    return found is not None and bool(found[0])


def passing(exc: psycopg.Error) -> bool:
    """Say whether the same rows may be taken later: gone, full, locked, cancelled."""
    if isinstance(exc, pg.ProgramLimitExceeded | pg.StatementTooComplex):
        return False
    return isinstance(exc, psycopg.OperationalError | pg.CheckViolation)
