"""Why the database gave no answer, told from an exception or a connection."""

from __future__ import annotations

from typing import Any, Literal

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from recsys._db import callers_fault
from recsys._deadline import DeadlineExceeded
from recsys.errors import DatabaseUnavailable, RecsysError

Reason = Literal[
    "timeout", "database", "circuit open", "aborted transaction", "connection busy"
]

_BUSY = frozenset({"PoolTimeout", "TooManyRequests", "PoolClosed"})
"""What psycopg_pool raises when there is no connection to be had."""
_ABORTED = frozenset({"PendingRollbackError", "TransactionManagementError"})
"""What SQLAlchemy and Django say of a transaction that failed before."""


class SessionUnusable(DatabaseUnavailable):
    """The application's connection cannot run a statement now.

    Attributes:
        reason: "aborted transaction" or "connection busy".
    """

    def __init__(self, message: str, reason: Reason, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.reason: Reason = reason


def check_session(conn: psycopg.Connection[Any]) -> None:
    """Refuse a borrowed connection on which no statement can succeed.

    Raises:
        SessionUnusable: Its transaction failed before, or something else runs on it.
    """
    status = conn.pgconn.transaction_status
    if status == TransactionStatus.INERROR:
        raise SessionUnusable(
            "the transaction of the connection failed before this request",
            "aborted transaction",
            "Roll it back; what failed in it was not recsys.",
        )
    if status == TransactionStatus.ACTIVE:
        raise SessionUnusable(
            "another statement is running on the connection",
            "connection busy",
            "Two threads share it, or a COPY or a stream is still open on it.",
        )


def reason_of(exc: BaseException) -> Reason | None:
    """Say why the database gave no answer; None for a programmer's error.

    A framework's error counts as the driver's error that it wraps.
    """
    kind = type(exc).__name__
    if kind == "CircuitOpen":
        return "circuit open"
    if isinstance(exc, SessionUnusable):
        return exc.reason
    if kind in _ABORTED:
        return "aborted transaction"
    # Not every TimeoutError: the application may set a limit of its own.
    if isinstance(exc, DeadlineExceeded | pg.QueryCanceled | pg.LockNotAvailable):
        return "timeout"
    if kind in _BUSY or (kind == "TimeoutError" and _module(exc) == "sqlalchemy"):
        return "connection busy"
    if isinstance(exc, pg.InFailedSqlTransaction):
        return "aborted transaction"
    if isinstance(exc, DatabaseUnavailable):
        return _wrapped(exc) or "database"
    if isinstance(exc, RecsysError):
        return None
    if isinstance(exc, psycopg.Error):
        return None if callers_fault(exc) else "database"
    if _module(exc) in ("django", "sqlalchemy"):
        return _wrapped(exc)
    return None


def _module(exc: BaseException) -> str:
    return type(exc).__module__.split(".")[0]


def _wrapped(exc: BaseException) -> Reason | None:
    inner = getattr(exc, "orig", None) or exc.__cause__
    return reason_of(inner) if isinstance(inner, BaseException) else None
