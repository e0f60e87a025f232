"""Rows of vectors in the binary COPY format, built by numpy.

No type registration is needed on the connection, and a million rows take a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from recsys._db import COPY_HEADER, COPY_TRAILER, Connection
from recsys.config import IdType
from recsys.errors import SourceError
from recsys.types import ItemId

_HEADER_BYTES = len(COPY_HEADER)


def copy_rows(
    conn: Connection,
    table: str,
    id_type: IdType,
    ids: Sequence[ItemId],
    columns: Sequence[NDArray[np.floating]],
) -> None:
    """Append rows of an id and vectors to a per-version table.

    Args:
        conn: An open connection; the caller commits.
        table: Name of a table in schema recsys.
        id_type: Type of its item_id column.
        ids: N item ids.
        columns: The other columns in order: shape (N, D) goes to a halfvec, (N,) to
            a real.

    Raises:
        SourceError: An item id occurs twice, or is too long for an index.
    """
    tail = _tail(columns)
    rows = _fixed(ids, id_type, tail) if id_type != "text" else _text(ids, tail)
    statement = sql.SQL("copy {} from stdin (format binary)").format(
        sql.Identifier("recsys", table)
    )
    try:
        with conn.cursor().copy(statement) as copy:
            copy.write(COPY_HEADER)
            copy.write(rows)
            copy.write(COPY_TRAILER)
    except psycopg.errors.UniqueViolation as exc:
        raise SourceError(
            f"the item source returns an id twice: {exc.diag.message_detail}",
            hint="Make items.sql return one row per item.",
        ) from exc
    except psycopg.errors.ProgramLimitExceeded as exc:
        raise SourceError(
            f"an item id is too long for an index: {exc.diag.message_primary}",
            hint="Text ids may have about 2,700 bytes: let items.sql return a shorter"
            " key, such as a hash of it.",
        ) from exc


def read_vectors(
    conn: Connection, table: str, dim: int, *, block: int = 50_000
) -> list[NDArray[np.float32]]:
    """Return every vector of a per-version table, in blocks.

    Returns:
        Arrays of shape (up to ``block``, dim), float32.
    """
    statement = sql.SQL(
        "copy (select halfvec_send(embedding) from {}) to stdout (format binary)"
    ).format(sql.Identifier("recsys", table))
    row = np.dtype(
        [("n", ">i2"), ("size", ">i4"), ("head", ">u4"), ("values", ">f2", (dim,))]
    )
    blocks: list[NDArray[np.float32]] = []
    pending = bytearray()
    with conn.cursor().copy(statement) as copy:
        skip = _HEADER_BYTES
        for data in copy:
            part = bytes(data)
            cut = min(skip, len(part))
            skip -= cut
            pending += part[cut:]
            if len(pending) >= block * row.itemsize:
                blocks.append(_take(pending, row, block))
    whole = len(pending) // row.itemsize  # the trailer stays behind
    if whole:
        blocks.append(_take(pending, row, whole))
    return blocks


def _take(pending: bytearray, row: np.dtype[np.void], n: int) -> NDArray[np.float32]:
    size = n * row.itemsize
    values = np.frombuffer(bytes(pending[:size]), dtype=row)["values"]
    del pending[:size]
    return values.astype(np.float32)


def _tail(columns: Sequence[NDArray[np.floating]]) -> NDArray[np.void]:
    """Everything of a row but its id, as one packed record per row."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = []
    for i, column in enumerate(columns):
        fields.append((f"size{i}", ">i4"))
        if column.ndim == 2:
            fields.append((f"dim{i}", ">u2"))
            fields.append((f"zero{i}", ">u2"))
            fields.append((f"value{i}", ">f2", (column.shape[1],)))
        else:
            fields.append((f"value{i}", ">f4"))
    tail = np.zeros(len(columns[0]), dtype=np.dtype(fields))
    for i, column in enumerate(columns):
        if column.ndim == 2:
            tail[f"size{i}"] = 4 + 2 * column.shape[1]
            tail[f"dim{i}"] = column.shape[1]
        else:
            tail[f"size{i}"] = 4
        tail[f"value{i}"] = column
    return tail


def _fixed(ids: Sequence[ItemId], id_type: IdType, tail: NDArray[np.void]) -> bytes:
    width = 8 if id_type == "bigint" else 16
    kind = ">i8" if id_type == "bigint" else "V16"
    record = np.dtype(
        [("n", ">i2"), ("size", ">i4"), ("id", kind), ("tail", tail.dtype)]
    )
    rows = np.zeros(len(ids), dtype=record)
    rows["n"] = 1 + _columns(tail)
    rows["size"] = width
    if id_type == "bigint":
        rows["id"] = np.asarray(ids, dtype=np.int64)
    else:
        packed = b"".join(i.bytes for i in ids if isinstance(i, UUID))
        rows["id"] = np.frombuffer(packed, dtype="V16")
    rows["tail"] = tail
    return rows.tobytes()


def _text(ids: Sequence[ItemId], tail: NDArray[np.void]) -> bytes:
    head = (1 + _columns(tail)).to_bytes(2, "big")
    packed, width = tail.tobytes(), tail.dtype.itemsize
    parts: list[bytes] = []
    for i, item_id in enumerate(ids):
        name = str(item_id).encode()
        parts += (
            head,
            len(name).to_bytes(4, "big"),
            name,
            packed[i * width : (i + 1) * width],
        )
    return b"".join(parts)


def _columns(tail: NDArray[np.void]) -> int:
    return sum(name.startswith("size") for name in tail.dtype.names or ())
