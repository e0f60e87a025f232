"""Impressions: one row per answer, in the application's transaction or in background.

Three modes. ``off`` writes nothing and is the default: a recommender that starts to
write user ids somewhere, and needs a worker to forget them, should be asked to.
``transaction`` writes with the connection of the answer. ``background`` hands the row
to a thread (recsys/_writer.py). Whatever goes wrong, the answer is returned.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real
from typing import Literal, cast
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo

from recsys import _db, _writer
from recsys._db import Connection
from recsys._writer import LogStats, Row
from recsys.errors import ConfigError
from recsys.types import ItemId, Recommendation, UserId

logger = logging.getLogger(__name__)

Mode = Literal["off", "transaction", "background"]
MODES: tuple[Mode, ...] = ("off", "transaction", "background")
KEEP_DAYS = 90
"""Days that impressions are kept for a model without a row in recsys.retention."""

_MAX_TEXT = 1000
_MAX_VALUE = Decimal(10) ** 15
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False, default=str)
_encode = cast("Callable[[object], str]", _ENCODER.encode)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is logged of one answer, or of one that failed.

    Attributes:
        request_id: ``page.request_id``.
        model: Name of the model.
        k: How many items were asked for.
        version: The version that answered; None when it failed before that was known.
        user_id: The application's user id.
        unit: What was bucketed into a version; None for nobody in particular.
        items: What is shown, best first.
        channel: Where the items came from.
        page_offset: Items shown on pages before this one.
        context: Request-time features.
        experiment: A running experiment that the unit is part of.
        arm: Its arm.
        took_ms: Milliseconds from the call to the answer.
        degraded: Why it is less than a full answer.
        error: What the caller got instead.
        occurred_at: When; default now.
    """

    request_id: UUID
    model: str
    k: int
    version: int | None = None
    user_id: UserId | None = None
    unit: str | None = None
    items: Sequence[Recommendation] = ()
    channel: str = "two-tower"
    page_offset: int = 0
    context: Mapping[str, object] | None = None
    experiment: str | None = None
    arm: str | None = None
    took_ms: float | None = None
    degraded: str | None = None
    error: str | None = None
    occurred_at: datetime = field(default_factory=lambda: datetime.now(UTC))


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
        self._written = self._failed = 0

    def expose(self, experiment: str, unit: str, arm: str) -> None:
        """Note an assignment before the answer is made, which may yet fail.

        In mode "transaction" the exposure is written with the row of the answer or of
        its failure; without logging the experiment gets none, and that is said once.
        """
        if self.mode == "background":
            writer = _writer.writer(self._dsn)
            key = (experiment, unit)
            if key not in writer.seen:
                writer.put(Row(None, _exposure(experiment, unit, arm), key))
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
                row = Row(row.answer, _exposure(*key, answer.arm), key)
        try:
            if conn is None or conn.closed:
                raise psycopg.OperationalError("there is no connection")
            _writer.write(conn, [row])
        except psycopg.Error as exc:
            self._failed += 1
            self._warner.lost(1, str(exc).strip().split("\n")[0])
            raise NotLogged(str(exc)) from exc
        self._written += 1
        # A transaction of the application may yet be rolled back.
        if row.key is not None and conn.autocommit and _idle(conn):
            self._seen.add(row.key)

    def stats(self) -> LogStats:
        """Return what became of this process' answers.

        In mode "background" the writer is shared by every Recommender of the process
        on the same database, and so are the counts.
        """
        if self.mode == "background":
            return _writer.writer(self._dsn).stats()
        return LogStats(self._written, 0, self._failed, 0)

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


def encode(answer: Answer) -> str:
    """Return an answer as a JSON object in ASCII, with the table's column names.

    Nothing in it keeps the database from storing it: text is cleaned of what Postgres
    cannot hold, long text is cut, values of the context that JSON has no word for are
    logged as text.
    """
    items = answer.items
    return _encode(
        {
            "request_id": answer.request_id,
            "model": answer.model,
            "version": answer.version,
            "user_id": _id(answer.user_id),
            "unit": _text(answer.unit),
            "occurred_at": answer.occurred_at.isoformat(),
            "item_ids": [item.item_id for item in items],
            "scores": [item.score for item in items],
            "channels": [answer.channel] if items else [],
            "page_offset": answer.page_offset,
            "k": answer.k,
            "experiment": answer.experiment,
            "arm": answer.arm,
            "context": _context(answer.context),
            "took_ms": answer.took_ms,
            "degraded": _text(answer.degraded),
            "error": _text(answer.error),
        }
    )


def _exposure(experiment: str, unit: str, arm: str) -> str:
    return _encode(
        {
            "experiment": experiment,
            "unit": _text(unit),
            "arm": arm,
            "first_at": datetime.now(UTC).isoformat(),
        }
    )


def _id(value: UserId | None) -> str | None:
    return None if value is None else _text(str(value))


def _text(text: str | None) -> str | None:
    """Return text that Postgres can hold: no NUL, no lone surrogate, bounded."""
    if text is None:
        return None
    text = text[:_MAX_TEXT]
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "�") if "\0" in text else text


def _context(context: Mapping[str, object] | None) -> dict[str, object] | None:
    if not context:
        return None
    return {_text(str(name)) or "": _plain(value) for name, value in context.items()}


def _plain(value: object) -> object:
    """Return a value as JSON has it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral) and -(2**63) <= int(value) < 2**63:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, Integral):
        number = float(value)
        if math.isfinite(number):
            return number
    try:
        return _text(str(value))
    except Exception:
        # Somebody else's __str__ is no reason to lose the answer.
        return f"<{type(value).__name__}>"


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
        raise ConfigError(
            f"value must be a finite number below 10^15, got {str(value)[:80]!r}",
            hint="Pass what the outcome was worth, such as the price paid; or nothing.",
        )
    return number


def record_outcome(
    conn: Connection,
    model: str,
    *,
    user_id: UserId,
    item_id: ItemId,
    kind: str,
    value: Decimal | None,
    request_id: UUID | None,
    occurred_at: datetime,
) -> None:
    """Store one outcome in the transaction of the connection."""
    conn.execute(
        "insert into recsys.outcome"
        " (request_id, model, user_id, item_id, kind, value, occurred_at)"
        " values (%s, %s, %s, %s, %s, %s, %s)",
        (request_id, model, str(user_id), str(item_id), kind, value, occurred_at),
    )


def maintain(conn: Connection, model: str | None = None) -> str:
    """Make the coming days' partitions and forget what is kept no longer.

    For the worker, hourly; safe to repeat and with several at once. Drops come last,
    because they lock the parent table until the caller's transaction ends.

    Args:
        conn: A connection with the rights of recsys_trainer.
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
        dropped = _number(
            conn,
            "select recsys._drop_old_partitions("
            "coalesce(%s, make_interval(days => %s)))",
            (longest, KEEP_DAYS),
        )
    return f"{made} partitions made, {dropped} dropped, {deleted} rows deleted"


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
