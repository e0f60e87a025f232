"""A cancel request that is followed until the server has taken it up.

One that is left on its way would strike whatever statement runs when it arrives: the
application's next one, say, where the postmaster was slow. So it is waited for, and on
a connection that goes on being used the next statement waits for it.
"""

from __future__ import annotations

import logging
import selectors
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import PollingStatus
from psycopg.pq.abc import PGcancelConn

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
LONGEST_S = 5.0
"""A statement after a cancel waits at most so long for it."""


class Cancel:
    """A request to end what runs on a connection; sent when it is made.

    Args:
        conn: Its statement is cancelled. Nothing is sent before libpq 17: there a
            cancel blocks for as long as the network likes.
    """

    __slots__ = ("_sent",)

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._sent: PGcancelConn | None = None
        if not psycopg.capabilities.has_cancel_safe():
            return
        try:
            sent = conn.pgconn.cancel_conn()
            sent.start()
        except psycopg.Error as exc:
            logger.debug("a cancel did not leave: %s", exc)
        else:
            self._sent = sent

    def arrived(self, limit: float) -> bool:
        """Wait for the server; say whether it has nothing more to take up.

        Args:
            limit: Until when, by ``time.monotonic``.
        """
        sent = self._sent
        while sent is not None:
            try:
                status = sent.poll()
                if status in (PollingStatus.OK, PollingStatus.FAILED):
                    break  # a refused one arrives nowhere
                reads = status == PollingStatus.READING
                with selectors.DefaultSelector() as selector:
                    selector.register(
                        sent.socket,
                        selectors.EVENT_READ if reads else selectors.EVENT_WRITE,
                    )
                    if not selector.select(max(0.0, limit - monotonic())):
                        return False
            except psycopg.Error as exc:
                logger.debug("a cancel did not arrive: %s", exc)
                break
        self._sent = None
        return True


class Awaited:
    """``Connection.wait`` of a connection that a cancel may still strike.

    The next statement on it begins when the cancel has arrived; then the connection
    waits as before.

    Attributes:
        cancel: What may strike.
        wait: What the connection waited with before.
    """

    __slots__ = ("_conn", "cancel", "wait")

    def __init__(self, conn: psycopg.Connection[Any], cancel: Cancel) -> None:
        self._conn = conn
        self.cancel = cancel
        self.wait = conn.wait

    def __call__(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Consume a generator as before, once nothing can strike it."""
        if self._conn.__dict__.get("wait") is self:
            del self._conn.__dict__["wait"]
        if not self.cancel.arrived(monotonic() + LONGEST_S):
            logger.error(
                "the server has not taken up a cancel of recsys for %g s; it may "
                "strike a statement of the application",
                LONGEST_S,
            )
        return self.wait(gen, *args, **kwargs)
