"""Load until the item source and the vectors of a version name the same items."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from recsys import _load, _phase, _sql, capture_check
from recsys._db import Connection
from recsys._items import ItemEncoder
from recsys._source import source_errors
from recsys.errors import SourceError, VersionStateError
from recsys.progress import Progress
from recsys.versions import ModelVersion

_MAX_PASSES = 5
_FOLLOWED = 1_000
"""So few differing items are left to the workers, when triggers queue the changes."""


def coverage(conn: Connection, version: ModelVersion) -> tuple[int, int, int, int]:
    """Return how many items the source has, the vectors, and each alone; commits.

    Raises:
        SourceError: The source fails.
    """
    with source_errors("items"):
        row = conn.execute(
            sql.SQL("select * from {}()").format(
                sql.Identifier("recsys", f"_coverage_{version.suffix}")
            )
        ).fetchone()
    conn.commit()
    return tuple(row) if row else (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Completion:
    """Completes the vectors of a version; every step commits.

    Attributes:
        dsn: Connection string; the threads have connections of their own.
        encoder: Of the version.
        workers: Threads that encode and write.
        max_load: Share of the time that each of them works, above 0 to 1.
        progress: Receives the items encoded.
    """

    dsn: str
    encoder: ItemEncoder
    workers: int
    max_load: float
    progress: Progress

    @property
    def version(self) -> ModelVersion:
        """The version."""
        return self.encoder.version

    def run(self, conn: Connection) -> int:
        """Load until the source and the vectors name the same items.

        Items may come and go while we load; each pass is one snapshot. What still
        differs after the last pass is left to the workers, if there are any. It is
        queued again: who queued every item after a TRUNCATE did not know the items
        that we had read and not yet written.

        Returns:
            Vectors written.

        Raises:
            SourceError: The source fails, or returns no items.
            VersionStateError: It changes faster than this can follow.
        """
        loaded = 0
        for attempt in range(_MAX_PASSES):
            source_count, _, missing, orphaned = coverage(conn, self.version)
            if source_count == 0:
                raise SourceError(
                    "the item source returns no items",
                    hint="Run items.sql of recsys.toml by hand.",
                )
            if missing == 0 and orphaned == 0:
                return loaded
            if attempt and missing + orphaned <= _FOLLOWED and self._is_followed(conn):
                self._leave_the_rest(conn)
                return loaded
            if missing:
                _phase.begin(conn, self.version, "loading", missing)
                loaded += self._load_missing(missing)
            if orphaned:
                self._delete_orphans(conn)
            for table in ("item_vector", "item_embedding"):
                conn.execute(
                    sql.SQL("analyze {}").format(
                        sql.Identifier("recsys", f"{table}_{self.version.suffix}")
                    )
                )
            conn.commit()
        if self._is_followed(conn):
            self._leave_the_rest(conn)
            return loaded
        raise VersionStateError(
            "the item source changes faster than the backfill can follow",
            hint=f"Run 'recsys watch {self.version.model}' and 'recsys worker': then"
            " changes reach the version by themselves.",
        )

    def _leave_the_rest(self, conn: Connection) -> None:
        capture_check.queue_differences(conn, self.version)
        conn.commit()

    def _is_followed(self, conn: Connection) -> bool:
        """Whether triggers queue what changes, so that workers bring the rest."""
        row = conn.execute(
            "select capture = 'triggers' from recsys.change_status where model = %s",
            (self.version.model,),
        ).fetchone()
        conn.commit()
        return bool(row and row[0])

    def _delete_orphans(self, conn: Connection) -> None:
        """Delete the vectors of items that the source no longer has.

        No worker may write between the look at the source and the delete: a vector it
        brings back for an item that came back would be lost.
        """
        conn.execute(
            "select recsys._lock_buckets(%s, (select array_agg(b::smallint)"
            " from generate_series(0, 63) as b))",
            (self.version.model,),
        )
        for table in ("item_vector", "item_embedding"):
            conn.execute(
                _sql.trusted(
                    f"delete from recsys.{table}_{self.version.suffix} as v"
                    " where not exists (select from"
                    f" ({self.encoder.config.items.sql}\n) as s"
                    f" where s.item_id::{self.encoder.config.item_id} = v.item_id)"
                )
            )
        conn.commit()

    def _load_missing(self, total: int) -> int:
        written = 0
        with self.progress.stage("Encoding items", total) as stage:
            for loaded in _load.load_missing(
                self.dsn, self.encoder, workers=self.workers, max_load=self.max_load
            ):
                written += loaded
                stage.advance(loaded)
        return written
