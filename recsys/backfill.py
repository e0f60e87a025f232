"""Fill a version with vectors: load, index, verify, ready.

The work is resumable: every chunk commits, and a second run loads only what is missing.
The version stays ``building``, and so unreadable, until verification passed. Workers
bring changes into it all the while; see ``_load`` for how the two keep out of each
other's way.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from recsys import (
    _calibration,
    _completion,
    _db,
    _index,
    _late,
    _learned,
    _phase,
    artifacts,
    rollout,
    versions,
)
from recsys._completion import Completion
from recsys._db import Connection
from recsys._guard import exclusive
from recsys._items import ItemEncoder
from recsys._wording import counted
from recsys.errors import (
    ArtifactError,
    ConfigError,
    DatabaseUnavailable,
    RecsysError,
    UnknownModel,
    UnknownVersion,
    VersionStateError,
)
from recsys.progress import SILENT, Progress
from recsys.versions import ModelVersion

logger = logging.getLogger(__name__)

_FINISH_ATTEMPTS = 12
"""Of five seconds each: hours of loading are not lost to a lock."""


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What a backfill did.

    Attributes:
        loaded: Vectors written by this run.
        item_count: Vectors of the version now.
        ef_search: Calibrated candidates of the index.
        ann_recall: Measured ANN recall@20 at ``ef_search``, in [0, 1].
        seconds: Wall time per phase.
    """

    model: str
    number: int
    loaded: int
    item_count: int
    ef_search: int
    ann_recall: float
    seconds: dict[str, float]


def backfill(
    dsn: str,
    model: str,
    number: int | None = None,
    *,
    workers: int = 1,
    max_load: float = 1.0,
    progress: Progress = SILENT,
) -> BackfillReport:
    """Bring a building version to ready, or complete a ready one.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        model: Name of the model.
        number: Version; default the newest.
        workers: Threads that encode and write.
        max_load: Share of the time that each of them works, above 0 to 1; below 1 the
            index, too, is built by one process only.
        progress: Receives the progress of the long steps.

    Returns:
        What was done.

    Raises:
        UnknownModel: No model of that name is registered.
        UnknownVersion: The model has no such version.
        ConfigError: ``workers`` or ``max_load`` is out of range.
        VersionStateError: Another backfill of the version runs, or its index misses
            the recall target.
        SourceError: The item source fails or returns bad rows.
        ArtifactError: An artifact is missing, corrupted or does not fit the tables.
    """
    if not 1 <= workers <= 64:
        raise ConfigError(f"workers must be from 1 to 64, got {workers}")
    if not 0 < max_load <= 1:
        raise ConfigError(
            f"max_load must be above 0 and up to 1, got {max_load}",
            hint="0.5 works half of the time and rests as long.",
        )
    with _db.connect(dsn) as conn:
        if number is None:
            number = versions.newest(conn, model)
        version = versions.get(conn, model, number)
    with exclusive(dsn, f"recsys.backfill.{version.suffix}", _refusal(version)):
        try:
            return _Backfill(dsn, version, progress, workers, max_load).run()
        except (RecsysError, psycopg.Error) as exc:
            _remember(dsn, version, exc)
            if _dropped(dsn, version):
                raise VersionStateError(
                    f"version {number} of model {model!r} was dropped meanwhile"
                ) from exc
            if isinstance(exc, psycopg.errors.DiskFull):
                raise DatabaseUnavailable(
                    f"the server's disk is full: {exc.diag.message_primary}",
                    hint="Free space, or drop an old version, and run it again: it goes"
                    " on where it stopped.",
                ) from exc
            raise


def _dropped(dsn: str, version: ModelVersion) -> bool:
    try:
        with _db.connect(dsn) as conn:
            versions.get(conn, version.model, version.number)
    except (UnknownModel, UnknownVersion):
        return True
    except (RecsysError, psycopg.Error):
        return False
    return False


def _refusal(version: ModelVersion) -> VersionStateError:
    return VersionStateError(
        f"another backfill of {version.model} version {version.number} runs",
        hint="Wait for it: 'recsys status' shows its progress.",
    )


def _remember(dsn: str, version: ModelVersion, exc: Exception) -> None:
    """Leave the reason on the version; the server may be gone, so try only."""
    try:
        with _db.connect(dsn) as conn:
            # What only a new training can mend is failed; the rest can be resumed.
            hopeless = isinstance(exc, ArtifactError)
            conn.execute(
                "update recsys.model_version set error = %s, state ="
                " case when %s and state = 'building' then 'failed' else state end"
                " where model = %s and number = %s",
                (str(exc)[:1000], hopeless, version.model, version.number),
            )
    except (RecsysError, psycopg.Error) as also:
        logger.warning("could not record the failure of the backfill: %s", also)


