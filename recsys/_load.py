"""Load the missing items of a version, while workers bring changes into it.

A chunk is read, encoded, and written later; in between a worker may change or delete
its items. Two rules keep the chunk from undoing that. It never writes over a vector
that is there: whoever wrote it read the source after us. And it leaves out what a
worker deleted since the chunk was read (recsys.item_gone). Both are looked at, and the
chunk is written, while holding the items' buckets, which a worker also needs.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import psycopg

from recsys import _copy, _db, _late, _sql
from recsys._db import Connection
from recsys._items import Encoded, ItemEncoder
from recsys._source import source_errors
from recsys.errors import SourceError

Rows = Sequence[Sequence[Any]]
Chunk = tuple[list[int], Rows]
Results = queue.Queue[int | BaseException]

_FETCH = 5_000
_GROUPS = 8
"""Buckets 0..63 are loaded in so many groups: a worker finds the others free."""
_CHUNK = 5_000
"""Items per transaction: about a megabyte, a quarter of a second's work to repeat."""
_ATTEMPTS = 20
_DUPLICATES = 3


def load_missing(
    dsn: str, encoder: ItemEncoder, *, workers: int, max_load: float
) -> Generator[int]:
    """Load every item of the source that has no vector, in one snapshot of the source.

    Args:
        dsn: Connection string.
        encoder: Of the version.
        workers: Threads that encode and write.
        max_load: Share of the time that each of them works, above 0 to 1.

    Yields:
        Numbers of items written.

    Raises:
        SourceError: The source fails, or returns an id twice or null.
    """
    version = encoder.version
    with _db.connect(dsn) as conn:
        # What is deleted from here on counts; earlier deletes the snapshot sees.
        _late.queue_rest(conn, version)
    chunks: queue.Queue[Chunk | None] = queue.Queue(maxsize=workers)
    done: Results = queue.Queue()
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=_write_chunks,
            args=(dsn, encoder, chunks, done, stop, max_load),
            name=f"recsys-backfill-{i}",
            daemon=True,
        )
        for i in range(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        with closing(_chunks(dsn, encoder)) as produced:
            for chunk in produced:
                yield from _hand_out(chunk, chunks, done)
        for _ in threads:
            yield from _hand_out(None, chunks, done)
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
                yield from _results(done)
        yield from _results(done)
    finally:
        stop.set()
        # A chunk written after the next backfill began would bring back what was
        # deleted meanwhile.
        for thread in threads:
            thread.join()


def _hand_out(
    chunk: Chunk | None, chunks: queue.Queue[Chunk | None], done: Results
) -> Generator[int]:
    """Wait for a free thread, and meanwhile pass on what the others did."""
    while True:
        yield from _results(done)
        try:
            chunks.put(chunk, timeout=0.1)
            return
        except queue.Full:
            continue


def _results(done: Results) -> Generator[int]:
    while True:
        try:
            result = done.get_nowait()
        except queue.Empty:
            return
        if isinstance(result, BaseException):
            raise result
        yield result


def _chunks(dsn: str, encoder: ItemEncoder) -> Generator[Chunk]:
    """Stream the items without a vector, grouped by bucket, from one snapshot."""
    suffix, id_type = encoder.version.suffix, encoder.config.item_id
    query = (
        encoder.select(f", recsys._item_bucket((s.item_id::{id_type})::text)")
        + f" left join recsys.item_vector_{suffix} as v"
        f" on v.item_id = s.item_id::{id_type} where v.item_id is null"
    )
    groups: dict[int, list[Sequence[Any]]] = defaultdict(list)
    with (
        _db.connect(dsn) as reader,
        reader.cursor(name="recsys_items", binary=True) as cursor,
        source_errors("items"),
    ):
        cursor.itersize = _FETCH
        cursor.execute(_sql.trusted(query))
        while rows := cursor.fetchmany(_FETCH):
            for row in rows:
                groups[(row[-1] or 0) * _GROUPS // 64].append(row)
            for group in [g for g, held in groups.items() if len(held) >= _CHUNK]:
                yield _buckets(group), groups.pop(group)
    for group, held in groups.items():
        yield _buckets(group), held


def _buckets(group: int) -> list[int]:
    width = 64 // _GROUPS
    return list(range(group * width, (group + 1) * width))


def _write_chunks(
    dsn: str,
    encoder: ItemEncoder,
    chunks: queue.Queue[Chunk | None],
    done: Results,
    stop: threading.Event,
    max_load: float,
) -> None:
    """Encode and write chunks until there are no more; a thread's whole life."""
    try:
        with _db.connect(dsn) as conn:
            while not stop.is_set():
                try:
                    chunk = chunks.get(timeout=0.1)
                except queue.Empty:
                    continue
                if chunk is None:
                    return
                start = time.perf_counter()
                done.put(_write(conn, encoder, *chunk, stop))
                worked = time.perf_counter() - start
                stop.wait(worked * (1 / max_load - 1))
    except BaseException as exc:
        done.put(exc)
        stop.set()


def _write(
    conn: Connection,
    encoder: ItemEncoder,
    buckets: list[int],
    rows: Rows,
    stop: threading.Event,
) -> int:
    """Encode one chunk and store both vectors of its items in one transaction."""
    encoded = encoder.encode(rows)
    duplicates = 0
    for attempt in range(_ATTEMPTS):
        try:
            written = _store(conn, encoder, buckets, encoded)
            conn.commit()
            return written
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            # sync_items() of the application holds one of them until its commit.
            conn.rollback()
            if attempt == _ATTEMPTS - 1 or stop.is_set():
                raise
        except SourceError as exc:
            # The same, committed while we waited for it; twice the same id in the
            # source stays an error.
            conn.rollback()
            duplicate = isinstance(exc.__cause__, psycopg.errors.UniqueViolation)
            if not duplicate or (duplicates := duplicates + 1) > _DUPLICATES:
                raise
    raise AssertionError("unreachable")


def _store(
    conn: Connection, encoder: ItemEncoder, buckets: list[int], encoded: Encoded
) -> int:
    version, id_type = encoder.version, encoder.config.item_id
    conn.execute("select set_config('lock_timeout', '5s', true)")
    conn.execute(
        "select recsys._lock_buckets(%s, %s::smallint[])", (version.model, buckets)
    )
    taken = {
        item
        for (item,) in _db.binary_cursor(conn).execute(
            _sql.trusted(
                f"select item_id from recsys.item_vector_{version.suffix}"
                f" where item_id = any(%(ids)s::{id_type}[])"
                f" union all select item_id::{id_type} from recsys.item_gone"
                " where model = %(model)s and number = %(number)s"
                f" and item_id::{id_type} = any(%(ids)s::{id_type}[])"
            ),
            {"ids": encoded.ids, "model": version.model, "number": version.number},
        )
    }
    keep = [i for i, item in enumerate(encoded.ids) if item not in taken]
    ids = [encoded.ids[i] for i in keep]
    suffix = version.suffix
    for table, values in (("item_vector", encoded.vectors),
                          ("item_embedding", encoded.history)):  # fmt: skip
        _copy.copy_rows(conn, f"{table}_{suffix}", id_type, ids, [values[keep]])
    conn.execute(
        "update recsys.model_version set rows_done = rows_done + %s"
        " where model = %s and number = %s",
        (len(encoded.ids), version.model, version.number),
    )
    return len(ids)
