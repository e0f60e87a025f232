"""What a source reads, as Postgres records it for a view over the source."""

from __future__ import annotations

from recsys import _sql
from recsys._db import Connection
from recsys._source import source_errors


def used_columns(conn: Connection, source: str) -> dict[str, dict[str, str]]:
    """Return the tables that a query reads, through views, and the columns of each.

    Returns:
        Qualified name -> column -> type.
    """
    with source_errors("items"), conn.transaction(force_rollback=True):
        conn.execute(
            _sql.trusted(
                f"create temp view recsys_source as select * from ({source}\n) s"
            )
        )
        rows = conn.execute(
            _sql.trusted(_sql.read("capture/used_columns.sql"))
        ).fetchall()
    used: dict[str, dict[str, str]] = {}
    for table, column, type_name in rows:
        used.setdefault(table, {})
        if column is not None:
            used[table][column] = type_name
    return used


def functions_read(conn: Connection, source: str) -> list[str]:
    with source_errors("items"), conn.transaction(force_rollback=True):
        conn.execute(
            _sql.trusted(
                f"create temp view recsys_source as select * from ({source}\n) s"
            )
        )
        rows = conn.execute(
            "select distinct p.oid::regproc::text"
            " from pg_catalog.pg_rewrite as r"
            " join pg_catalog.pg_depend as d on d.classid = 'pg_rewrite'::regclass"
            " and d.objid = r.oid and d.refclassid = 'pg_proc'::regclass"
            " join pg_catalog.pg_proc as p on p.oid = d.refobjid"
            " where r.ev_class = 'recsys_source'::regclass and p.provolatile <> 'i'"
            " and not exists (select from pg_catalog.pg_depend as e where e.objid ="
            " p.oid and e.deptype = 'e')"
        ).fetchall()
    return [
        f"the item source calls {name}(): what it reads is not captured"
        for (name,) in rows
    ]
