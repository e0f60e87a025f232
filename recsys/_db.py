"""Connections, the translation of driver errors, and vectors on the wire."""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors as pg
from psycopg.adapt import Dumper, PyFormat
from psycopg.pq import Format
from psycopg.rows import tuple_row

from recsys import _deadline
from recsys.errors import (
    ArtifactError,
    ConfigError,
    DatabaseUnavailable,
    RecsysError,
    SchemaError,
    UnknownItem,
    VersionStateError,
)

Connection = psycopg.Connection[Any]

_CALLERS = (
    psycopg.ProgrammingError,
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
    pg.ObjectNotInPrerequisiteState,
)
_CALLERS_CLASSES = frozenset({"2F", "38", "39", "P0"})
"""Of SQLSTATE: what functions raise."""

MINIMUM_PGVECTOR = (0, 8, 0)
"""iterative_scan came with 0.8.0; without it answers come out short."""
ADVISED_PGVECTOR = (0, 8, 4)
"""Earlier releases can corrupt an HNSW index between insert and vacuum."""

NOT_PREPARED = (pg.InvalidSqlStatementName, pg.DuplicatePreparedStatement)
"""What the server says when something gives a connection several sessions in turn."""


def connect(dsn: str, *, autocommit: bool = False) -> Connection:
    """Open a connection that works behind a transaction pooler.

    Raises:
        DatabaseUnavailable: No server answers, or it refuses the login.
    """
    try:
        # Without prepared statements: they tie the session to one server connection.
        conn = _deadline.connect(dsn)
        conn.autocommit = autocommit
        # Whatever the role's default is: a statement must see what was committed
        # while the transaction waited for a lock.
        conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        for packed in (Halfvec, HalfvecArray, BigintArray):
            conn.adapters.register_dumper(packed, PackedDumper)
        return conn
    except psycopg.OperationalError as exc:
        raise DatabaseUnavailable(
            f"cannot connect to Postgres: {str(exc).strip().splitlines()[0]}"
        ) from exc
    except psycopg.ProgrammingError as exc:
        raise ConfigError(
            f"the connection string is malformed: {str(exc).strip()}",
            hint="Use postgresql://user@host/database or 'host=... dbname=...'.",
        ) from exc


def pgvector_version(conn: Connection) -> tuple[int, ...] | None:
    """Return the installed pgvector version, or None when it is not installed."""
    row = conn.execute(
        "select extversion from pg_catalog.pg_extension where extname = 'vector'"
    ).fetchone()
    return tuple(int(part) for part in row[0].split(".")[:3]) if row else None


def require_pgvector(conn: Connection) -> None:
    """Refuse a database without a usable pgvector.

    Raises:
        DatabaseUnavailable: pgvector is missing or older than 0.8.0.
    """
    version = pgvector_version(conn)
    if version is None:
        raise DatabaseUnavailable(
            "the extension 'vector' (pgvector) is not installed in this database",
            hint="As a superuser or the service's admin role: create extension vector;",
        )
    check_pgvector(version)


def check_pgvector(version: tuple[int, ...]) -> None:
    """Refuse a pgvector older than 0.8.0.

    Raises:
        DatabaseUnavailable: The version is too old.
    """
    if version < MINIMUM_PGVECTOR:
        raise DatabaseUnavailable(
            f"pgvector {'.'.join(map(str, version))} is too old; 0.8.0 is needed",
            hint="Upgrade the package, then: alter extension vector update;",
        )


def binary_cursor(conn: Connection) -> psycopg.Cursor[Any]:
    """Return a cursor that takes ``Halfvec`` and returns binary results as tuples.

    A borrowed connection keeps its own adapters and its row factory: the cursor alone
    differs.
    """
    # Not conn.cursor(): Django makes that a client-side one, which knows no binary. Its
    # factory names another class while Django collects statements (DEBUG).
    make = getattr(conn.cursor_factory, "binary_cursor", psycopg.Cursor)
    cursor: psycopg.Cursor[Any] = make(conn, row_factory=tuple_row)
    cursor.format = Format.BINARY
    try:
        conn.adapters.get_dumper(Halfvec, PyFormat.AUTO)
    except psycopg.ProgrammingError:
        for packed in (Halfvec, HalfvecArray, BigintArray):
            cursor.adapters.register_dumper(packed, PackedDumper)
    return cursor


