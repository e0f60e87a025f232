"""Change capture: triggers on the application's tables that queue the keys of items.

Which columns the item source reads, Postgres itself knows: a temporary view over the
source records them. A trigger queues an item only when one of those columns changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import errors as pg
from psycopg import sql

from recsys import _sql, versions
from recsys._db import Connection
from recsys._reads import functions_read, used_columns
from recsys.config import ModelConfig
from recsys.errors import ConfigError, SourceError, UnknownModel
from recsys.rollout import locking

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
_COLUMN = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TableCapture:
    """What is captured on one table for one model.

    Attributes:
        table: Schema-qualified and quoted name.
        item: A column of the table that holds the item id, or a query over
            ``changed``, the changed rows, that returns item ids.
        columns: Column -> type: the columns whose change concerns an item.
        keys: Columns that ``item`` reads; all are captured as they are.
        by_row: By row instead of by statement: for partitioned tables.
    """

    table: str
    item: str
    columns: Mapping[str, str]
    keys: Sequence[str]
    by_row: bool = False


@dataclass(frozen=True, slots=True)
class WatchReport:
    """What ``watch`` installed, and what it could not.

    Attributes:
        tables: What is captured now.
        unwatched: Relations that the item source reads and nothing captures.
        notes: Sentences for whoever runs the command.
    """

    model: str
    tables: Sequence[TableCapture]
    unwatched: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list[str])


def watch(conn: Connection, config: ModelConfig) -> WatchReport:
    """Install the capture triggers of a model, or bring them up to date.

    The triggers cover the configured item source and those of the versions that exist.
    Every item is queued once, because what changed before is unknown.

    Args:
        conn: An open connection of a role that owns the watched tables, or may put
            triggers on them; the caller commits.
        config: The model; ``items.watch`` names the tables.

    Raises:
        UnknownModel: No version of the model was ever trained.
        ConfigError: The configuration watches nothing, or a mapping does not work.
        SourceError: The item source fails, or the role may not make triggers.
        VersionStateError: A table is locked by others for more than five seconds.
    """
    require_model(conn, config.name)
    report = inspect(conn, config)
    with locking(conn, config.name):
        try:
            for statement in statements(conn, config.name, report.tables):
                conn.execute(_sql.trusted(statement))
        except pg.InsufficientPrivilege as exc:
            raise SourceError(
                f"this role may not capture changes: {exc.diag.message_primary}",
                hint="Run it as the owner of the tables, or: grant trigger on <table>"
                " to <role>;",
            ) from exc
        _forget_others(conn, config.name, report.tables)
        conn.execute(
            "select recsys._request_reconcile(%s, %s)",
            (config.name, "capture was installed"),
        )
    return report


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
    lookups = {t.table: t.item for t in tables if not _is_column(t.item)}
    # A migration names its tables one by one.
    known = "capture.lookups || " if conn is None else ""
    return [
        "insert into recsys.capture (model, lookups) values"
        f" ({_sql.literal(model)}, {_sql.literal(json.dumps(lookups))})"
        f" on conflict (model) do update set lookups = {known}excluded.lookups",
        *(_render(model, capture, path) for capture in tables),
    ]


def _render(model: str, capture: TableCapture, path: str) -> str:
    keys = [_quoted(key) for key in capture.keys]
    names = [name for name in capture.columns if name not in capture.keys]
    item = (
        f"select distinct changed.{_quoted(capture.item)}::text as item_id from changed"
    )
    lookup = ""
    if not _is_column(capture.item):
        item = (
            "select distinct mapped.item_id::text as item_id from"
            f" ({capture.item}\n) as mapped(item_id)"
        )
        lookup = (
            ", lookup as (insert into recsys.item_lookup (model, source, keys) select"
            f" {_sql.literal(model)}, {_sql.literal(capture.table)},"
            " jsonb_agg(to_jsonb(changed)) from changed having count(*) > 0)"
        )

    def compared(row: str, alias: bool) -> str:
        columns = [(key, f"{row}{key}") for key in keys] + [
            (f"c{i}", _comparable(f"{row}{_quoted(name)}", capture.columns[name]))
            for i, name in enumerate(names)
        ]
        return ", ".join(f"{e} as {n}" if alias else e for n, e in columns)

    name = function_name(model, capture.table)
    values = {
        "function": name,
        "trigger": f"recsys_capture_{model}",
        "table": capture.table,
        "model": _sql.literal(model),
        "search_path": f"{path}, pg_temp",
        "items": item,
        "lookup": lookup,
        "keys": ", ".join(keys),
        "compared": compared("", alias=True),
        "old_keys": ", ".join(f"old.{key} as {key}" for key in keys),
        "new_keys": ", ".join(f"new.{key} as {key}" for key in keys),
        "old_compared": compared("old.", alias=False),
        "new_compared": compared("new.", alias=False),
    }
    text = _sql.render(
        f"capture/{'row' if capture.by_row else 'statement'}.sql", values
    )
    return f"{text}\nrevoke all on function recsys.{name}() from public;"


def _comparable(column: str, type_name: str) -> str:
    """Return an expression that differs whenever the column's value does.

    citext and collations that ignore case call changes equal; json has no equality.
    """
    if type_name in _BY_VALUE:
        return column
    return f'{column}::text collate "C"'


def function_name(model: str, table: str) -> str:
    """Return the name of the trigger function of a model on a table."""
    digest = hashlib.sha256(table.encode()).hexdigest()[:8]
    return f"_capture__{model}__{digest}"


def switch(conn: Connection, model: str, *, enabled: bool, reason: str = "") -> None:
    """Switch the triggers of a model off or on; on again queues every item once.

    Raises:
        ConfigError: Nothing is captured for the model.
    """
    with locking(conn, model):
        conn.execute("select recsys.set_capture(%s, %s, %s)", (model, enabled, reason))


def unwatch(conn: Connection, model: str) -> list[str]:
    """Remove every capture trigger of a model.

    Returns:
        The tables that had one.

    Raises:
        SourceError: The role may not.
        VersionStateError: A table is locked by others for more than five seconds.
    """
    with locking(conn, model):
        tables = _forget_others(conn, model, ())
        conn.execute("delete from recsys.capture where model = %s", (model,))
    return tables


def _forget_others(
    conn: Connection, model: str, kept: Iterable[TableCapture]
) -> list[str]:
    """Drop the trigger functions of tables that are not kept, with their triggers."""
    names = {function_name(model, capture.table) for capture in kept}
    rows = conn.execute(
        "select p.proname, array_agg(distinct t.tgrelid::regclass::text)"
        " filter (where t.tgrelid is not null)"
        " from pg_catalog.pg_proc as p"
        " left join pg_catalog.pg_trigger as t on t.tgfoid = p.oid"
        " where p.pronamespace = 'recsys'::regnamespace"
        # In full: "shop" is also how the name of a model "shop__b" begins.
        " and p.proname ~ %s group by 1",
        (f"^_capture__{model}__[0-9a-f]{{8}}$",),
    ).fetchall()
    gone: list[str] = []
    for name, tables in rows:
        if name in names:
            continue
        try:
            conn.execute(
                sql.SQL("drop function {}() cascade").format(
                    sql.Identifier("recsys", name)
                )
            )
        except pg.InsufficientPrivilege as exc:
            raise SourceError(
                f"this role may not remove the capture of {', '.join(tables or [])}: "
                f"{exc.diag.message_primary}",
                hint="Run it as the role that ran 'recsys watch'.",
            ) from exc
        gone += tables or []
    return gone


def inspect(conn: Connection, config: ModelConfig) -> WatchReport:
    """Find out what to capture, without changing anything.

    Raises:
        ConfigError: The configuration watches nothing, or a mapping does not work.
        SourceError: The item source fails.
    """
    sources = {config.items.sql: config.items.watch}
    for version in versions.list_versions(conn, config.name):
        if version.state in ("building", "ready", "serving"):
            items = version.config.items
            sources.setdefault(items.sql, {**items.watch, **config.items.watch})
    if not config.items.watch:
        used = used_columns(conn, config.items.sql)
        raise ConfigError(
            f"[model.{config.name}.items] watches nothing",
            hint=_suggestion(conn, config, used),
        )
    used: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for source in sources:
        for table, columns in used_columns(conn, source).items():
            used.setdefault(table, {}).update(columns)
        notes += functions_read(conn, source)
    mapping: dict[str, str] = {}
    for watched in sources.values():
        mapping |= {_resolve(conn, name): item for name, item in watched.items()}
    tables = [
        _table_capture(conn, table, item, used.get(table, {}), notes)
        for table, item in mapping.items()
    ]
    unwatched = sorted(set(used) - set(mapping))
    if unwatched:
        notes.append(
            f"the item source also reads {', '.join(unwatched)}: changes there are not "
            "captured. Add them to items.watch, or set items.updated_at"
        )
    return WatchReport(config.name, tables, unwatched, notes)


def _table_capture(
    conn: Connection, table: str, item: str, used: Mapping[str, str], notes: list[str]
) -> TableCapture:
    kind, types, children = _relation(conn, table)
    if kind not in ("r", "p"):
        what = {"v": "a view", "m": "a materialised view", "f": "a foreign table"}
        raise ConfigError(
            f"{table} is {what.get(kind, 'no table')}: triggers do not see its changes",
            hint="Watch the tables behind it, or leave it out of items.watch and set "
            "items.updated_at: the worker then looks for changes by itself.",
        )
    if kind == "p":
        notes.append(
            f"{table} is partitioned: attaching, detaching or truncating a partition "
            "is not captured, and is found by the daily comparison of ids"
        )
    elif children:
        notes.append(
            f"{table} has child tables: what is written to them directly is not "
            "captured; watch them too"
        )
    keys = _keys_of(conn, table, item, types)
    if not used:
        notes.append(
            f"the item source does not name {table}: every change of its key columns "
            "is captured"
        )
    return TableCapture(table, item, dict(used), keys, by_row=kind == "p")


def _keys_of(
    conn: Connection, table: str, item: str, types: Mapping[str, str]
) -> list[str]:
    """Return the columns that a mapping reads, after trying it."""
    if _is_column(item):
        if item not in types:
            raise ConfigError(
                f"{table} has no column {item!r}",
                hint=f"It has {', '.join(types)}.",
            )
        return [item]
    words = set(_COLUMN.findall(item))
    keys = list(types) if "*" in item else [name for name in types if name in words]
    try:
        with conn.transaction():
            cursor = conn.execute(
                _sql.trusted(
                    f"with changed as (select * from {table} limit 0) select * from"
                    f" ({item}\n) as mapped limit 0"
                )
            )
    except (psycopg.ProgrammingError, psycopg.NotSupportedError) as exc:
        raise ConfigError(
            f"the query of items.watch for {table} fails: {exc.diag.message_primary}",
            hint="It reads the changed rows as 'changed', such as: select product.id"
            " from product join changed on product.brand_id = changed.id",
        ) from exc
    if len(cursor.description or ()) != 1 or not keys:
        raise ConfigError(
            f"the query of items.watch for {table} must return one column, the item "
            "id, and read 'changed'"
        )
    return keys


def _is_column(item: str) -> bool:
    return _COLUMN.fullmatch(item) is not None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def require_model(conn: Connection, model: str) -> None:
    """Refuse a model of which no version was ever trained.

    Raises:
        UnknownModel: No model of that name is registered.
    """
    known = "select from recsys.model where name = %s"
    if conn.execute(known, (model,)).fetchone() is None:
        raise UnknownModel(
            f"no model named {model!r} is registered",
            hint=f"Train it first: recsys train {model}",
        )


def _resolve(conn: Connection, name: str) -> str:
    row = conn.execute(
        "select format('%%I.%%I', n.nspname, c.relname) from pg_catalog.pg_class as c"
        " join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
        " where c.oid = to_regclass(%s)",
        (name,),
    ).fetchone()
    if row is None:
        raise ConfigError(
            f"items.watch names {name!r}, and there is no such table",
            hint="Write it as SQL would, such as shop.product.",
        )
    return row[0]


def _relation(conn: Connection, table: str) -> tuple[str, dict[str, str], bool]:
    row = conn.execute(
        "select relkind::text, exists (select from pg_catalog.pg_inherits"
        " where inhparent = c.oid) from pg_catalog.pg_class as c"
        " where c.oid = %s::regclass",
        (table,),
    ).fetchone()
    columns = conn.execute(
        "select attname, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null)"
        " from pg_catalog.pg_attribute as a"
        " join pg_catalog.pg_type as t on t.oid = a.atttypid"
        " where attrelid = %s::regclass and attnum > 0 and not attisdropped"
        " order by attnum",
        (table,),
    ).fetchall()
    kind, children = row or ("", False)
    return kind, dict(columns), children


def _suggestion(
    conn: Connection, config: ModelConfig, used: Mapping[str, Mapping[str, str]]
) -> str:
    """Propose the mapping of a source over one table with a key of one column."""
    fallback = (
        "Name the tables and which item a changed row concerns: watch = { product ="
        ' "id" }. Where triggers cannot be, set updated_at.'
    )
    if len(used) != 1:
        return fallback
    table = next(iter(used))
    row = conn.execute(
        "select a.attname from pg_catalog.pg_index as i"
        " join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid"
        " and a.attnum = i.indkey[0] where i.indrelid = %s::regclass"
        " and i.indisprimary and i.indnatts = 1",
        (table,),
    ).fetchone()
    if row is None:
        return fallback
    return f'Probably: watch = {{ "{table}" = "{row[0]}" }}, if that is the item id.'
