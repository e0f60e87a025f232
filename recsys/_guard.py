"""One process at a time: an advisory lock for as long as a long piece of work runs."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from recsys import _db
from recsys._db import Connection
from recsys.errors import RecsysError

logger = logging.getLogger(__name__)

_TRANSACTION_TIMEOUT = 170_000  # the server version that has the setting


@contextmanager
def exclusive(dsn: str, key: str, refusal: RecsysError) -> Generator[None]:
    """Keep others with the same key out while the block runs.

    A transaction-level advisory lock works behind a pooler and ends with a killed
    process. The transaction takes no transaction id, so it holds back no vacuum. When
    its connection dies meanwhile, the work goes on, and leaving only warns.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        key: What is locked.
        refusal: Raised when someone else holds the key.
    """
    guard = _db.connect(dsn)
    try:
        guard.execute("set local idle_in_transaction_session_timeout = 0")
        if guard.info.server_version >= _TRANSACTION_TIMEOUT:
            guard.execute("set local transaction_timeout = 0")
        row = guard.execute(
            "select pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (key,)
        ).fetchone()
        if not row or not row[0]:
            raise refusal
        yield
    finally:
        _release(guard, key)


def _release(guard: Connection, key: str) -> None:
    try:
        guard.rollback()
    except psycopg.Error as exc:
        logger.warning("the connection that held the lock %s was lost: %s", key, exc)
    finally:
        guard.close()
