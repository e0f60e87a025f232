"""Recommender: what web applications import.

One answer is two SQL statements and one ONNX call. The first statement reads, in one
snapshot, the model's generation and the user's history rows of the version this process
has cached; when the generation moved, the process reloads and asks again. So a switch
takes effect on the first request after its commit, and no answer mixes versions.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from recsys import _db, artifacts, retrieval, schema, versions
from recsys._db import Connection, Halfvec
from recsys._tower import QueryTower
from recsys.config import ModelConfig, model_from_dict
from recsys.errors import (
    ConfigError,
    DatabaseUnavailable,
    UnknownItem,
    UnknownModel,
    VersionStateError,
)
from recsys.ids import check_id
from recsys.settings import Settings
from recsys.types import ItemId, Page, Recommendation, UserId

_T = TypeVar("_T")
_ATTEMPTS = 4
_MAX_HISTORY = 10_000

Among = str | tuple[str, Sequence[Any] | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The version this process answers with: one immutable whole, replaced at once."""

    generation: int
    number: int
    config: ModelConfig
    tower: QueryTower
    ef_search: int
    statements: retrieval.Statements

    def query(
        self, state: retrieval.State, context: Mapping[str, object] | None
    ) -> NDArray[np.float32]:
        """Return the query vector of a state, shape (D + 1,), float32."""
        return self.tower.encode_one(
            _db.unpack_halfvecs(state.history, self.tower.dim),
            np.asarray(state.weights, np.float32),
            state.features,
            context,
        )


