"""The versions a process answers with: plan, towers and statements, by generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys import _request_sql, _rerank, artifacts, retrieval, versions
from recsys._db import Connection
from recsys._queries import queries
from recsys._rerank import Rerank
from recsys._tower import QueryTower
from recsys.assignment import Assignment, Plan
from recsys.config import ModelConfig, model_from_dict
from recsys.errors import ArtifactError, UnknownModel, VersionStateError

_SPARE = 2
"""Towers kept of versions out of service, so that a rollback need not load any."""
_DOWNLOADS = 4
"""Unfinished ones that are kept."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One version as this process answers with it: an immutable whole."""

    number: int
    config: ModelConfig
    tower: QueryTower
    ef_search: int
    statements: _request_sql.Statements
    recall_curve: Sequence[tuple[int, float]] = ()

    def query(
        self, state: retrieval.State, context: Mapping[str, object] | None
    ) -> NDArray[np.float32]:
        """Return the query of a state, shape (D + 1,), or several; see ``queries``."""
        return queries(self.tower, self.config, state, context)

    def rerank(self, state: retrieval.State) -> Rerank | None:
        """Return how the candidates of a state are ranked again, None if at all."""
        return _rerank.of_state(self.config, state)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one attempt at an answer goes by: one generation, one version.

    Attributes:
        generation: Of the plan; an answer counts only when the first statement of the
            request finds the same.
        version: Who answers.
        assignment: Why this version.
    """

    generation: int
    version: Loaded
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The plan of one generation and the versions loaded under it."""

    plan: Plan
    versions: Mapping[int, Loaded]


class LoadedVersions:
    """The cache of one process; any thread may use it.

    Two threads may load at once: wasted work, but no lock to inherit locked by a fork.

    Args:
        model: Name of the model.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._snapshot: _Snapshot | None = None
        # By hash, so that the caches of other databases of the model can share them.
        self._towers: dict[str, QueryTower] = {}
        self._downloads: dict[str, artifacts.Download] = {}

    def sibling(self) -> LoadedVersions:
        """Return a cache of the same model elsewhere: another plan, the same towers."""
        other = LoadedVersions(self.model)
        other._towers, other._downloads = self._towers, self._downloads
        return other

    def forget(self) -> None:
        """Read the plan and the versions again at the next turn; towers stay."""
        self._snapshot = None

    def cached(self, unit: str | None) -> Turn | None:
        """Return who answers a unit, None when that has to be read."""
        snapshot = self._snapshot
        assignment = snapshot.plan.assign(unit) if snapshot else None
        version = (
            snapshot.versions.get(assignment.number)
            if snapshot and assignment
            else None
        )
        if snapshot is None or assignment is None or version is None:
            return None
        return Turn(snapshot.plan.generation, version, assignment)

    def turn(
        self,
        conn: Connection,
        unit: str | None,
        assigned: Callable[[Assignment], None] | None = None,
    ) -> Turn:
        """Return who answers a unit, after reading what is not cached.

        Args:
            conn: An open connection.
            unit: What is assigned to a version.
            assigned: Is told the assignment before the version is loaded: a version
                that cannot be loaded must answer for its users all the same.

        Raises:
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
            ArtifactError: The towers cannot be loaded.
        """
        # Also a plan that is known is read again: were its version not to load, no
        # answer would ever say that the plan has changed since.
        plan, snapshot = self._plan(conn), self._snapshot
        if snapshot is None or snapshot.plan.generation != plan.generation:
            snapshot = self._snapshot = _Snapshot(plan, {})
        assignment = snapshot.plan.assign(unit)
        if assignment is None:
            raise VersionStateError(
                f"no version of model {self.model!r} is serving",
                hint=f"Run 'recsys promote {self.model} NUMBER'.",
            )
        if assigned is not None:
            assigned(assignment)
        version = snapshot.versions.get(assignment.number)
        if version is None:
            version = self._load(conn, assignment.number, snapshot.plan)
            merged = {**snapshot.versions, version.number: version}
            self._snapshot = _Snapshot(snapshot.plan, merged)
        return Turn(snapshot.plan.generation, version, assignment)

    def _plan(self, conn: Connection) -> Plan:
        plan = retrieval.plan(conn, self.model)
        if plan is None:
            raise UnknownModel(f"no model named {self.model!r} is registered")
        return plan

    def _load(self, conn: Connection, number: int, plan: Plan) -> Loaded:
        row = retrieval.registered(conn, self.model, number)
        if row is None:
            raise retrieval.VersionGone(
                f"version {number} of model {self.model!r} was dropped meanwhile"
            )
        config = model_from_dict(row.spec)
        sha256 = row.artifacts["query_tower"]
        tower = self._towers.get(sha256)
        if tower is None:
            tower = QueryTower.of(self._fetched(conn, sha256), config)
            self._towers[sha256] = tower
            # Oldest first out; what the plan names is never more than a few.
            for old in list(self._towers)[: -(_SPARE + 1 + len(plan.numbers))]:
                self._towers.pop(old, None)
        return Loaded(
            number=number,
            config=config,
            tower=tower,
            ef_search=row.ef_search,
            statements=_request_sql.statements(
                versions.suffix(self.model, number),
                config,
                number if "trend" in row.spec else None,
            ),
            recall_curve=row.recall_curve,
        )

    def _fetched(self, conn: Connection, sha256: str) -> bytes:
        """Return an artifact; what arrived is kept when a budget ends before."""
        download = self._downloads.setdefault(sha256, artifacts.Download(sha256))
        for old in list(self._downloads)[:-_DOWNLOADS]:
            self._downloads.pop(old, None)
        try:
            content = download.go_on(conn)
        except ArtifactError:
            self._downloads.pop(sha256, None)
            raise
        self._downloads.pop(sha256, None)
        return content
