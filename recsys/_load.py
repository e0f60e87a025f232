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

from recsys import _copy, _db, _late, _phase, _sql
from recsys._db import Connection
from recsys._items import Encoded, ItemEncoder
from recsys._source import source_errors
from recsys.errors import SourceError
from recsys.types import ItemId

Rows = Sequence[Sequence[Any]]
Chunk = tuple[list[int], Rows]
Results = queue.Queue[int | BaseException]

_FETCH = 5_000
_GROUPS = 8
"""Buckets 0..63 are loaded in so many groups: a worker finds the others free."""
_CHUNK = 5_000
"""Items per transaction: about a megabyte, a quarter of a second's work to repeat."""
_ATTEMPTS = 20
_PATIENT = 5
"""Attempts before the items that others hold are left out."""
_PAUSE_S = 0.2
_LOCK_TIMEOUT = "5s"
"""For buckets: a batch of a worker takes so long at most, and holds no others."""
_ROW_TIMEOUT = "200ms"
"""For rows, while holding eight buckets that the workers need."""
_PROBE = "20ms"
"""For a row of a probe: many of them may be held."""
_PROBE_S = 2.0
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
    """Encode one chunk and store both vectors of its items in one transaction.

    What others hold for longer than a few attempts, such as the application between
    ``sync_items`` and its commit, is left to the queue.
    """
    encoded = encoder.encode(rows, conn)
    # What text encoders gave stays, whatever becomes of the chunk.
    conn.commit()
    duplicates = 0
    for attempt in range(_ATTEMPTS):
        busy: list[ItemId] = []
        part = encoded
        try:
            if attempt >= _PATIENT:
                part, busy = _without_busy(conn, encoder, buckets, encoded)
            written = _store(conn, encoder, buckets, part, len(encoded.ids))
            _queue(conn, encoder, busy)
            conn.commit()
            return written
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            # sync_items() of the application holds one of them until its commit.
            conn.rollback()
            if attempt == _ATTEMPTS - 1 or stop.is_set():
                raise
            # The workers need the buckets meanwhile.
            stop.wait(_PAUSE_S)
        except SourceError as exc:
            # The same, committed while we waited for it; twice the same id in the
            # source stays an error.
            conn.rollback()
            duplicate = isinstance(exc.__cause__, psycopg.errors.UniqueViolation)
            if not duplicate or (duplicates := duplicates + 1) > _DUPLICATES:
                raise
    raise AssertionError("unreachable")


def _without_busy(
    conn: Connection, encoder: ItemEncoder, buckets: list[int], encoded: Encoded
) -> tuple[Encoded, list[ItemId]]:
    """Leave out the items that other transactions are writing.

    Their rows cannot be seen yet: a probe writes the items in halves and undoes it.

    Returns:
        The other items, and the ids of those left out.
    """
    busy: set[int] = set()
    _lock(conn, encoder, buckets)
    everything, until = list(range(len(encoded.ids))), time.monotonic() + _PROBE_S
    _probe(conn, encoder, encoded, everything, busy, until)
    conn.rollback()
    keep = [i for i in range(len(encoded.ids)) if i not in busy]
    rest = Encoded(
        [encoded.ids[i] for i in keep], encoded.vectors[keep], encoded.history[keep]
    )
    return rest, [encoded.ids[i] for i in sorted(busy)]


def _probe(
    conn: Connection,
    encoder: ItemEncoder,
    encoded: Encoded,
    places: list[int],
    busy: set[int],
    until: float,
) -> None:
    """Add to ``busy`` what cannot be written now, by halves while there is time."""
    part = Encoded(
        [encoded.ids[i] for i in places],
        encoded.vectors[places],
        encoded.history[places],
    )
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("select set_config('lock_timeout', %s, true)", (_PROBE,))
            _insert(conn, encoder, part)
        return
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        if len(places) == 1 or time.monotonic() > until:
            busy.update(places)
            return
    middle = len(places) // 2
    _probe(conn, encoder, encoded, places[:middle], busy, until)
    _probe(conn, encoder, encoded, places[middle:], busy, until)


def _queue(conn: Connection, encoder: ItemEncoder, ids: Sequence[ItemId]) -> None:
    """Leave items to the workers."""
    if ids:
        conn.execute(
            "select recsys._queue_items(%s, %s::text[])",
            (encoder.version.model, [str(item) for item in ids]),
        )


def _lock(conn: Connection, encoder: ItemEncoder, buckets: list[int]) -> None:
    conn.execute("select set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
    conn.execute(
        "select recsys._lock_buckets(%s, %s::smallint[])",
        (encoder.version.model, buckets),
    )


def _store(
    conn: Connection,
    encoder: ItemEncoder,
    buckets: list[int],
    encoded: Encoded,
    read: int,
) -> int:
    """Write what is still missing; ``read`` items count as done."""
    version = encoder.version
    _lock(conn, encoder, buckets)
    limit = "select set_config('lock_timeout', %s, true)"
    conn.execute(limit, (_ROW_TIMEOUT,))
    written = _insert(conn, encoder, encoded)
    conn.execute(limit, (_LOCK_TIMEOUT,))
    _phase.advance(conn, version, read)
    return written


def _insert(conn: Connection, encoder: ItemEncoder, encoded: Encoded) -> int:
    version, id_type = encoder.version, encoder.config.item_id
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
    for table, values in (("item_vector", encoded.vectors),
                          ("item_embedding", encoded.history)):  # fmt: skip
        _copy.copy_rows(conn, f"{table}_{version.suffix}", id_type, ids, [values[keep]])
    return len(ids)