class _Backfill:
    def __init__(
        self,
        dsn: str,
        version: ModelVersion,
        progress: Progress,
        workers: int,
        max_load: float,
    ) -> None:
        self.dsn = dsn
        self.version = version
        self.progress = progress
        self.workers = workers
        self.max_load = max_load
        self.seconds: dict[str, float] = {}

    def run(self) -> BackfillReport:
        with _db.connect(self.dsn) as writer:
            completion = Completion(
                self.dsn,
                ItemEncoder(writer, self.version),
                self.workers,
                self.max_load,
                self.progress,
            )
            self._begin(writer)
            with self._timed("load"):
                _learned.load(writer, self.version, self.progress)
                _phase.begin(writer, self.version, "loading")
                loaded = completion.run(writer)
            with self._timed("index"):
                _phase.begin(writer, self.version, "indexing")
                # Workers that do not know of it finish their batches.
                _late.lock_out(writer, self.version)
                writer.commit()
                one = self.max_load < 1
                _index.build(self.dsn, self.version, self.progress, alone=one)
                _late.catch_up(writer, self.version, self.max_load)
                loaded += completion.run(writer)
            with self._timed("verify"):
                _phase.begin(writer, self.version, "verifying")
                _late.queue_rest(writer, self.version)
                writer.commit()
                # Exact scan and index must be asked about the same vectors.
                writer.execute("set transaction isolation level repeatable read")
                found = _calibration.calibrate(writer, self.version, self.progress)
            item_count = self._finish(writer, found)
        return BackfillReport(
            model=self.version.model,
            number=self.version.number,
            loaded=loaded,
            item_count=item_count,
            ef_search=found.ef_search,
            ann_recall=found.recall,
            seconds=self.seconds,
        )

    @contextmanager
    def _timed(self, name: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def _begin(self, conn: Connection) -> None:
        """Make a version that nobody kept up to date a new one; it missed changes."""
        if self.version.state not in ("retired", "failed"):
            return
        suffix = self.version.suffix
        with rollout.locking(conn, self.version.model):
            # A worker that still takes it for a live version must not write into the
            # emptied tables.
            _late.lock_out(conn, self.version)
            conn.execute(
                sql.SQL("truncate {}, {}").format(
                    _name(f"item_vector_{suffix}"), _name(f"item_embedding_{suffix}")
                )
            )
            conn.execute(
                sql.SQL("drop index if exists {}").format(
                    _name(_index.index_name(suffix))
                )
            )
            conn.execute(
                "update recsys.model_version set state = 'building', phase = 'created',"
                " retired_at = null, ready_at = null, error = null"
                " where model = %s and number = %s",
                (self.version.model, self.version.number),
            )
        conn.commit()

    def _finish(self, conn: Connection, found: _calibration.Calibration) -> int:
        source_count, item_count, missing, orphaned = _completion.coverage(
            conn, self.version
        )
        for attempt in range(_FINISH_ATTEMPTS):
            try:
                with rollout.locking(conn, self.version.model):
                    self._set_ready(conn, found, source_count, item_count)
                conn.commit()
                break
            except VersionStateError:
                # A promotion, or a drop, holds the model's row.
                conn.rollback()
                if attempt == _FINISH_ATTEMPTS - 1:
                    raise
        if missing or orphaned:
            logger.warning(
                "%s came and %d went meanwhile", counted(missing, "item"), orphaned
            )
        return item_count

    def _set_ready(
        self,
        conn: Connection,
        found: _calibration.Calibration,
        source_count: int,
        item_count: int,
    ) -> None:
        # In the order of a promotion: the model's row before the version's.
        conn.execute(
            "select from recsys.model where name = %s for update", (self.version.model,)
        )
        _late.lock_out(conn, self.version)
        _late.queue_rest(conn, self.version)
        conn.execute(
            "update recsys.model_version set"
            " state = case when state in ('building', 'failed') then 'ready'"
            " else state end,"
            " phase = 'done', rows_done = %s, rows_total = %s, item_count = %s,"
            " source_count = %s, ef_search = %s, ann_recall = %s,"
            " recall_curve = %s::jsonb, metrics = metrics || %s::jsonb, error = null,"
            " ready_at = coalesce(ready_at, now())"
            " where model = %s and number = %s",
            (
                item_count,
                source_count,
                item_count,
                source_count,
                found.ef_search,
                found.recall,
                json.dumps([[ef, round(recall, 4)] for ef, recall in found.curve]),
                json.dumps(_segments(conn, self.version)),
                self.version.model,
                self.version.number,
            ),
        )
        # Processes that serve this version cached its ef_search.
        conn.execute(
            "update recsys.model set generation = generation + 1 where name = %s",
            (self.version.model,),
        )


def _segments(conn: Connection, version: ModelVersion) -> dict[str, Any]:
    """Return the segments of the training's report as slices of the metrics.

    They are not in the revision: a file that people review has the headline only.
    """
    sha256 = version.artifacts.get("report")
    if sha256 is None:
        return {}
    try:
        report = json.loads(artifacts.get(conn, sha256))
    except ArtifactError as exc:
        logger.warning("no segments of the validation slice: %s", exc)
        return {}
    segments: dict[str, Any] = report.get("segments", {})
    return {f"validation: {name}": methods for name, methods in segments.items()}


def _name(name: str) -> sql.Identifier:
    return sql.Identifier("recsys", name)
