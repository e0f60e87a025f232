r"""Raw feature values to the inputs of the encoder graph.

Training, backfill, worker and request read their columns through one SQL projection
and bring them into the graph's input types through one function per feature type.
Everything learned or hashed happens inside the graph (``graph.py``).

    type         raw cell                              graph input "<side>.<name>"
    category     str or None                           string (B,), "" is missing
    categories   str joined by \x1f, sequence or None  string (B,)
    text         str or None                           string (B,), tokens and spaces
    number       float or None                         float64 (B, 1), NaN is missing
    time         float (epoch s), datetime or None     float64 (B, 1), NaN is missing
    vector       "[1,2]", "{1,2}", sequence or None    float32 (B, dim), 0 is missing

A text with an encoder comes as a vector: ``_texts`` puts one in its place.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from itertools import islice
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from recsys.config import Feature
from recsys.encoder.text import MAX_CHARS, normalise
from recsys.errors import SourceError

Side: TypeAlias = Literal["item", "user", "context"]
Cells: TypeAlias = "Sequence[object] | NDArray[Any]"
Columns: TypeAlias = "Mapping[str, Cells]"
Feeds: TypeAlias = dict[str, NDArray[Any]]

SEPARATOR = "\x1f"
MAX_LIST = 512
MAX_KEY = 512
# Room for a full list of the longest keys; the rest of 10 MB is not read.
_MAX_JOINED = MAX_LIST * (MAX_KEY + 1)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SQL_SEPARATOR = r"E'\x1f'"
_BLANKS = " \t\n\v\f\r"
_NOT_FINITE = re.compile(r"[+-]?(nan|inf(inity)?)", re.IGNORECASE)
_DECIMAL = re.compile(
    r"[+-]?(?P<digits>\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE
)
_HEX = re.compile(
    r"[+-]?0x(?P<digits>[\da-f]+(\.[\da-f]*)?|\.[\da-f]+)(p[+-]?\d+)?",
    re.ASCII | re.IGNORECASE,
)


def input_name(side: Side, feature: Feature) -> str:
    """Return the name of the graph input that takes this feature."""
    return f"{side}.{feature.name}"


def projection(features: Iterable[Feature], alias: str) -> str:
    """Return the SQL select list that reads the features of a source.

    Args:
        features: Declared features; their names are checked column names.
        alias: Alias of the source in the FROM clause.

    Returns:
        'expression as "name", ...'; "" without features. No parameter is needed, and
        no "%" or ":" of a separator survives, so every driver can send it.
    """
    return ", ".join(f'{_sql(f, alias)} as "{f.name}"' for f in features)


def json_projection(features: Iterable[Feature], alias: str) -> str:
    """Return a SQL expression that reads the features into one jsonb object."""
    pairs = [f"'{f.name}', {_sql(f, alias)}" for f in features]
    if not pairs:
        return "'{}'::jsonb"
    # A function takes at most 100 arguments: 50 features.
    groups = [", ".join(pairs[i : i + 50]) for i in range(0, len(pairs), 50)]
    return " || ".join(f"jsonb_build_object({group})" for group in groups)


def _sql(feature: Feature, alias: str) -> str:
    """Return the expression of one cell, cut where ``prepare`` cuts it anyway.

    A chunk of rows with 10 MB each would not fit into memory.
    """
    column = f'{alias}."{feature.name}"'
    match feature.type:
        case "number":
            return f"({column})::float8"
        case "time":
            return f"extract(epoch from {column})::float8"
        case "categories":
            if feature.separator is None:
                text = f"array_to_string({column}, {_SQL_SEPARATOR})"
            else:
                separator = _sql_literal(feature.separator)
                text = f"replace(({column})::text, {separator}, {_SQL_SEPARATOR})"
            return f"left({text}, {_MAX_JOINED})"
        case "category":
            return f"left(({column})::text, {MAX_KEY})"
        case "text":
            return f"left(({column})::text, {MAX_CHARS})"
        case _:
            return f"({column})::text"


def _sql_literal(text: str) -> str:
    return "E'" + "".join(map(_sql_char, text)) + "'"


def _sql_char(char: str) -> str:
    if char.isascii():
        return char if char.isalnum() else f"\\x{ord(char):02x}"
    return f"\\U{ord(char):08x}"


def prepare(side: Side, features: Iterable[Feature], columns: Columns, n: int) -> Feeds:
    """Bring n rows of raw columns into the graph's input types.

    Args:
        side: Prefix of the input names.
        features: Declared features. A column that is absent is missing in every row.
        columns: Raw cells by feature name, each of length n.
        n: Number of rows, B.

    Returns:
        Graph inputs by name.

    Raises:
        SourceError: A vector has the wrong length, or a value the wrong type.
    """
    return {
        input_name(side, f): prepare_column(f, columns.get(f.name), n) for f in features
    }


def prepare_row(
    side: Side, features: Iterable[Feature], row: Mapping[str, object]
) -> Feeds:
    """Do what ``prepare`` does, for one row of cells by feature name."""
    return {
        input_name(side, f): prepare_column(f, (row.get(f.name),), 1) for f in features
    }


def prepare_column(feature: Feature, values: Cells | None, n: int) -> NDArray[Any]:
    """Bring one raw column of length n into the graph's input type."""
    if values is None:
        values = (None,) * n
    if len(values) != n:
        raise ValueError(f"column {feature.name!r} has {len(values)} of {n} rows")
    kind = "vector" if feature.is_vector else feature.type
    return _READERS[kind](feature, values)


