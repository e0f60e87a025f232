"""Read CSV files: what columns they have, of which type, and their rows."""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from recsys.errors import SourceError

CHUNK = 10_000
# Longest cell; the csv module stops at 128 kB by default.
_CELL = 64 * 1024 * 1024

_INTEGER = re.compile(r"-?(?:0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|nan|[+-]?inf(?:inity)?",
    re.ASCII | re.IGNORECASE,
)
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?"
    r"(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_BOOLEANS = frozenset(("true", "false", "True", "False", "TRUE", "FALSE", "t", "f"))


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a CSV file.

    Attributes:
        name: Usable as an SQL name: lower-case, digits and underscores.
        type: bigint, "double precision", timestamp, timestamptz, boolean, uuid or text.
    """

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What a first pass over a CSV file found.

    Attributes:
        columns: In the order of the file.
        delimiter: One of comma, semicolon, tab and bar.
        rows: Number of rows, the header not counted.
    """

    columns: tuple[Column, ...]
    delimiter: str
    rows: int


Advance = Callable[[int], None]


def header(path: Path) -> tuple[tuple[str, ...], str]:
    """Return the column names of a CSV file and its delimiter.

    Raises:
        SourceError: The file is missing, empty or its first line is not a header.
    """
    with _opened(path) as (stream, _):
        first = next(_lines(path, stream), "")
    if not first.strip():
        raise SourceError(
            f"{path} is empty", hint="The first line must name the columns."
        )
    counts = Counter(c for c in first if c in ",;\t|")
    delimiter = counts.most_common(1)[0][0] if counts else ","
    cells = next(csv.reader([first], delimiter=delimiter))
    if all(_NUMBER.fullmatch(cell.strip()) for cell in cells):
        raise SourceError(
            f"{path}, line 1: the first line looks like data, not like column names",
            hint="Add a first line such as: user_id,item_id,occurred_at",
        )
    names = tuple(_name(cell, i) for i, cell in enumerate(cells, 1))
    for name, times in Counter(names).items():
        if times > 1:
            raise SourceError(f"{path}, line 1: two columns are named {name!r}")
    return names, delimiter


def scan(
    path: Path,
    *,
    text: Collection[str] = (),
    required: Collection[str] = (),
    advance: Advance | None = None,
) -> Layout:
    """Read a whole CSV file once and infer the type of every column.

    Args:
        path: The file; gunzipped when its name ends in .gz.
        text: Columns that stay text whatever they hold.
        required: Columns in which an empty cell is an error.
        advance: Called with the bytes read since the last call.

    Returns:
        The columns: with a type that every cell fits, empty cells aside.

    Raises:
        SourceError: The file cannot be read as CSV; the message names the line.
    """
    names, delimiter = header(path)
    types: list[str] = ["text" if name in text else "" for name in names]
    rows = 0
    for lines, chunk in chunks(path, names, delimiter, advance):
        rows += len(chunk)
        for i, cells in enumerate(zip(*chunk, strict=True)):
            if types[i] == "text" and names[i] not in required:
                continue
            values = set(cells)
            if "" in values and names[i] in required:
                line = lines[cells.index("")]
                raise SourceError(f"{path}, line {line}: {names[i]} is empty")
            for value in values:
                if types[i] == "text":
                    break
                if value:
                    types[i] = _wider(types[i], _type(value))
    return Layout(
        columns=tuple(
            Column(name, found or "text")
            for name, found in zip(names, types, strict=True)
        ),
        delimiter=delimiter,
        rows=rows,
    )


def chunks(
    path: Path,
    names: Collection[str],
    delimiter: str,
    advance: Advance | None = None,
) -> Iterator[tuple[list[int], list[list[str]]]]:
    """Yield the rows of a CSV file, header left out, with their line numbers.

    Args:
        path: The file.
        names: Its columns; a row with more or fewer cells is an error.
        delimiter: As ``header`` found it.
        advance: Called with the bytes read since the last call.
    """
    limit = csv.field_size_limit(_CELL)
    with _opened(path) as (stream, position):
        reader = csv.reader(_lines(path, stream), delimiter=delimiter)
        lines: list[int] = []
        rows: list[list[str]] = []
        done = 0
        try:
            next(reader)
            for row in reader:
                if len(row) != len(names):
                    if not row:
                        continue  # an empty line
                    raise SourceError(
                        f"{path}, line {reader.line_num}: {len(row)} cells, "
                        f"but the header names {len(names)} columns",
                        hint="Put cells that hold the delimiter or a line end in "
                        "double quotes.",
                    )
                lines.append(reader.line_num)
                rows.append(row)
                if len(rows) == CHUNK:
                    yield lines, rows
                    lines, rows = [], []
                    if advance is not None:
                        advance(position() - done)
                        done = position()
        except csv.Error as exc:
            raise SourceError(f"{path}, line {reader.line_num}: {exc}") from exc
        finally:
            csv.field_size_limit(limit)
        if rows:
            yield lines, rows
        if advance is not None:
            advance(position() - done)


@contextmanager
def _opened(path: Path) -> Generator[tuple[BinaryIO, Callable[[], int]]]:
    """Open a file and a function that tells how many of its bytes were read."""
    try:
        with path.open("rb") as raw:
            if path.suffix != ".gz":
                yield raw, raw.tell
                return
            with gzip.open(raw) as unpacked:
                yield unpacked, raw.tell  # pyright: ignore[reportReturnType] # IO[bytes]
    except OSError as exc:  # also gzip.BadGzipFile
        raise SourceError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except EOFError as exc:
        raise SourceError(f"{path} is cut off: {exc}") from exc


def _lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    """Decode line by line, so that an error can name its line."""
    for number, raw in enumerate(stream, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as exc:
            raise SourceError(
                f"{path}, line {number}: not UTF-8 (byte {exc.start + 1}, "
                f"{raw[exc.start]:#04x})",
                hint="Convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW",
            ) from exc
        if "\0" in line:
            raise SourceError(f"{path}, line {number}: a NUL character")
        yield line


def _name(cell: str, position: int) -> str:
    """Turn a heading such as "Customer ID" into a column name such as customer_id."""
    name = re.sub(r"\W+", "_", cell.strip().lower()).strip("_")
    if not name:
        return f"column_{position}"
    name = f"_{name}" if name[0].isdigit() else name
    return name.encode()[:63].decode(errors="ignore")  # Postgres' longest name


def _type(value: str) -> str:
    """Return the narrowest type a cell fits."""
    if _INTEGER.fullmatch(value):
        # A longer number is a code, and a float would round it.
        return "bigint" if -(2**63) <= int(value[:21]) < 2**63 else "text"
    if _NUMBER.fullmatch(value):
        return "double precision"
    if value in _BOOLEANS:
        return "boolean"
    if _UUID.fullmatch(value):
        return "uuid"
    return _time_type(value)


def _time_type(value: str) -> str:
    match = _TIME.fullmatch(value)
    if match is None:
        return "text"
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return "text"  # such as 2013-02-30
    return "timestamptz" if match["zone"] else "timestamp"


def _wider(known: str, found: str) -> str:
    """Return the type that holds both; "" is the type of a column of empty cells."""
    if known in ("", found):
        return found
    numbers = ("bigint", "double precision")
    return "double precision" if known in numbers and found in numbers else "text"
