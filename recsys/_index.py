"""Build the HNSW index of a version, in memory and in one pass."""

from __future__ import annotations

import logging
import threading
from typing import Any

import psycopg

from recsys import _db, _sql
from recsys._index_key import index_key
from recsys.errors import DatabaseUnavailable, RecsysError
from recsys.progress import Progress
from recsys.versions import ModelVersion

logger = logging.getLogger(__name__)


def build_memory_mb(rows: int, dim: int, m: int) -> int:
    """Return the maintenance_work_mem that keeps a graph of halfvec(dim) in memory."""
    return _memory_mb(rows, 2 * dim, m)


def _memory_mb(rows: int, size: int, m: int) -> int:
    """Return the same for keys of ``size`` bytes.

    (203 + 32 m + size) bytes a row, measured on pgvector 0.8.5, and 10 % to spare.
    """
    return max(64, int(rows * (203 + 32 * m + size) * 1.1 / 2**20) + 1)


def index_name(suffix: str) -> str:
    """Return the name of a version's HNSW index."""
    return f"item_vector_{suffix}_hnsw"


def build(
    dsn: str, version: ModelVersion, progress: Progress, *, alone: bool = False
) -> None:
    """Build the index of a version that nobody reads yet; nothing when it exists.

    Plain CREATE INDEX in a transaction: the table has no readers, and the memory
    setting ends with the transaction, behind any pooler.

    Args:
        dsn: Connection string.
        version: Its table is loaded.
        progress: Receives the rows done.
        alone: With one process, whatever the server allows.
    """
    table = f"item_vector_{version.suffix}"
    with _db.connect(dsn) as conn:
        row = conn.execute(
            _sql.trusted(
                "select to_regclass(%s) is not null, (select count(*) from {})".format(
                    f"recsys.{table}"
                )
            ),
            (f"recsys.{index_name(version.suffix)}",),
        ).fetchone()
    exists, rows = row or (False, 0)
    if exists:
        return
    key = index_key(version.config.index, version.config.train.dim)
    wanted = _memory_mb(rows, key.size, version.config.index.m)
    memory = min(wanted, version.config.index.memory_mb)
    if memory < wanted:
        logger.warning(
            "the index wants %d MB to build in memory and may take %d MB: "
            "raise index.memory_mb, or expect a slow build",
            wanted,
            memory,
        )
    with progress.stage("Building the HNSW index", rows) as stage:
        watcher = _Watcher(dsn, table, stage.advance)
        watcher.start()
        try:
            _create(dsn, version, memory, alone)
        finally:
            watcher.stop()


def _create(dsn: str, version: ModelVersion, memory_mb: int, alone: bool) -> None:
    options = version.config.index
    key = index_key(options, version.config.train.dim)
    statement = _sql.trusted(
        f"create index {index_name(version.suffix)}"
        f" on recsys.item_vector_{version.suffix} using hnsw"
        f" (({key.item.format(v='embedding')}) {key.operator_class})"
        f" with (m = {options.m:d}, ef_construction = {options.ef_construction:d})"
    )
    # A parallel build takes all its memory from /dev/shm, which containers keep
    # small; alone it needs none.
    for workers in (0,) if alone else (None, 0):
        try:
            with _db.connect(dsn) as conn:
                conn.add_notice_handler(_log_notice)
                conn.execute(
                    "select set_config('maintenance_work_mem', %s, true)",
                    (f"{memory_mb}MB",),
                )
                if workers is not None:
                    conn.execute("set local max_parallel_maintenance_workers = 0")
                conn.execute(statement)
            return
        except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory) as exc:
            if workers is not None:
                raise DatabaseUnavailable(
                    f"the index cannot be built: {exc.diag.message_primary}",
                    hint="Lower index.memory_mb, or free memory and disk.",
                ) from exc
            logger.warning(
                "the parallel index build failed (%s); building with one process. "
                "Docker: raise shm_size",
                exc.diag.message_primary,
            )


def _log_notice(diag: psycopg.errors.Diagnostic) -> None:
    logger.warning("%s", diag.message_primary)


class _Watcher(threading.Thread):
    """Reports pg_stat_progress_create_index while another connection builds."""

    def __init__(self, dsn: str, table: str, advance: Any) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self._table = table
        self._advance = advance
        self._done = threading.Event()

    def stop(self) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        seen = 0
        try:
            with _db.connect(self._dsn, autocommit=True) as conn:
                while not self._done.wait(0.5):
                    row = conn.execute(
                        "select tuples_done from pg_stat_progress_create_index"
                        " where relid = to_regclass(%s)",
                        (f"recsys.{self._table}",),
                    ).fetchone()
                    if row and row[0] > seen:
                        self._advance(row[0] - seen)
                        seen = row[0]
        except (RecsysError, psycopg.Error) as exc:
            logger.info("no progress of the index build: %s", exc)