def longest(feature: Feature) -> int:
    """Return the most tokens that ``prepare`` lets through in one row."""
    if feature.type == "text" and not feature.is_vector:
        return feature.max_words * feature.ngrams
    return MAX_LIST if feature.type == "categories" else 1


def _read_category(feature: Feature, values: Cells) -> NDArray[Any]:
    return _strings([_category(v) for v in values])


def _read_categories(feature: Feature, values: Cells) -> NDArray[Any]:
    return _strings([_categories(v) for v in values])


def _read_text(feature: Feature, values: Cells) -> NDArray[Any]:
    ngrams, most = feature.ngrams, feature.max_words
    return _strings([normalise(_text(v), ngrams, most) for v in values])


def _read_number(feature: Feature, values: Cells) -> NDArray[np.float64]:
    cells = [_number(feature, v) for v in values]
    return np.array(cells, dtype=np.float64).reshape(-1, 1)


def _read_time(feature: Feature, values: Cells) -> NDArray[np.float64]:
    cells = [_number(feature, _epoch(v)) for v in values]
    return np.array(cells, dtype=np.float64).reshape(-1, 1)


def _read_vector(feature: Feature, values: Cells) -> NDArray[np.float32]:
    array = np.zeros((len(values), feature.dim), dtype=np.float32)
    for row, value in zip(array, values, strict=True):
        if value is not None:
            _fill_vector(feature, value, row)
    return array


_READERS: dict[str, Callable[[Feature, Cells], NDArray[Any]]] = {
    "category": _read_category,
    "categories": _read_categories,
    "text": _read_text,
    "number": _read_number,
    "time": _read_time,
    "vector": _read_vector,
}


def _category(value: object) -> str:
    """Return the vocabulary key of one category; "" is missing."""
    text = _text(value)[:MAX_KEY].strip()
    return text if text.isascii() else _encodable(text)


def _categories(value: object) -> str:
    """Return the distinct keys of one list, joined by the separator."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        some = islice(cast(Iterable[object], value), MAX_LIST)
        value = SEPARATOR.join(_text(part)[:MAX_KEY] for part in some)
    text = _text(value)[:_MAX_JOINED]
    parts = text.split(SEPARATOR, MAX_LIST)[:MAX_LIST]
    keys = dict.fromkeys(map(_category, parts))
    keys.pop("", None)
    return SEPARATOR.join(keys)


def _text(value: object) -> str:
    """Return what Postgres prints for ``value::text``; "" for null."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):  # np.float64 is one
        number = float(value)
        if math.isnan(number):
            return ""
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value)


def _encodable(text: str) -> str:
    # A lone surrogate cannot be written as UTF-8, and onnxruntime takes UTF-8 only.
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())


def _strings(values: list[str]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def number_of(text: str) -> float:
    """Return the float8 that Postgres casts a text to.

    Raises:
        ValueError: It casts none: the text is no number, or one that is too large or
            too small for a float8.
    """
    word = text.strip(_BLANKS)
    if _NOT_FINITE.fullmatch(word):
        return float(word)
    decimal, other = _DECIMAL.fullmatch(word), _HEX.fullmatch(word)
    found = decimal or other
    if found is None:
        raise ValueError(f"no number: {text!r}")
    try:
        number = float(word) if decimal else float.fromhex(word)
    except OverflowError:
        number = math.inf
    if math.isinf(number) or (not number and found["digits"].strip("0.")):
        raise ValueError(f"out of range: {text!r}")
    return number


def _number(feature: Feature, value: object) -> float:
    if value is None:
        return math.nan
    try:
        # A text is what the projection would have made of it.
        number = number_of(value) if isinstance(value, str) else float(cast(Any, value))
    except OverflowError:
        return math.nan
    except (TypeError, ValueError) as exc:
        raise SourceError(
            f"{feature.type} feature {feature.name!r} got {str(value)[:40]!r}",
            hint="Convert it in the source SQL, or declare the feature as a category.",
        ) from exc
    # Beyond float32 is no measurement; the comparison is false for NaN as well.
    return number if -_FLOAT32_MAX <= number <= _FLOAT32_MAX else math.nan


def _epoch(value: object) -> object:
    """Return seconds since 1970 of a Python date; a naive one is UTC, as in SQL."""
    if not isinstance(value, date):
        return value
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _fill_vector(feature: Feature, value: object, row: NDArray[np.float32]) -> None:
    try:
        if isinstance(value, str):
            value = json.loads(f"[{value.strip()[1:-1].replace('NULL', 'null')}]")
        parsed = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as exc:
        raise SourceError(
            f"vector feature {feature.name!r} got {str(value)[:40]!r}",
            hint="Select a vector, halfvec or float array of the declared dim.",
        ) from exc
    if parsed.size == 0:
        return
    if parsed.shape != (feature.dim,):
        raise SourceError(
            f"vector feature {feature.name!r} has dim = {feature.dim}, "
            f"but a row has {parsed.size} numbers",
            hint="Correct dim in recsys.toml, or leave other lengths null in the SQL.",
        )
    if np.abs(parsed).max() <= _FLOAT32_MAX:  # false for NaN
        row[:] = parsed
