"""Fill a version with vectors: load, index, verify, ready.

The work is resumable: every chunk commits, and a second run loads only what is missing.
The version stays ``building``, and so unreadable, until verification passed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from recsys import (
    _calibration,
    _copy,
    _db,
    _index,
    _sql,
    artifacts,
    embeddings,
    versions,
)
from recsys._db import Connection
from recsys._guard import exclusive
from recsys._tower import ItemTower
from recsys.encoder.values import projection
from recsys.errors import (
    ArtifactError,
    RecsysError,
    SourceError,
    UnknownModel,
    UnknownVersion,
    VersionStateError,
)
from recsys.progress import SILENT, Progress
from recsys.types import ItemId
from recsys.versions import ModelVersion

logger = logging.getLogger(__name__)

_CHUNK = 20_000
"""Items per transaction: a few megabytes, about a second's work to repeat."""
_MAX_PASSES = 5


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
    progress: Progress = SILENT,
) -> BackfillReport:
    """Bring a building version to ready, or complete a ready one.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        model: Name of the model.
        number: Version; default the newest.
        progress: Receives the progress of the long steps.

    Returns:
        What was done.

    Raises:
        UnknownModel: No model of that name is registered.
        UnknownVersion: The model has no such version.
        VersionStateError: Another backfill of the version runs, or the version is
            retired, or its index misses the recall target.
        SourceError: The item source fails or returns bad rows.
        ArtifactError: An artifact is missing, corrupted or does not fit the tables.
    """
    with _db.connect(dsn) as conn:
        if number is None:
            number = versions.newest(conn, model)
        version = versions.get(conn, model, number)
    if version.state in ("retired",):
        raise VersionStateError(
            f"version {number} of model {model!r} is {version.state}",
            hint=f"Train a new one: recsys train {model}",
        )
    with exclusive(dsn, f"recsys.backfill.{version.suffix}", _refusal(version)):
        try:
            return _Backfill(dsn, version, progress).run()
        except (RecsysError, psycopg.Error) as exc:
            _remember(dsn, version, exc)
            if _dropped(dsn, version):
                raise VersionStateError(
                    f"version {number} of model {model!r} was dropped meanwhile"
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
    def __init__(self, dsn: str, version: ModelVersion, progress: Progress) -> None:
        self.dsn = dsn
        self.version = version
        self.config = version.config
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.loaded = 0

    def run(self) -> BackfillReport:
        tower = self._load_tower()
        with _db.connect(self.dsn) as writer:
            with self._timed("load"):
                self._load_id_embeddings(writer)
                self._complete(writer, tower)
            with self._timed("index"):
                self._phase(writer, "indexing")
                _index.build(self.dsn, self.version, self.progress)
                self._complete(writer, tower)
            with self._timed("verify"):
                self._phase(writer, "verifying")
                found = _calibration.calibrate(writer, self.version, self.progress)
            item_count = self._finish(writer, found)
        return BackfillReport(
            model=self.version.model,
            number=self.version.number,
            loaded=self.loaded,
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

    def _load_tower(self) -> ItemTower:
        if self.version.dim != self.config.train.dim + 1:
            raise ArtifactError(
                f"the tables have {self.version.dim} dimensions, the towers "
                f"{self.config.train.dim + 1}",
                hint="The registry was edited: drop the version and train again.",
            )
        with _db.connect(self.dsn) as conn:
            content = artifacts.get(conn, self.version.artifacts["item_tower"])
        features = self.config.items.features
        return ItemTower(content, features, self.config.train.dim)

    def _phase(self, conn: Connection, phase: str, total: int | None = None) -> None:
        conn.execute(
            "update recsys.model_version set phase = %s, rows_done = 0,"
            " rows_total = %s, phase_started_at = clock_timestamp(), error = null"
            " where model = %s and number = %s",
            (phase, total, self.version.model, self.version.number),
        )
        conn.commit()

    def _load_id_embeddings(self, writer: Connection) -> None:
        """Put the learned rows into their table, all or nothing."""
        table = f"id_embedding_{self.version.suffix}"
        row = writer.execute(
            sql.SQL("select exists (select from {})").format(_name(table))
        ).fetchone()
        if row and row[0]:
            writer.commit()
            return
        content = artifacts.get(writer, self.version.artifacts["embeddings"])
        learned = embeddings.unpack(content, self.config.item_id, self.config.train.dim)
        with self.progress.stage("Loading ID embeddings", len(learned.item_ids)) as s:
            _copy.copy_rows(
                writer,
                table,
                self.config.item_id,
                learned.item_ids,
                [learned.served, learned.history, learned.bias],
            )
            s.advance(len(learned.item_ids))
        writer.execute(
            "update recsys.model_version set default_query = %s"
            " where model = %s and number = %s",
            (
                [float(x) for x in learned.default_query],
                self.version.model,
                self.version.number,
            ),
        )
        writer.execute(sql.SQL("analyze {}").format(_name(table)))
        writer.commit()

    def _complete(self, writer: Connection, tower: ItemTower) -> None:
        """Load until the source and the vectors name the same items.

        Items may come and go while we load; each pass is one snapshot.
        """
        for _ in range(_MAX_PASSES):
            source_count, _, missing, orphaned = self._coverage(writer)
            if source_count == 0:
                raise SourceError(
                    "the item source returns no items",
                    hint="Run items.sql of recsys.toml by hand.",
                )
            if missing == 0 and orphaned == 0:
                return
            if missing:
                self._phase(writer, "loading", missing)
                self._load_missing(writer, tower, missing)
            if orphaned:
                self._delete_orphans(writer)
            for table in ("item_vector", "item_embedding"):
                writer.execute(
                    sql.SQL("analyze {}").format(
                        _name(f"{table}_{self.version.suffix}")
                    )
                )
            writer.commit()
        raise VersionStateError(
            "the item source changes faster than the backfill can follow",
            hint="Run it again at a quieter time.",
        )

    def _coverage(self, conn: Connection) -> tuple[int, int, int, int]:
        with source_errors("items"):
            row = conn.execute(
                sql.SQL("select * from {}()").format(
                    _name(f"_coverage_{self.version.suffix}")
                )
            ).fetchone()
        conn.commit()
        return tuple(row) if row else (0, 0, 0, 0)

    def _delete_orphans(self, conn: Connection) -> None:
        for table in ("item_vector", "item_embedding"):
            conn.execute(
                _sql.trusted(
                    f"delete from recsys.{table}_{self.version.suffix} as v"
                    " where not exists (select from"
                    f" ({self.config.items.sql}\n) as s"
                    f" where s.item_id::{self.config.item_id} = v.item_id)"
                )
            )
        conn.commit()

    def _load_missing(self, writer: Connection, tower: ItemTower, total: int) -> None:
        with (
            self.progress.stage("Encoding items", total) as stage,
            closing(self._missing_items()) as items,
        ):
            for ids, rows in items:
                self._write(writer, tower, ids, rows)
                self.loaded += len(ids)
                stage.advance(len(ids))

    def _missing_items(
        self,
    ) -> Generator[tuple[list[ItemId], Sequence[Sequence[Any]]]]:
        """Stream the items without a vector, as ids and columns."""
        with (
            _db.connect(self.dsn) as reader,
            reader.cursor(name="recsys_items", binary=True) as cursor,
            source_errors("items"),
        ):
            cursor.itersize = _CHUNK
            cursor.execute(_sql.trusted(self._items_query()))
            while rows := cursor.fetchmany(_CHUNK):
                ids, *columns = zip(*rows, strict=True)
                if None in ids:
                    raise SourceError(
                        "the item source returns a null item_id",
                        hint="Add 'where ... is not null' to items.sql.",
                    )
                yield list(ids), columns

    def _items_query(self) -> str:
        suffix, id_type = self.version.suffix, self.config.item_id
        fields = projection(self.config.items.features, "s")
        return (
            f"select s.item_id::{id_type}, halfvec_send(e.served),"
            f" halfvec_send(e.history), e.bias{', ' if fields else ''}{fields}"
            f" from ({self.config.items.sql}\n) as s"
            f" left join recsys.id_embedding_{suffix} as e"
            f" on e.item_id = s.item_id::{id_type}"
            f" left join recsys.item_vector_{suffix} as v"
            f" on v.item_id = s.item_id::{id_type}"
            " where v.item_id is null"
        )

    def _write(
        self,
        writer: Connection,
        tower: ItemTower,
        ids: list[ItemId],
        columns: Sequence[Sequence[Any]],
    ) -> None:
        """Encode one chunk and store both of its vectors in one transaction."""
        served, history, bias, *cells = columns
        names = [f.name for f in self.config.items.features]
        vectors, rows = tower.encode(
            dict(zip(names, cells, strict=True)),
            len(ids),
            unpack_rows(served, tower.dim),
            unpack_rows(history, tower.dim),
            np.array([math.nan if b is None else b for b in bias], np.float32),
        )
        suffix, id_type = self.version.suffix, self.config.item_id
        _copy.copy_rows(writer, f"item_vector_{suffix}", id_type, ids, [vectors])
        _copy.copy_rows(writer, f"item_embedding_{suffix}", id_type, ids, [rows])
        writer.execute(
            "update recsys.model_version set rows_done = rows_done + %s"
            " where model = %s and number = %s",
            (len(ids), self.version.model, self.version.number),
        )
        writer.commit()

    def _finish(self, conn: Connection, found: _calibration.Calibration) -> int:
        source_count, item_count, missing, orphaned = self._coverage(conn)
        conn.execute(
            "update recsys.model_version set"
            " state = case when state in ('building', 'failed') then 'ready'"
            " else state end,"
            " phase = 'done', rows_done = %s, rows_total = %s, item_count = %s,"
            " source_count = %s, ef_search = %s, ann_recall = %s, error = null,"
            " ready_at = coalesce(ready_at, now())"
            " where model = %s and number = %s",
            (
                item_count,
                source_count,
                item_count,
                source_count,
                found.ef_search,
                found.recall,
                self.version.model,
                self.version.number,
            ),
        )
        # Processes that serve this version cached its ef_search.
        conn.execute(
            "update recsys.model set generation = generation + 1 where name = %s",
            (self.version.model,),
        )
        conn.commit()
        if missing or orphaned:
            logger.warning("%d items came and %d went meanwhile", missing, orphaned)
        return item_count


def unpack_rows(cells: Sequence[bytes | None], dim: int) -> NDArray[np.float32]:
    """Return halfvec_send values as rows, shape (N, dim); None becomes zeros."""
    present = np.array([cell is not None for cell in cells])
    out = np.zeros((len(cells), dim), dtype=np.float32)
    if present.any():
        packed = b"".join(cell for cell in cells if cell is not None)
        out[present] = _db.unpack_halfvecs(packed, dim)
    return out


@contextmanager
def source_errors(which: str) -> Generator[None]:
    """Say which source failed, with Postgres's own words."""
    try:
        yield
    except (psycopg.ProgrammingError, psycopg.DataError) as exc:
        raise SourceError(
            f"{which}.sql fails: {exc.diag.message_primary}",
            hint=exc.diag.message_hint
            or f"Run {which}.sql of recsys.toml by hand, as this role.",
        ) from exc


def _name(name: str) -> sql.Identifier:
    return sql.Identifier("recsys", name)
