"""What is answered when the database does not: the last good page, else popular items.

Both are kept per process, of requests that were answered in full. An item is handed out
only if the filter of the request was applied to it: a page is remembered under
everything that decided it, popular items under their filter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from time import monotonic
from typing import Any, Generic, Literal, TypeVar, cast
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from recsys._candidates import Wanted
from recsys._db import callers_fault
from recsys._deadline import DeadlineExceeded
from recsys.errors import DatabaseUnavailable, RecsysError
from recsys.types import ItemId, Page, Recommendation

Reason = Literal[
    "timeout", "database", "circuit open", "aborted transaction", "connection busy"
]

POPULAR_EVERY_S = 600.0
"""Popular items are read anew after so long."""
POPULAR_K = 200
"""How many are kept: enough for a page after what was excluded."""
_PAGES = 1000
_ITEMS = 50_000
_FILTERS = 64
_T = TypeVar("_T")

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


_PLAIN: frozenset[type] = frozenset(
    {type(None), bool, int, float, str, bytes, UUID, Decimal, datetime, date, time}
    | {timedelta}
)


def frozen(value: object) -> Hashable:
    """Return a key that equals another's only if the values are the same.

    Raises:
        TypeError: Two values of this type cannot be told apart safely.
    """
    kind = type(value)
    if kind in _PLAIN or isinstance(value, Enum):
        return kind, value
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return "map", tuple((frozen(key), frozen(one)) for key, one in pairs)
    if isinstance(value, set | frozenset):
        members = cast("Collection[object]", value)
        return "set", frozenset(map(frozen, members))
    if isinstance(value, list | tuple):
        return "list", tuple(map(frozen, cast("Sequence[object]", value)))
    raise TypeError(f"{type(value).__name__} has no key")


def key_of(*parts: object) -> Hashable | None:
    """Return what a page is remembered by; None when it cannot be remembered."""
    try:
        return tuple(map(frozen, parts))
    except TypeError:
        return None


class _Lru(Generic[_T]):
    """A bounded map, oldest use first out; single steps only, and no lock."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._kept: OrderedDict[Hashable, _T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> _T | None:
        found = self._kept.get(key)
        if found is not None:
            with suppress(KeyError):  # another thread dropped it meanwhile
                self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, value: _T) -> list[_T]:
        """Keep a value; return those that had to go."""
        before = self._kept.pop(key, None)
        self._kept[key] = value
        gone = [] if before is None else [before]
        return [*gone, *self.drop()] if len(self._kept) > self._entries else gone

    def drop(self) -> list[_T]:
        try:
            return [self._kept.popitem(last=False)[1]]
        except KeyError:
            return []


@dataclass(frozen=True, slots=True)
class Remembered:
    """Items of an answer given in full.

    Attributes:
        version: The version that answered.
        items: Best first.
        at: When, by ``time.monotonic``.
    """

    version: int
    items: tuple[Recommendation, ...]
    at: float


