"""The trigger functions of change capture, as SQL."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from recsys import _sql
from recsys._db import Connection

_BY_VALUE = frozenset(
    [
        "boolean",
        "smallint",
        "integer",
        "bigint",
        "numeric",
        "real",
        "date",
        "uuid",
        "bytea",
        "oid",
    ]
) | {
    "double precision",
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
    "interval",
}
"""Types whose own equality tells every change; the others are compared as text."""

COLUMN = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TableCapture:
    """What is captured on one table for one model.

    Attributes:
        table: Schema-qualified and quoted name.
        item: A column of the table that holds the item id, or a query over
            ``changed``, the changed rows, that returns item ids.
        columns: Column -> type: the columns whose change concerns an item.
        keys: Columns that ``item`` reads; all are captured as they are.
        by_row: By row instead of by statement: for partitioned tables, partitions and
            inheritance children.
    """

    table: str
    item: str
    columns: Mapping[str, str]
    keys: Sequence[str]
    by_row: bool = False


def statements(
    conn: Connection | None, model: str, tables: Iterable[TableCapture]
) -> list[str]:
    """Return the SQL that captures the tables, for ``watch`` and for migrations.

    Args:
        conn: Its search_path becomes that of the trigger functions; None: the
            default one.
        model: Name of the model.
        tables: What to capture.
    """
    path = '"$user", public'
    if conn is not None:
        row = conn.execute("select current_setting('search_path')").fetchone()
        path = (row[0] if row else "") or "pg_catalog"
    tables = list(tables)
    lookups = {t.table: t.item for t in tables if not is_column(t.item)}
    # A migration names its tables one by one.
    known = "capture.lookups || " if conn is None else ""
    return [
        "insert into recsys.capture (model, lookups) values"
        f" ({_sql.literal(model)}, {_sql.literal(json.dumps(lookups))})"
        f" on conflict (model) do update set lookups = {known}excluded.lookups",
        *(_render(model, capture, path) for capture in tables),
    ]


def _render(model: str, capture: TableCapture, path: str) -> str:
    keys = [quoted(key) for key in capture.keys]
    names = [name for name in capture.columns if name not in capture.keys]
    item = (
        f"select distinct changed.{quoted(capture.item)}::text as item_id from changed"
    )
    lookup = ""
    if not is_column(capture.item):
        item = (
            "select distinct mapped.item_id::text as item_id from"
            f" ({capture.item}\n) as mapped(item_id)"
        )
        lookup = (
            ", lookup as (insert into recsys.item_lookup (model, source, keys) select"
            f" {_sql.literal(model)}, {_sql.literal(capture.table)},"
            " pg_catalog.jsonb_agg(pg_catalog.to_jsonb(changed)) from changed"
            " having pg_catalog.count(*) > 0)"
        )

    compared = [*keys] + [
        f"{_comparable(quoted(name), capture.columns[name])} as c{i}"
        for i, name in enumerate(names)
    ]
    name = function_name(model, capture.table)
    values = {
        "function": name,
        "trigger": f"recsys_capture_{model}",
        "table": capture.table,
        "model": _sql.literal(model),
        "function_name": _sql.literal(name),
        "table_name": _sql.literal(capture.table),
        "search_path": f"pg_catalog, {path}, pg_temp",
        "items": item,
        "lookup": lookup,
        "keys": ", ".join(keys),
        "compared": ", ".join(compared),
        "old_keys": ", ".join(f"old.{key} as {key}" for key in keys),
        "new_keys": ", ".join(f"new.{key} as {key}" for key in keys),
        "old_key_texts": ", ".join(_as_text(f"old.{key}") for key in keys),
        "new_key_texts": ", ".join(_as_text(f"new.{key}") for key in keys),
        "old_compared": _differs("old", names, capture) or "0",
        "new_compared": _differs("new", names, capture) or "0",
    }
    text = _sql.render(
        f"capture/{'row' if capture.by_row else 'statement'}.sql", values
    )
    return f"{text}\nrevoke all on function recsys.{name}() from public;"


def _comparable(column: str, type_name: str) -> str:
    """Return an expression that differs whenever the column's value does.

    citext and collations that ignore case call changes equal; json has no equality.
    """
    return column if type_name in _BY_VALUE else _as_text(column)


def _as_text(column: str) -> str:
    return f'{column}::text collate "C"'


def _differs(row: str, names: Iterable[str], capture: TableCapture) -> str:
    """Return the columns of ``old`` or ``new`` as a list to compare; empty: none."""
    columns = capture.columns
    return ", ".join(_comparable(f"{row}.{quoted(n)}", columns[n]) for n in names)


def function_name(model: str, table: str) -> str:
    """Return the name of the trigger function of a model on a table."""
    digest = hashlib.sha256(table.encode()).hexdigest()[:8]
    return f"_capture__{model}__{digest}"


def is_column(item: str) -> bool:
    return COLUMN.fullmatch(item) is not None


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
