"""Recommender: what web applications import.

One answer is two SQL statements and one ONNX call. The process caches who is served by
what, and the generation of that. The first statement reads, in one snapshot, the
model's generation and the user's history rows of the version that serves the user; when
the generation moved, the process reloads and asks again. So a switch takes effect on
the first request after its commit, and no answer mixes versions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Self
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from recsys import _candidates, _wanted, retrieval
from recsys._arguments import (
    check_ids,
    check_request_id,
    check_timeout,
    shown_before,
    unit_of,
)
from recsys._db import Connection
from recsys._engine import Engine
from recsys._entry import Entry
from recsys._fallback import plea
from recsys._loaded import LoadedVersions, Turn
from recsys._replicas import MAX_LAG_S, reads_of
from recsys._request import ForUser, Interaction, LikeItem
from recsys._wanted import Boost, Search
from recsys.connections import place_of, source_of
from recsys.filters import Query
from recsys.impressions import ImpressionLog, Mode, check_value
from recsys.observe import Stopwatch
from recsys.rules import Rules
from recsys.types import ItemId, Page, UserId


class Recommender:
    """Recommendations of one model, from inside the application's process.

    Thread-safe and fork-safe: connections and ONNX sessions are made at the first
    request of each process. Creating one connects to nothing.

    Args:
        model: Name of the model.
        dsn: Connection string; default ``RECSYS_DSN`` or the ``PG*`` variables.
        connection: A connection to use instead of own ones. Statements then run in a
            savepoint of its transaction, nothing is committed, and no setting stays
            behind. It must not be used by two threads at once.
        impressions: Log every answer: "off", "transaction" (with the connection of the
            answer) or "background" (a bounded queue and a thread per process). What
            became of the rows: ``impressions.stats()``.
        reads: Connection strings of read replicas. One that is fresh answers instead
            of the primary; writes never go there.
        max_lag_s: A replica further behind than this does not answer.
        timeout_ms: Budget of a request; past it the answer is a fallback. Default none.
        fallback: When the database gives no answer in time, return the last good one,
            else popular items, with ``page.degraded``; False: raise.

    Raises:
        ConfigError: ``impressions`` is none of these, ``timeout_ms`` no budget, or
            ``reads`` no list of connection strings.

    Example:
        >>> shop = Recommender("shop")
        >>> [r.item_id for r in shop.recommend(user_id=7, k=3)]
        [42, 1138, 7]
    """

    def __init__(
        self,
        model: str,
        *,
        dsn: str | None = None,
        connection: object | None = None,
        impressions: Mode = "off",
        reads: Iterable[str] = (),
        max_lag_s: float = MAX_LAG_S,
        timeout_ms: float | None = None,
        fallback: bool = True,
    ) -> None:
        self.model = model
        self._timeout_ms = check_timeout(timeout_ms)
        self._source = source_of(connection, dsn)
        background = ""
        if impressions == "background":
            background = self._source.dsn() if dsn is None else dsn
        versions = LoadedVersions(model)
        self._engine = Engine(
            model,
            versions,
            ImpressionLog(impressions, background),
            fallback=fallback,
            reads=reads_of(versions, reads, max_lag_s, impressions),
        )

    @property
    def impressions(self) -> ImpressionLog:
        """What became of the logged answers of this process."""
        return self._engine.impressions

    def on(self, connection: object) -> Self:
        """Return the same recommender on another connection; it costs nothing.

        Args:
            connection: As in ``Recommender(connection=...)``: the connection or the
                session of this request. Everything the process has loaded is shared.
        """
        other = copy.copy(self)
        other._source = source_of(connection)
        return other

    def recommend(
        self,
        user_id: UserId | None = None,
        *,
        k: int = 20,
        unit: str | None = None,
        history: Sequence[ItemId] | None = None,
        context: Mapping[str, object] | None = None,
        among: Query | None = None,
        exclude: Iterable[ItemId] = (),
        exclude_seen: bool = True,
        boost: Boost | None = None,
        min_score: float | None = None,
        recall_target: float | None = None,
        rules: Rules | None = None,
        after: Page | Sequence[ItemId] = (),
        timeout_ms: float | None = None,
    ) -> Page:
        """Return the k best items for a user or a session.

        Args:
            user_id: The application's user id. Unknown users get an answer from their
                features, the context and popularity.
            k: List length, 1 to 1000.
            unit: What rollouts and experiments assign to a version, when it is not the
                user: the key of an anonymous session. Without one, and without a user,
                the base answers.
            history: Item ids of a session, newest first, instead of the stored
                history. Unknown items are passed over.
            context: Request-time features by name; absent ones are missing.
            among: Only these items: a Django QuerySet, a SQLAlchemy ``select()``, SQL
                whose only column is the item id, or a pair of SQL and its parameters,
                such as ``("select id from product where price < %s", [50])``. The SQL
                is code: never build it from a request; values belong in the parameters.
            exclude: Item ids never to return.
            exclude_seen: Leave out what the user has interacted with, in the newest
                20,000 interactions.
            boost: Amounts added to scores: by item id, or a query of two columns, item
                id and amount.
            min_score: Least score of the model, before boosts; the page may be short.
            recall_target: ANN recall of this answer, above 0 to 1; default that of the
                version. 1 is the exact scan.
            rules: Variety, pinned and buried items, freshness.
            after: The page before this one, or the ids shown so far: they are not
                shown again.
            timeout_ms: Budget of this request; default that of the recommender.

        Returns:
            k recommendations, best first, ties within the page by item id; fewer only
            when fewer eligible items exist.

        Raises:
            ConfigError: An argument is out of range or of the wrong type.
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
            DatabaseUnavailable: No answer from the database, with ``fallback=False``.
        """
        timeout_ms = self._budget(timeout_ms)
        unit = unit_of(user_id, unit)
        earlier = shown_before(after)
        own = tuple(exclude)
        search: Search = {
            "among": among,
            "boost": boost,
            "rules": rules,
            "min_score": min_score,
            "recall_target": recall_target,
        }
        wanted = _wanted.wanted(
            k, exclude=(*earlier, *own), source=self._source, **search
        )
        again = partial(
            self.recommend,
            user_id,
            unit=unit,
            history=history,
            context=context,
            exclude=own,
            exclude_seen=exclude_seen,
            timeout_ms=timeout_ms,
            **search,
        )
        more = partial(_next, again, k)
        ask = ForUser(
            model=self.model,
            wanted=wanted,
            earlier=earlier,
            more=more,
            user_id=user_id,
            history=history,
            context=context,
            among=among,
            exclude_seen=exclude_seen,
        )
        entry = Entry(
            self.impressions,
            self.model,
            k,
            unit,
            user_id=user_id,
            context=context,
            page_offset=len(earlier),
        )
        # What a session saw last serves it whatever it has clicked since.
        past = "session" if history and user_id is None and unit else history
        asked = plea(
            self._place(),
            ("recommend", user_id, unit, exclude_seen, past, context),
            wanted,
            earlier,
            more,
            user_id=user_id if exclude_seen else None,
            known=history or () if exclude_seen else (),
        )
        return self._engine.page(self._source, ask, unit, entry, asked, timeout_ms)

    def similar_items(
        self,
        item_id: ItemId,
        *,
        k: int = 20,
        unit: str | None = None,
        among: Query | None = None,
        exclude: Iterable[ItemId] = (),
        boost: Boost | None = None,
        min_score: float | None = None,
        recall_target: float | None = None,
        rules: Rules | None = None,
        after: Page | Sequence[ItemId] = (),
        timeout_ms: float | None = None,
    ) -> Page:
        """Return the k items most like one item; never the item itself.

        Args:
            item_id: The application's item id.
            k: List length, 1 to 1000.
            unit: ``str(user_id)``, or the key of a session: who sees a version in
                ``recommend`` then sees it here; default the base.
            among: Only these items; as in ``recommend``.
            exclude: Item ids never to return.
            boost: Amounts added to scores: by item id, or a query of two columns, item
                id and amount.
            min_score: Least score of the model, before boosts; the page may be short.
            recall_target: ANN recall of this answer, above 0 to 1; default that of the
                version. 1 is the exact scan.
            rules: Variety, pinned and buried items, freshness.
            after: The page before this one, or the ids shown so far: they are not
                shown again.
            timeout_ms: Budget of this request; default that of the recommender.

        Returns:
            Items by cosine similarity of the learned vectors, best first; popularity
            plays no part.

        Raises:
            UnknownItem: The serving version has no vector for the item.
            ConfigError: An argument is out of range or of the wrong type.
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
            DatabaseUnavailable: No answer from the database, with ``fallback=False``.
        """
        timeout_ms = self._budget(timeout_ms)
        unit = unit_of(None, unit)
        earlier = shown_before(after)
        own = tuple(exclude)
        search: Search = {
            "among": among,
            "boost": boost,
            "rules": rules,
            "min_score": min_score,
            "recall_target": recall_target,
        }
        wanted = _wanted.wanted(
            k, exclude=(item_id, *earlier, *own), source=self._source, **search
        )
        again = partial(
            self.similar_items,
            item_id,
            unit=unit,
            exclude=own,
            timeout_ms=timeout_ms,
            **search,
        )
        more = partial(_next, again, k)
        ask = LikeItem(
            model=self.model,
            wanted=wanted,
            earlier=earlier,
            more=more,
            item_id=item_id,
            among=among,
        )
        entry = Entry(
            self.impressions,
            self.model,
            k,
            unit,
            channel="similar",
            page_offset=len(earlier),
        )
        asked = plea(self._place(), ("similar", item_id, unit), wanted, earlier, more)
        return self._engine.page(self._source, ask, unit, entry, asked, timeout_ms)

    def record(
        self,
        user_id: UserId,
        item_id: ItemId,
        kind: str,
        *,
        occurred_at: datetime | None = None,
        request_id: UUID | None = None,
        value: float | Decimal | None = None,
    ) -> None:
        """Store one interaction, where the model's ``interactions.record`` says.

        Without such a statement it goes to ``recsys.interaction``. With a request id
        or a value, and whenever impressions are logged, it is also an outcome, in the
        same transaction; where recsys.outcome stays locked for 200 ms, the interaction
        is stored without it (``impressions.stats().outcomes_lost``). On an own
        connection both are committed; on a borrowed one the caller commits.

        Args:
            user_id: The application's user id.
            item_id: The application's item id.
            kind: What happened, such as "view"; a kind with a weight in recsys.toml.
            occurred_at: When; default now.
            request_id: ``page.request_id`` of the answer that led to it.
            value: What it was worth, such as the price paid.

        Raises:
            ConfigError: The kind has no weight, an id has the wrong type, or the value
                is no finite number.
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
            DatabaseUnavailable: The database does not answer, or is left alone.
        """
        unit = unit_of(user_id, None)
        check_request_id(request_id)
        worth = check_value(value)
        wanted = request_id is not None or worth is not None
        ask = Interaction(
            model=self.model,
            impressions=self.impressions,
            user_id=user_id,
            item_id=item_id,
            kind=kind,
            occurred_at=occurred_at,
            request_id=request_id,
            value=worth,
            outcome=wanted or self.impressions.mode != "off",
        )
        self._engine.write(self._source, ask, unit, self._timeout_ms)
        # Until the database is asked again, what it would leave out.
        if self._engine.fallback:
            self._engine.memory.took(user_id, item_id)

    def query_vector(
        self, user_id: UserId, *, before: datetime | None = None
    ) -> tuple[NDArray[np.float32], list[ItemId]]:
        """Return a user's query vector and seen items, as of a time; for evaluation.

        Returns:
            Shape (D + 1,), float32: unit vector and what popularity counts, about 1;
            and the items seen.
        """

        def ask(
            conn: Connection, turn: Turn, _: Stopwatch
        ) -> tuple[NDArray[np.float32], list[ItemId]] | None:
            version = turn.version
            check_ids(version.config, user_id, None, [])
            state = retrieval.state(conn, version.statements, user_id, None, before)
            if state is None or state.generation != turn.generation:
                return None
            return version.query(state, None), list(state.seen)

        return self._engine.read(self._source, ask, unit_of(user_id, None))

    def warm(self) -> int:
        """Connect, load the base version and answer once, so that no visitor waits.

        For a worker before its first request, such as in gunicorn's
        ``post_worker_init``; never before a fork. No budget holds, nothing is logged.

        Returns:
            Number of the version.

        Raises:
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
            DatabaseUnavailable: No connection.
        """

        def ask(conn: Connection, turn: Turn, _: Stopwatch) -> int | None:
            version = turn.version
            state = retrieval.state(conn, version.statements, None, None)
            if state is None or state.generation != turn.generation:
                return None
            query = version.query(state, None)
            _candidates.find(conn, version, query, _wanted.wanted(20))
            return version.number

        return self._engine.read(self._source, ask)

    def close(self) -> None:
        """Close the idle own connections; the next request opens another.

        Waits up to two seconds for impressions that are still to be written.
        """
        self._source.close()
        if self._engine.reads is not None:
            self._engine.reads.close()
        self.impressions.flush()

    def __enter__(self) -> Recommender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self) -> str | None:
        """Return what tells this database from others where answers are remembered."""
        return place_of(self._source) if self._engine.fallback else None

    def _budget(self, timeout_ms: float | None) -> float | None:
        return self._timeout_ms if timeout_ms is None else check_timeout(timeout_ms)


def _next(
    again: Callable[..., Page], k: int, page: Page, wanted: int | None = None
) -> Page:
    """Ask a request again for what comes after a page."""
    return again(k=k if wanted is None else wanted, after=page)