class Memory:
    """The fallback of one recommender in one process; any thread may use it.

    Bounded: 1,000 pages of 50,000 items together, popular items of 64 filters.
    """

    def __init__(self) -> None:
        self._pages: _Lru[Remembered] = _Lru(_PAGES)
        self._items = 0
        self._popular: _Lru[Remembered] = _Lru(_FILTERS)
        self._asked: _Lru[float] = _Lru(4 * _FILTERS)
        self._next = 0.0

    def remember(
        self, key: Hashable | None, version: int, items: Sequence[Recommendation]
    ) -> None:
        """Keep a full answer.

        Args:
            key: Everything that decided the answer except what was excluded.
            version: Who answered.
            items: Best first.
        """
        if key is None or not items:
            return
        for old in self._pages.put(key, Remembered(version, tuple(items), monotonic())):
            self._items -= len(old.items)
        self._items += len(items)
        while self._items > _ITEMS and len(self._pages) > 1:
            self._items -= sum(len(old.items) for old in self._pages.drop())

    def popular_due(self, among: Hashable | None) -> bool:
        """Say whether this request should read popular items for its filter.

        At most one request per second does, and only for a filter that came before:
        one that never comes again is not worth a statement.

        Args:
            among: Key of the filter.
        """
        if among is None:
            return False
        now = monotonic()
        known = self._popular.get(among)
        if known is not None and now - known.at < POPULAR_EVERY_S:
            return False
        if known is None and among != NO_FILTER and self._asked.get(among) is None:
            self._asked.put(among, now)
            return False
        if now < self._next:
            return False
        self._next = now + 1.0
        return True

    def keep_popular(
        self, among: Hashable, version: int, items: Sequence[Recommendation]
    ) -> None:
        """Keep the popular items of a filter."""
        self._popular.put(among, Remembered(version, tuple(items), monotonic()))

    def answer(
        self,
        key: Hashable | None,
        among: Hashable | None,
        k: int,
        exclude: Collection[ItemId],
    ) -> tuple[int | None, list[Recommendation]]:
        """Return what there is: remembered items first, then popular ones.

        Args:
            key: As it was remembered.
            among: Key of the filter.
            k: List length.
            exclude: Items never to return.

        Returns:
            The version that once gave them (None for no items), and at most k items,
            best first. A popular item scores no more than the last remembered one.
        """
        last = None if key is None else self._pages.get(key)
        popular = None if among is None else self._popular.get(among)
        unwanted = set(exclude)
        found: list[Recommendation] = []
        version: int | None = None
        for kept in (last, popular):
            if kept is None:
                continue
            # Popularity and relevance are two scales; the page stays best first.
            floor = min((0.0, *(item.score for item in found)))
            for item in kept.items:
                if len(found) == k or item.item_id in unwanted:
                    continue
                unwanted.add(item.item_id)
                version = kept.version if version is None else version
                score = min(item.score, floor) if kept is popular else item.score
                found.append(Recommendation(item.item_id, score))
        return version, found


@dataclass(frozen=True, slots=True)
class Plea:
    """What one request asks for, as its fallback needs it.

    Attributes:
        key: What its page is remembered by.
        among: Key of its filter.
        wanted: What it asks of the search.
        earlier: Ids of the items on the pages before it.
        more: Asks for the page after one.
    """

    key: Hashable | None
    among: Hashable | None
    wanted: Wanted
    earlier: tuple[ItemId, ...]
    more: Callable[[Page, int | None], Page]


def plea(
    subject: tuple[object, ...],
    wanted: Wanted,
    earlier: tuple[ItemId, ...],
    more: Callable[[Page, int | None], Page],
) -> Plea:
    """Return the plea of a request.

    Args:
        subject: Whom or what the page is for, and the channel.
        wanted: What it asks of the search. What it excludes is no part of the key: it
            is taken out of what is remembered.
        earlier: Ids of the items on the pages before it.
        more: Asks for the page after one.
    """
    among = NO_FILTER if wanted.among is None else key_of(wanted.among)
    parts = (*subject, wanted.k, len(earlier))
    if not wanted.plain:
        rules, fresh = wanted.rules, None
        if rules is not None:
            fresh = rules.fresh and (rules.fresh.half_life, rules.fresh.weight)
            rules = (rules.at_most, rules.mmr, rules.pin, rules.bury, fresh)
        parts = (
            *parts,
            *(wanted.among, wanted.nothing, wanted.amounts, wanted.boost),
            *(wanted.per, wanted.times, wanted.min_score, rules),
        )
    return Plea(key_of(*parts), among, wanted, earlier, more)


NO_FILTER: Hashable = key_of(None)
"""Key of requests without a filter."""


def popular_query(dim: int) -> NDArray[np.float32]:
    """Return the query vector by which items rank by popularity alone."""
    query = np.zeros(dim + 1, np.float32)
    query[dim] = 1.0
    return query