def callers_fault(exc: psycopg.Error) -> bool:
    """Say whether an error is of the SQL that was sent, not of the database."""
    return isinstance(exc, _CALLERS) or (exc.sqlstate or "")[:2] in _CALLERS_CLASSES


@contextmanager
def translated() -> Generator[None]:
    """Turn the errors our SQL raises on purpose into ours; others pass unchanged."""
    try:
        yield
    except (
        pg.InvalidParameterValue,
        pg.ObjectNotInPrerequisiteState,
        pg.NoDataFound,
        pg.ForeignKeyViolation,
        pg.LockNotAvailable,
        pg.InvalidSchemaName,
    ) as exc:
        raise _ours(exc) from exc


def _ours(exc: psycopg.Error) -> RecsysError:
    kinds: dict[type[psycopg.Error], type[RecsysError]] = {
        pg.InvalidParameterValue: ConfigError,
        pg.ObjectNotInPrerequisiteState: VersionStateError,
        pg.NoDataFound: UnknownItem,
        pg.ForeignKeyViolation: ArtifactError,
        pg.LockNotAvailable: VersionStateError,
        pg.InvalidSchemaName: SchemaError,
    }
    message = exc.diag.message_primary or str(exc)
    return kinds[type(exc)](message, hint=exc.diag.message_hint)


class Halfvec:
    """A float32 vector on its way to the server as halfvec.

    Attributes:
        data: The binary form that halfvec_recv reads.
    """

    __slots__ = ("data",)

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.data = struct.pack(">HH", values.size, 0) + values.astype(">f2").tobytes()


class PackedDumper(Dumper):
    """Send what is packed already; the type comes from the cast in the statement.

    Registered on our own cursors only: a borrowed connection keeps its adapters.
    """

    format = Format.BINARY

    def dump(self, obj: Halfvec | HalfvecArray | BigintArray) -> bytes:
        """Return the binary form."""
        return obj.data


class HalfvecArray:
    """Rows of vectors on their way to the server as halfvec[].

    Attributes:
        data: The binary form that array_recv reads.
    """

    __slots__ = ("data",)

    def __init__(self, rows: NDArray[np.float32], halfvec_oid: int) -> None:
        n, dim = rows.shape
        record = np.dtype([("size", ">i4"), ("head", ">u4"), ("values", ">f2", (dim,))])
        body = np.zeros(n, dtype=record)
        body["size"] = 4 + 2 * dim
        body["head"] = dim << 16
        body["values"] = rows
        # One dimension, no nulls, the element type, length, lower bound.
        header = struct.pack(">iiIii", 1, 0, halfvec_oid, n, 1)
        self.data = header + body.tobytes()


class BigintArray:
    """Integers on their way to the server as bigint[].

    psycopg sends lists as text, and looks at every element for that.

    Attributes:
        data: The binary form that array_recv reads.

    Raises:
        TypeError: One is no number, such as None.
        OverflowError: One is no bigint.
    """

    __slots__ = ("data",)

    def __init__(self, values: Sequence[object]) -> None:
        record = np.dtype([("size", ">i4"), ("value", ">i8")])
        body = np.empty(len(values), dtype=record)
        body["size"] = 8
        body["value"] = np.array(values, dtype=np.int64)
        # Dimensions, no nulls, the oid of bigint, and of a dimension its lower bound.
        header = struct.pack(">iiI", min(1, len(values)), 0, 20)
        if len(values):
            header += struct.pack(">ii", len(values), 1)
        self.data = header + body.tobytes()


def unpack_halfvecs(packed: bytes | None, dim: int) -> NDArray[np.float16]:
    """Read rows concatenated by halfvec_send.

    Args:
        packed: Rows one after the other, or None for no rows.
        dim: Length of each row.

    Returns:
        Shape (L, dim), float16; L = 0 for None.

    Raises:
        ArtifactError: The rows are not of this dimension.
    """
    if not packed:
        return np.empty((0, dim), dtype=np.float16)
    width = 4 + 2 * dim
    if len(packed) % width or packed[:2] != struct.pack(">H", dim):
        raise ArtifactError(
            f"expected rows of {dim} dimensions, got "
            f"{struct.unpack('>H', packed[:2])[0]}",
            hint="The tables do not belong to these towers: drop and train again.",
        )
    rows = np.frombuffer(packed, dtype=">f2").reshape(-1, 2 + dim)
    return rows[:, 2:].astype(np.float16)


COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
COPY_TRAILER = b"\xff\xff"
