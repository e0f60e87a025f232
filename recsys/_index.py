"""The HNSW index of a version: build it in memory, then calibrate it to its recall."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from recsys import _copy, _db, _sql, artifacts
from recsys._db import Connection, Halfvec
from recsys._tower import QueryTower
from recsys.errors import DatabaseUnavailable, RecsysError, VersionStateError
from recsys.progress import Progress
from recsys.versions import ModelVersion

logger = logging.getLogger(__name__)

K = 20
_QUERIES = 240
_MARGIN = 0.003
"""Added to the target: the recall of 240 queries is itself uncertain by about this."""
_EF_SEARCH = (40, 60, 80, 100, 130, 160, 200, 250, 320, 400, 500, 640, 800, 1000)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured ANN recall of a version.

    Attributes:
        ef_search: Smallest candidate count that reaches the target.
        recall: ANN recall@20 at it, in [0, 1].
        queries: Number of sampled real queries.
    """

    ef_search: int
    recall: float
    queries: int


def build_memory_mb(rows: int, dim: int, m: int) -> int:
    """Return the maintenance_work_mem that keeps the whole graph in memory.

    (203 + 32 m + 2 dim) bytes a row, measured on pgvector 0.8.5, and 10 % to spare.
    """
    return max(64, int(rows * (203 + 32 * m + 2 * dim) * 1.1 / 2**20) + 1)


def index_name(suffix: str) -> str:
    """Return the name of a version's HNSW index."""
    return f"item_vector_{suffix}_hnsw"


def build(dsn: str, version: ModelVersion, progress: Progress) -> None:
    """Build the index of a version that nobody reads yet; nothing when it exists.

    Plain CREATE INDEX in a transaction: the table has no readers, and the memory
    setting ends with the transaction, behind any pooler.
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
    wanted = build_memory_mb(rows, version.dim, version.config.index.m)
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
            _create(dsn, version, memory)
        finally:
            watcher.stop()


def _create(dsn: str, version: ModelVersion, memory_mb: int) -> None:
    options = version.config.index
    statement = sql.SQL(
        "create index {} on {} using hnsw (embedding halfvec_ip_ops)"
        " with (m = {}, ef_construction = {})"
    ).format(
        sql.Identifier(index_name(version.suffix)),
        sql.Identifier("recsys", f"item_vector_{version.suffix}"),
        sql.Literal(options.m),
        sql.Literal(options.ef_construction),
    )
    # A parallel build takes all its memory from /dev/shm, which containers keep
    # small; alone it needs none.
    for workers in (None, 0):
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


def calibrate(
    conn: Connection, version: ModelVersion, progress: Progress
) -> Calibration:
    """Find the smallest ef_search that reaches the recall target on real queries.

    Half of the queries are users' query vectors, half ask for similar items. A result
    counts when its exact score is at least the exact score of place 20, so that ties
    are no mistakes.

    Raises:
        VersionStateError: No ef_search reaches the target.
    """
    queries = sample_queries(conn, version)
    target = version.config.index.recall_target
    with progress.stage("Measuring ANN recall", len(_EF_SEARCH) + 1) as stage:
        best = _exact_scores(conn, version, queries)
        stage.advance(1, "exact scan done")
        recall = 0.0
        for ef_search in _EF_SEARCH:
            recall = _recall(conn, version, queries, best, ef_search)
            stage.advance(1, f"ef_search {ef_search}: recall {recall:.3f}")
            if recall >= min(1.0, target + _MARGIN):
                conn.commit()
                return Calibration(ef_search, recall, len(queries))
    conn.rollback()
    if recall >= target:
        return Calibration(_EF_SEARCH[-1], recall, len(queries))
    raise VersionStateError(
        f"the index reaches recall {recall:.3f} at ef_search 1000, the target is "
        f"{target}",
        hint="Raise index.m and index.ef_construction, or lower index.recall_target.",
    )


def sample_queries(
    conn: Connection, version: ModelVersion, *, size: int = _QUERIES
) -> NDArray[np.float32]:
    """Return query vectors as requests make them, shape (up to size, dim), float32."""
    config, suffix = version.config, version.suffix
    content = artifacts.get(conn, version.artifacts["query_tower"])
    tower = QueryTower(
        content, config.users.features, config.context.features, config.train.dim
    )
    users = conn.execute(
        _sql.trusted(
            f"select user_id::{config.user_id} from (select distinct user_id"
            f" from ({config.interactions.sql}\n) as i where user_id is not null) as u"
            " order by hashtextextended(user_id::text, 0) limit %s"
        ),
        (size // 2,),
    ).fetchall()
    queries: list[NDArray[np.float32]] = [tower.encode_one(*_no_history(tower.dim))]
    with conn.cursor(binary=True) as cur:
        for (user,) in users:
            row = cur.execute(
                _sql.trusted(
                    f"select weights, history, features from recsys._state_{suffix}(%s)"
                ),
                (user,),
            ).fetchone()
            weights, history, features = row or (None, None, None)
            rows = _db.unpack_halfvecs(history, tower.dim)
            queries.append(
                tower.encode_one(rows, np.array(weights or [], np.float32), features)
            )
        items = cur.execute(
            _sql.trusted(
                f"select halfvec_send(recsys._direction(embedding))"
                f" from recsys.item_vector_{suffix}"
                f" order by hashtextextended(item_id::text, 1) limit %s"
            ),
            (size - len(queries),),
        ).fetchall()
    packed = b"".join(row[0] for row in items)
    similar = _db.unpack_halfvecs(packed, version.dim).astype(np.float32)
    return np.concatenate([np.stack(queries), similar]).astype(np.float32)


def _no_history(dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.empty((0, dim), np.float32), np.empty(0, np.float32)


def _exact_scores(
    conn: Connection, version: ModelVersion, queries: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the exact score of place K per query, shape (Q,)."""
    rounded = queries.astype(np.float16).astype(np.float32)
    top = np.full((len(queries), K), -np.inf, np.float32)
    table = f"item_vector_{version.suffix}"
    for block in _copy.read_vectors(conn, table, version.dim):
        scores = np.concatenate([top, rounded @ block.T], axis=1)
        top = np.partition(scores, scores.shape[1] - K, axis=1)[:, -K:]
    finite = np.where(np.isfinite(top), top, np.inf)
    return finite.min(axis=1)


def _recall(
    conn: Connection,
    version: ModelVersion,
    queries: NDArray[np.float32],
    best: NDArray[np.float32],
    ef_search: int,
) -> float:
    found = wanted = 0
    wanted_each = min(K, _count(conn, version))
    for query, bound in zip(queries, best, strict=True):
        scores = _search(conn, version, query, ef_search)
        # float32 sums in another order differ in the last digits.
        found += sum(score >= bound - 1e-4 for score in scores[:wanted_each])
        wanted += wanted_each
    return found / wanted if wanted else 1.0


def _count(conn: Connection, version: ModelVersion) -> int:
    row = conn.execute(
        _sql.trusted(
            f"select count(*) from (select from recsys.item_vector_{version.suffix}"
            f" limit {K} ) as first"
        )
    ).fetchone()
    return int(row[0]) if row else 0


def _search(
    conn: Connection, version: ModelVersion, query: NDArray[np.float32], ef_search: int
) -> Sequence[float]:
    with _db.binary_cursor(conn) as cur:
        row = cur.execute(
            _sql.trusted(
                f"select scores from recsys._search_{version.suffix}"
                "(%s::halfvec, %s, '{}', %s)"
            ),
            (Halfvec(query), K, ef_search),
        ).fetchone()
    return row[0] if row else []