class Recommender:
    """Recommendations of one model, from inside the application's process.

    Thread-safe and fork-safe: connections and ONNX sessions are made at the first
    request of each thread and process. Creating one connects to nothing.

    Args:
        model: Name of the model.
        dsn: Connection string; default ``RECSYS_DSN`` or the ``PG*`` variables.
        connection: A connection to use instead of own ones. Statements then run in a
            savepoint of its transaction, nothing is committed, and no setting stays
            behind. It must not be used by two threads at once.

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
        connection: Connection | None = None,
    ) -> None:
        self.model = model
        self._dsn = Settings.from_env().dsn if dsn is None else dsn
        self._borrowed = connection
        self._local = threading.local()
        self._loaded: _Loaded | None = None
        self._towers: dict[int, tuple[str, QueryTower]] = {}

    def recommend(
        self,
        user_id: UserId | None = None,
        *,
        k: int = 20,
        history: Sequence[ItemId] | None = None,
        context: Mapping[str, object] | None = None,
        among: Among | None = None,
        exclude: Iterable[ItemId] = (),
        exclude_seen: bool = True,
    ) -> Page:
        """Return the k best items for a user or a session.

        Args:
            user_id: The application's user id. Unknown users get an answer from their
                features, the context and popularity.
            k: List length, 1 to 1000.
            history: Item ids of a session, newest first, instead of the stored
                history. Unknown items are passed over.
            context: Request-time features by name; absent ones are missing.
            among: Only these items: SQL whose first column is the item id, or a pair
                of SQL and its parameters, such as
                ``("select id from product where price < %s", [50])``. The SQL is
                code: never build it from a request; values belong in the parameters.
            exclude: Item ids never to return.
            exclude_seen: Leave out what the user has interacted with, in the newest
                20,000 interactions.

        Returns:
            k recommendations, best first, ties within the page by item id; fewer only
            when fewer eligible items exist.

        Raises:
            ConfigError: An argument is out of range or of the wrong type.
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
            DatabaseUnavailable: No connection.
        """
        _check_k(k)
        excluded = list(exclude)

        def ask(conn: Connection, loaded: _Loaded) -> Page | None:
            self._check_ids(loaded.config, user_id, history, excluded)
            _check_context(loaded.config, context)
            state = retrieval.state(conn, loaded.statements, user_id, history)
            if state is None or state.generation != loaded.generation:
                return None
            query = loaded.query(state, context)
            seen = state.seen if exclude_seen else ()
            found = self._search(conn, loaded, query, k, [*seen, *excluded], among)
            return self._page(loaded, found)

        return self._answer(ask)

    def similar_items(
        self,
        item_id: ItemId,
        *,
        k: int = 20,
        among: Among | None = None,
        exclude: Iterable[ItemId] = (),
    ) -> Page:
        """Return the k items most like one item; never the item itself.

        Args:
            item_id: The application's item id.
            k: List length, 1 to 1000.
            among: Only these items; as in ``recommend``.
            exclude: Item ids never to return.

        Returns:
            Items by cosine similarity of the learned vectors, best first; popularity
            plays no part.

        Raises:
            UnknownItem: The serving version has no vector for the item.
            ConfigError: An argument is out of range or of the wrong type.
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
            DatabaseUnavailable: No connection.
        """
        _check_k(k)
        excluded = [item_id, *exclude]

        def ask(conn: Connection, loaded: _Loaded) -> Page | None:
            self._check_ids(loaded.config, None, excluded, [])
            start = retrieval.direction(conn, loaded.statements, item_id)
            if start is None or start[0] != loaded.generation:
                return None
            if start[1] is None:
                raise UnknownItem(
                    f"item {item_id} has no vector in model {self.model!r} "
                    f"version {loaded.number}"
                )
            vector = _db.unpack_halfvecs(start[1], loaded.tower.dim + 1)[0]
            query = vector.astype(np.float32)
            found = self._search(conn, loaded, query, k, excluded, among)
            return self._page(loaded, found)

        return self._answer(ask)

    def record(
        self,
        user_id: UserId,
        item_id: ItemId,
        kind: str,
        *,
        occurred_at: datetime | None = None,
        request_id: UUID | None = None,
    ) -> None:
        """Store one interaction, where the model's ``interactions.record`` says.

        Without such a statement it goes to ``recsys.interaction``. On an own
        connection it is committed; on a borrowed one the caller commits.

        Args:
            user_id: The application's user id.
            item_id: The application's item id.
            kind: What happened, such as "view"; a kind with a weight in recsys.toml.
            occurred_at: When; default now.
            request_id: ``page.request_id`` of the answer that led to it.

        Raises:
            ConfigError: The kind has no weight, or an id has the wrong type.
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
        """

        def ask(conn: Connection, loaded: _Loaded) -> bool | None:
            if retrieval.generation(conn, self.model) != loaded.generation:
                return None
            self._check_ids(loaded.config, user_id, [item_id], [])
            weights = loaded.config.interactions.weights
            if weights and kind not in weights:
                raise ConfigError(
                    f"kind {kind!r} has no weight in model {self.model!r}",
                    hint=f"Kinds: {', '.join(weights)}.",
                )
            retrieval.record(
                conn,
                loaded.config,
                user_id=user_id,
                item_id=item_id,
                kind=kind,
                occurred_at=occurred_at or datetime.now(UTC),
                request_id=request_id,
            )
            return True

        # A lost connection may have stored it: only the caller can tell.
        self._answer(ask, repeatable=False)

    def query_vector(
        self, user_id: UserId, *, before: datetime | None = None
    ) -> tuple[NDArray[np.float32], list[ItemId]]:
        """Return a user's query vector and seen items, as of a time; for evaluation.

        Returns:
            Shape (D + 1,), float32: unit vector and 1; and the items seen.
        """

        def ask(
            conn: Connection, loaded: _Loaded
        ) -> tuple[NDArray[np.float32], list[ItemId]] | None:
            self._check_ids(loaded.config, user_id, None, [])
            state = retrieval.state(conn, loaded.statements, user_id, None, before)
            if state is None or state.generation != loaded.generation:
                return None
            return loaded.query(state, None), list(state.seen)

        return self._answer(ask)

    def close(self) -> None:
        """Close this thread's own connection; the next request opens another."""
        conn: Connection | None = getattr(self._local, "connection", None)
        if conn is not None and self._local.pid == os.getpid():
            conn.close()
        self._local.connection = None

    def __enter__(self) -> Recommender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(
        self,
        ask: Callable[[Connection, _Loaded], _T | None],
        *,
        repeatable: bool = True,
    ) -> _T:
        """Ask with one version, whole; again when it moved or the session had ended.

        Args:
            ask: Gives an answer, or None when the generation differs.
            repeatable: It may be asked again after a lost connection.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with self._connection() as conn:
                    loaded = self._current(conn)
                    with _savepoint(conn):
                        answer = ask(conn, loaded)
            except retrieval.VersionGone:
                answer = None
            except _ConnectionLost:
                # An idle connection that something between cut: worth one more.
                if attempt or not repeatable or self._borrowed is not None:
                    raise
                continue
            if answer is not None:
                return answer
            self._loaded = None
        raise _unsettled(self.model)

    def _search(
        self,
        conn: Connection,
        loaded: _Loaded,
        query: NDArray[np.float32],
        k: int,
        exclude: Sequence[ItemId],
        among: Among | None,
    ) -> retrieval.Found:
        ef_search = max(loaded.ef_search, min(1000, 2 * k))
        return retrieval.search(
            conn, loaded.statements, Halfvec(query), k, exclude, ef_search, among
        )

    def _connection(self) -> AbstractContextManager[Connection]:
        if self._borrowed is not None:
            return nullcontext(self._borrowed)
        conn: Connection | None = getattr(self._local, "connection", None)
        if conn is not None and self._local.pid != os.getpid():
            # The parent's socket: closing it would end the parent's session.
            _LEFT_TO_PARENT.append(conn)
            conn = None
        if conn is None or conn.closed:
            conn = _db.connect(self._dsn, autocommit=True)
            try:
                schema.check(conn)
            except BaseException:
                conn.close()
                raise
            self._local.connection = conn
            self._local.pid = os.getpid()
        return _own(conn)

    def _current(self, conn: Connection) -> _Loaded:
        loaded = self._loaded
        if loaded is None:
            # Two threads may load at once: wasted work, but no lock to inherit locked
            # by a fork.
            try:
                with _savepoint(conn):
                    loaded = self._loaded = self._load(conn)
            except retrieval.ABSENT:
                schema.check(conn)  # a borrowed connection comes unchecked
                raise
        return loaded

    def _load(self, conn: Connection) -> _Loaded:
        row = retrieval.serving(conn, self.model)
        if row is None:
            raise UnknownModel(f"no model named {self.model!r} is registered")
        if row.number is None:
            raise VersionStateError(
                f"no version of model {self.model!r} is serving",
                hint=f"Run 'recsys promote {self.model} NUMBER'.",
            )
        config = model_from_dict(row.spec)
        sha256 = row.artifacts["query_tower"]
        known = self._towers.get(row.number)
        if known is None or known[0] != sha256:
            tower = QueryTower(
                artifacts.get(conn, sha256),
                config.users.features,
                config.context.features,
                config.train.dim,
            )
            # Two versions stay loaded, so that a rollback need not load anything.
            kept = sorted(self._towers)[-1:]
            self._towers = {n: self._towers[n] for n in kept} | {
                row.number: (sha256, tower)
            }
        else:
            tower = known[1]
        return _Loaded(
            generation=row.generation,
            number=row.number,
            config=config,
            tower=tower,
            ef_search=row.ef_search,
            statements=retrieval.statements(
                versions.suffix(self.model, row.number), config
            ),
        )

    def _check_ids(
        self,
        config: ModelConfig,
        user_id: UserId | None,
        items: Sequence[ItemId] | None,
        exclude: Sequence[ItemId],
    ) -> None:
        if user_id is not None:
            check_id("user_id", user_id, config.user_id)
        if items is not None and len(items) > _MAX_HISTORY:
            raise ConfigError(
                f"a history of {len(items)} items is too long",
                hint=f"Pass the newest {_MAX_HISTORY} at most.",
            )
        for item in (*(items or ()), *exclude):
            check_id("item_id", item, config.item_id)

    def _page(self, loaded: _Loaded, found: retrieval.Found) -> Page:
        return Page(
            items=tuple(map(Recommendation, found[0], found[1])),
            request_id=uuid4(),
            model=self.model,
            version=loaded.number,
        )


_LEFT_TO_PARENT: list[Connection] = []
_ENDED = (pg.AdminShutdown, pg.CrashShutdown, pg.IdleSessionTimeout)
"""What the server says before it ends a session."""


def _check_k(k: int) -> None:
    if type(k) is not int or not 1 <= k <= 1000:
        raise ConfigError(
            f"k must be a whole number from 1 to 1000, got {k!r}",
            hint="Ask for one page at a time.",
        )


def _check_context(config: ModelConfig, context: Mapping[str, object] | None) -> None:
    known = [feature.name for feature in config.context.features]
    for name in context or ():
        if name not in known:
            raise ConfigError(
                f"unknown context feature {name!r}",
                hint=f"The version knows: {', '.join(known) or 'none'}.",
            )


class _ConnectionLost(DatabaseUnavailable):
    """An own connection ended; the next request opens another."""


@contextmanager
def _own(conn: Connection) -> Generator[Connection]:
    """Give up an own connection that the server ended; the next request opens one."""
    try:
        yield conn
    except psycopg.OperationalError as exc:
        if not conn.closed and not isinstance(exc, _ENDED):
            raise
        conn.close()
        raise _ConnectionLost(
            f"the connection to Postgres was lost: {str(exc).strip().splitlines()[0]}",
            hint="Ask again: the next request connects anew.",
        ) from exc


def _savepoint(conn: Connection) -> AbstractContextManager[object]:
    """On a borrowed connection: an error here must not abort the caller's work.

    On an own connection every statement is its own transaction, and a savepoint would
    cost two round trips.
    """
    if conn.info.transaction_status == TransactionStatus.IDLE:
        if conn.autocommit:
            return nullcontext()
        # Begin the caller's transaction: the outermost block of psycopg would commit.
        conn.execute("select")
    return conn.transaction()


def _unsettled(model: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"model {model!r} was switched {_ATTEMPTS} times during one request",
        hint="Something promotes in a loop: see recsys.switch_log.",
    )
