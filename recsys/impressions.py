"""Impressions: one row per answer, in the application's transaction or in background.

Three modes. ``off`` writes nothing and is the default: a recommender that starts to
write user ids somewhere, and needs a worker to forget them, should be asked to.
``transaction`` writes with the connection of the answer. ``background`` hands the row
to a thread (recsys/_writer.py). Whatever goes wrong, the answer is returned.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Literal
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import tuple_row

from recsys import _db, _writer
from recsys._answer import Answer, encode, encode_exposure
from recsys._db import Connection
from recsys._deadline import DeadlineExceeded
from recsys._wording import counted
from recsys._writer import LogStats, Row
from recsys.errors import ConfigError
from recsys.types import ItemId, UserId

logger = logging.getLogger(__name__)

Mode = Literal["off", "transaction", "background"]
MODES: tuple[Mode, ...] = ("off", "transaction", "background")
KEEP_DAYS = 90
"""Days that impressions are kept for a model without a row in recsys.retention."""

_MAX_VALUE = Decimal(10) ** 15
_MAX_PLACES = 1000


class NotLogged(Exception):
    """An answer could not be stored; it was counted, and the answer stands.

    Not a RecsysError: it never reaches the caller of a Recommender.
    """


class ImpressionLog:
    """Stores answers and first exposures in one of three modes.

    Args:
        mode: "off", "transaction" or "background".
        dsn: Connection string of the background writer.

    Raises:
        ConfigError: The mode is unknown.
    """

    def __init__(self, mode: Mode = "off", dsn: str = "") -> None:
        if mode not in MODES:
            raise ConfigError(
                f"impressions must be one of {', '.join(MODES)}, got {mode!r}",
                hint="See docs/impressions.md.",
            )
        self.mode: Mode = mode
        self._dsn = dsn
        self._seen = _writer.Seen()
        self._warner = _writer.Warner()
        self._warned: set[str] = set()
        self._written = self._failed = self._unexposed = self._outcomes_lost = 0

    def expose(self, experiment: str, unit: str, arm: str) -> None:
        """Note an assignment before the answer is made, which may yet fail.

        In mode "transaction" the exposure is written with the row of the answer or of
        its failure; without logging the experiment gets none, and that is said once.
        """
        if self.mode == "background":
            writer = _writer.writer(self._dsn)
            key = (experiment, unit)
            if key not in writer.seen:
                writer.put(Row(None, encode_exposure(experiment, unit, arm), key))
        elif self.mode == "off" and experiment not in self._warned:
            self._warned.add(experiment)
            logger.warning(
                "experiment %s is running, but this process logs no impressions: its "
                "users are not counted (Recommender(..., impressions='background'))",
                experiment,
            )

    def record(self, conn: Connection | None, answer: Answer) -> None:
        """Store one answer; in mode "background", hand it to the writer.

        Args:
            conn: For mode "transaction": the statement joins its transaction.
            answer: The answer or the failure.

        Raises:
            NotLogged: Mode "transaction", and the database refused it. Inside a
                transaction the caller rolls back to its savepoint.
        """
        if self.mode == "background":
            _writer.writer(self._dsn).put(Row(encode(answer)))
        elif self.mode == "transaction":
            self._write(conn, answer)

    def _write(self, conn: Connection | None, answer: Answer) -> None:
        row = Row(encode(answer))
        if answer.experiment and answer.unit is not None and answer.arm is not None:
            key = (answer.experiment, answer.unit)
            if key not in self._seen:
                row = Row(row.answer, encode_exposure(*key, answer.arm), key)
        try:
            if conn is None or conn.closed:
                raise psycopg.OperationalError("there is no connection")
            exposed = _writer.write(conn, [row])
        except (psycopg.Error, DeadlineExceeded) as exc:
            self._failed += 1
            self._unexposed += row.exposure is not None
            self._warner.lost(1, str(exc).strip().split("\n")[0])
            raise NotLogged(str(exc)) from exc
        self._written += 1
        if not exposed:
            # Another transaction exposes the unit now; its next answer tries again.
            self._unexposed += 1
            return
        # A transaction of the application may yet be rolled back.
        if row.key is not None and conn.autocommit and _idle(conn):
            self._seen.add(row.key)

    def outcome_lost(self) -> None:
        """Count an outcome that was locked out; its interaction is stored."""
        self._outcomes_lost += 1
        self._warner.lost(1, "an outcome was not stored: recsys.outcome is locked")

    def stats(self) -> LogStats:
        """Return what became of this process' answers.

        In mode "background" the writer is shared by every Recommender of the process
        on the same database, and so are the counts, except that of the outcomes.
        """
        lost = self._outcomes_lost
        if self.mode == "background":
            return _writer.writer(self._dsn).stats()._replace(outcomes_lost=lost)
        return LogStats(self._written, 0, self._failed, 0, self._unexposed, lost)

    def flush(self, timeout_s: float = 2.0) -> bool:
        """Wait until the background writer has stored what is queued.

        Returns:
            Whether nothing is left.
        """
        if self.mode != "background":
            return True
        return _writer.writer(self._dsn).flush(timeout_s)


def _idle(conn: Connection) -> bool:
    return conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def dsn_of(conn: Connection) -> str:
    """Return a connection string to the database of an open connection."""
    info = conn.info
    password = {"password": info.password} if info.password else {}
    return make_conninfo(info.dsn, **password)


def check_value(value: object) -> Decimal | None:
    """Return the value of an outcome as it is stored.

    Raises:
        ConfigError: It is no finite number, or beyond any price.
    """
    if value is None:
        return None
    number: Decimal | None = None
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        try:
            number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
        except InvalidOperation:
            number = None
    if number is None or not number.is_finite() or abs(number) >= _MAX_VALUE:
        said = str(value if number is None else number)[:80]
        raise ConfigError(
            f"value must be a finite number below 10^15, got {said!r}",
            hint="Pass what the outcome was worth, such as the price paid; or nothing.",
        )
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -_MAX_PLACES:
        raise ConfigError(
            f"value must have at most {_MAX_PLACES} decimal places, got {-exponent}",
            hint="Round it: no price is that exact.",
        )
    return number if number else Decimal(0)


def record_outcome(
    conn: Connection,
    model: str,
    *,
    user_id: UserId,
    item_id: ItemId,
    kind: str,
    value: Decimal | None,
    request_id: UUID | None,
    occurred_at: datetime | None,
) -> bool:
    """Store one outcome in the transaction of the connection.

    Args:
        conn: An open connection.
        model: Name of the model.
        user_id: The application's user id.
        item_id: The application's item id.
        kind: What happened.
        value: What it was worth.
        request_id: The answer that led to it.
        occurred_at: When; None: now, by the clock of the database.

    Returns:
        Whether it was stored; if not, somebody holds the table.
    """
    with psycopg.Cursor(conn, row_factory=tuple_row) as cur:
        cur.execute(
            "select recsys._log_outcome(%s, %s, %s, %s, %s, %s, %s)",
            (request_id, model, str(user_id), str(item_id), kind, value, occurred_at),
        )
        found = cur.fetchone()
    return found is not None and bool(found[0])


def maintain(conn: Connection, model: str | None = None) -> str:
    """Make the coming days' partitions and forget what is kept no longer.

    For the worker, hourly; safe to repeat and with several at once. Drops come last,
    because they lock the parent table until the caller's transaction ends.

    Args:
        conn: A connection with the rights of recsys_trainer; with autocommit, so that
            every drop is a transaction of its own.
        model: Not used: the partitions hold every model.

    Returns:
        One line for the worker's report.
    """
    del model
    with _db.translated():
        made = _number(conn, "select recsys._make_partitions()")
        rows = conn.execute(
            "select m.name, coalesce(r.keep, make_interval(days => %s))"
            " from recsys.model as m left join recsys.retention as r"
            " on r.model = m.name",
            (KEEP_DAYS,),
        ).fetchall()
        keeps = {row[0]: row[1] for row in rows}
        longest = max(keeps.values(), default=None)
        deleted = 0
        for name, keep in keeps.items():
            if keep < longest:
                deleted += _forget(conn, name)
        dropped = 0
        # One per statement, and so one per transaction of an autocommit connection:
        # writers go on between two drops.
        while _number(
            conn,
            "select recsys._drop_old_partitions("
            "coalesce(%s, make_interval(days => %s)), 1)",
            (longest, KEEP_DAYS),
        ):
            dropped += 1
    return (
        f"{counted(made, 'partition')} made, {dropped} dropped,"
        f" {counted(deleted, 'row')} deleted"
    )


def _forget(conn: Connection, model: str) -> int:
    """Delete the rows of a model that keeps less than another one."""
    count = 0
    for table in ("impression", "outcome"):
        count += conn.execute(
            f"delete from recsys.{table} as t using recsys.retention as r"
            " where r.model = %s and t.model = r.model"
            " and t.occurred_at < now() - r.keep".encode(),
            (model,),
        ).rowcount
    return count


def _number(
    conn: Connection, query: str, values: Sequence[object] | None = None
) -> int:
    row = conn.execute(query.encode(), values).fetchone()
    return int(row[0]) if row else 0
