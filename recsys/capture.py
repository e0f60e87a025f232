"""Change capture: triggers on the application's tables that queue the keys of items.

Which columns the item source reads, Postgres itself knows: a temporary view over the
source records them. A trigger queues an item only when one of those columns changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import errors as pg
from psycopg import sql

from recsys import _sql, versions
from recsys._db import Connection
from recsys._reads import functions_read, used_columns
from recsys._triggers import (
    COLUMN,
    TableCapture,
    function_name,
    is_column,
    statements,
)
from recsys.config import ModelConfig
from recsys.errors import ConfigError, SourceError, UnknownModel
from recsys.rollout import locking

_ID_TYPES = {"bigint": ("smallint", "integer", "bigint"), "uuid": ("uuid",)}
"""Model's type of item ids -> types that hold them; as text, every type does."""


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
                hint=exc.diag.message_hint
                or "Run it as the owner of the tables, or: grant trigger on <table>"
                " to <role>;",
            ) from exc
        _forget_others(conn, config.name, report.tables)
        conn.execute(
            "select recsys._request_reconcile(%s, %s)",
            (config.name, "capture was installed"),
        )
    return report


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
    names = {function_name(model, capture.table): capture.table for capture in kept}
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
        try:
            if name in names:
                gone += _forget_renamed(conn, name, names[name])
                continue
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


def _forget_renamed(conn: Connection, function: str, table: str) -> list[str]:
    """Drop a kept function's triggers on a table that had the name before."""
    rows = conn.execute(
        "select t.tgname, n.nspname, c.relname from pg_catalog.pg_trigger as t"
        " join pg_catalog.pg_proc as p on p.oid = t.tgfoid"
        " join pg_catalog.pg_class as c on c.oid = t.tgrelid"
        " join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
        " where p.pronamespace = 'recsys'::regnamespace and p.proname = %s"
        " and t.tgparentid = 0 and t.tgrelid <> to_regclass(%s)",
        (function, table),
    ).fetchall()
    for trigger, schema, name in rows:
        conn.execute(
            sql.SQL("drop trigger {} on {}").format(
                sql.Identifier(trigger), sql.Identifier(schema, name)
            )
        )
    return sorted({name for _, _, name in rows})


def inspect(conn: Connection, config: ModelConfig) -> WatchReport:
    """Find out what to capture, without changing anything.

    Raises:
        ConfigError: The configuration watches nothing, or a mapping does not work.
        SourceError: The item source fails.
    """
    if not config.items.watch:
        raise _watches_nothing(conn, config)
    used: dict[str, dict[str, str]] = {}
    mapping: dict[str, str] = {}
    notes: list[str] = []
    _read_source(conn, config.items.sql, config.items.watch, (used, mapping), notes)
    seen = {config.items.sql}
    for version in versions.list_versions(conn, config.name):
        items = version.config.items
        live = version.state in ("building", "ready", "serving")
        if not live or items.sql in seen:
            continue
        seen.add(items.sql)
        watched = {**items.watch, **config.items.watch}
        try:
            _read_source(conn, items.sql, watched, (used, mapping), notes)
        except (ConfigError, SourceError) as exc:
            # doctor says so elsewhere; the others must be captured all the same.
            notes.append(f"version {version.number} is left out: {exc}")
    tables = [
        _table_capture(conn, config, table, item, used.get(table, {}), notes)
        for table, item in mapping.items()
    ]
    unwatched = sorted(set(used) - set(mapping))
    if unwatched:
        notes.append(
            f"the item source also reads {', '.join(unwatched)}: changes there are not "
            "captured. Add them to items.watch, or set items.updated_at"
        )
    notes += _open_schemas(conn)
    return WatchReport(config.name, tables, unwatched, notes)


def _open_schemas(conn: Connection) -> list[str]:
    """Say which schemas of the path let everybody make functions and operators."""
    rows = conn.execute(
        "select n.nspname from pg_catalog.pg_namespace as n"
        " where n.nspname = any (current_schemas(false)) and n.nspname <> 'pg_catalog'"
        " and exists (select from aclexplode(n.nspacl) as a where a.grantee = 0"
        " and a.privilege_type = 'CREATE') order by 1"
    ).fetchall()
    return [
        f"everybody may create in schema {name}, which is on the search_path: a query "
        "of items.watch may meet a function or operator made there, with your rights. "
        f"revoke create on schema {name} from public"
        for (name,) in rows
    ]


def _read_source(
    conn: Connection,
    source: str,
    watched: Mapping[str, str],
    found: tuple[dict[str, dict[str, str]], dict[str, str]],
    notes: list[str],
) -> None:
    """Add what a source reads and which tables are named to ``found`` and ``notes``."""
    used, mapping = found
    reads = used_columns(conn, source)
    functions = functions_read(conn, source)
    resolved = {_resolve(conn, name): item for name, item in watched.items()}
    for table, columns in reads.items():
        used.setdefault(table, {}).update(columns)
    notes += [note for note in functions if note not in notes]
    mapping.update(resolved)


def _watches_nothing(conn: Connection, config: ModelConfig) -> ConfigError:
    if config.items.updated_at:
        return ConfigError(
            f"[model.{config.name}.items] watches nothing, and nothing needs triggers: "
            f"the worker looks for newer {config.items.updated_at} every "
            f"{config.items.sweep_s} seconds",
            hint="recsys worker",
        )
    return ConfigError(
        f"[model.{config.name}.items] watches nothing",
        hint=_suggestion(conn, config, used_columns(conn, config.items.sql)),
    )


def _table_capture(
    conn: Connection,
    config: ModelConfig,
    table: str,
    item: str,
    used: Mapping[str, str],
    notes: list[str],
) -> TableCapture:
    kind, types, children, child = _relation(conn, table)
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
    keys, type_name = _keys_of(conn, table, item, types)
    if type_name not in _ID_TYPES.get(config.item_id, (type_name,)):
        raise ConfigError(
            f"items.watch takes the item ids of {table} from {item!r}, of type "
            f"{type_name}, and those of {config.name} are {config.item_id}",
            hint="Name the column that holds the item id, or cast it in a query: "
            f"select id::{config.item_id} from changed.",
        )
    if not used:
        notes.append(
            f"the item source does not name {table}: every change of its key columns "
            "is captured"
        )
    return TableCapture(table, item, dict(used), keys, by_row=kind == "p" or child)


def _keys_of(
    conn: Connection, table: str, item: str, types: Mapping[str, str]
) -> tuple[list[str], str]:
    """Return the columns that a mapping reads and the type it gives, after trying."""
    if is_column(item):
        if item not in types:
            raise ConfigError(
                f"{table} has no column {item!r}",
                hint=f"It has {', '.join(types)}.",
            )
        return [item], types[item]
    words = set(COLUMN.findall(item))
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
    described = cursor.description or ()
    if len(described) != 1 or not keys:
        raise ConfigError(
            f"the query of items.watch for {table} must return one column, the item "
            "id, and read 'changed'"
        )
    row = conn.execute(
        "select format_type(%s::oid, null)", (described[0].type_code,)
    ).fetchone()
    return keys, row[0] if row else ""


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


def _relation(conn: Connection, table: str) -> tuple[str, dict[str, str], bool, bool]:
    row = conn.execute(
        "select relkind::text, exists (select from pg_catalog.pg_inherits"
        " where inhparent = c.oid), exists (select from pg_catalog.pg_inherits"
        " where inhrelid = c.oid) from pg_catalog.pg_class as c"
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
    kind, children, child = row or ("", False, False)
    return kind, dict(columns), children, child


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
