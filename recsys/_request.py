"""What the requests of a recommender ask of the version that serves them.

Each is called with a connection, who answers, and the stopwatch of the request; it
gives the answer, or None when the generation is no longer that of the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import numpy as np

from recsys import _candidates, _db, _deadline, retrieval
from recsys._arguments import check_context, check_ids
from recsys._db import Connection
from recsys._loaded import Turn
from recsys._wanted import Wanted
from recsys.errors import ConfigError, UnknownItem
from recsys.filters import Query
from recsys.impressions import ImpressionLog, record_outcome
from recsys.observe import Stopwatch
from recsys.types import ItemId, Page, Recommendation, UserId

More = Callable[[Page, int | None], Page]
"""Gives the page after one, of another length where one is named."""


@dataclass(slots=True)
class ForUser:
    """The best items for a user or a session."""

    model: str
    wanted: Wanted
    earlier: tuple[ItemId, ...]
    more: More
    user_id: UserId | None
    history: Sequence[ItemId] | None
    context: Mapping[str, object] | None
    among: Query | None
    exclude_seen: bool

    def __call__(self, conn: Connection, turn: Turn, watch: Stopwatch) -> Page | None:
        version = turn.version
        check_ids(version.config, self.user_id, self.history, self.wanted.exclude)
        check_context(version.config, self.context)
        watch.asking(version, self.among, self.history)
        state = retrieval.state(conn, version.statements, self.user_id, self.history)
        watch.state_ms = watch.lap()
        if state is None or state.generation != turn.generation:
            return None
        query = version.query(state, self.context)
        watch.tower_ms = watch.lap()
        _deadline.check()
        seen = state.seen if self.exclude_seen else ()
        rerank = version.rerank(state)
        found = _candidates.find(conn, version, query, self.wanted, seen, rerank)
        watch.candidates_ms = watch.lap()
        return _page(self.model, turn, found, self.earlier, self.more)


@dataclass(slots=True)
class LikeItem:
    """The items most like one."""

    model: str
    wanted: Wanted
    earlier: tuple[ItemId, ...]
    more: More
    item_id: ItemId
    among: Query | None

    def __call__(self, conn: Connection, turn: Turn, watch: Stopwatch) -> Page | None:
        version = turn.version
        check_ids(version.config, None, self.wanted.exclude, [])
        watch.asking(version, self.among)
        start = retrieval.direction(conn, version.statements, self.item_id)
        watch.state_ms = watch.lap()
        if start is None or start[0] != turn.generation:
            return None
        if start[1] is None:
            raise UnknownItem(
                f"item {self.item_id} has no vector in model {self.model!r} "
                f"version {version.number}"
            )
        vector = _db.unpack_halfvecs(start[1], version.tower.dim + 1)[0]
        query = vector.astype(np.float32)
        _deadline.check()
        found = _candidates.find(conn, version, query, self.wanted)
        watch.candidates_ms = watch.lap()
        return _page(self.model, turn, found, self.earlier, self.more)


def _page(
    model: str,
    turn: Turn,
    found: retrieval.Found,
    earlier: tuple[ItemId, ...],
    more: More,
) -> Page:
    return Page(
        items=tuple(map(Recommendation, found[0], found[1])),
        request_id=uuid4(),
        model=model,
        version=turn.version.number,
        experiment=turn.assignment.experiment,
        arm=turn.assignment.arm,
        earlier=earlier,
        _more=more,
    )


@dataclass(slots=True)
class Interaction:
    """An interaction to store, and the outcome that it is where ``outcome`` says so."""

    model: str
    impressions: ImpressionLog
    user_id: UserId
    item_id: ItemId
    kind: str
    occurred_at: datetime | None
    request_id: UUID | None
    value: Decimal | None
    outcome: bool

    def __call__(self, conn: Connection, turn: Turn, _: Stopwatch) -> bool | None:
        config = turn.version.config
        if retrieval.generation(conn, self.model) != turn.generation:
            return None
        check_ids(config, self.user_id, [self.item_id], [])
        weights = config.interactions.weights
        if weights and self.kind not in weights:
            raise ConfigError(
                f"kind {self.kind!r} has no weight in model {self.model!r}",
                hint=f"Kinds: {', '.join(weights)}.",
            )
        with conn.transaction() if self.outcome else nullcontext():
            retrieval.record(
                conn,
                config,
                user_id=self.user_id,
                item_id=self.item_id,
                kind=self.kind,
                occurred_at=self.occurred_at or datetime.now(UTC),
                request_id=self.request_id,
            )
            if self.outcome and not record_outcome(
                conn,
                self.model,
                user_id=self.user_id,
                item_id=self.item_id,
                kind=self.kind,
                value=self.value,
                request_id=self.request_id,
                occurred_at=self.occurred_at,
            ):
                self.impressions.outcome_lost()
        return True
