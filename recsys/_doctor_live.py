"""doctor's checks of change capture, queue, workers and periodic tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row

from recsys import capture, versions
from recsys._db import Connection
from recsys._finding import Finding
from recsys._wording import counted
from recsys.config import ModelConfig
from recsys.errors import ConfigError, RecsysError

_LATE = "interval '1 minute'"
_LONG = "interval '10 minutes'"
_DUE = f"next_at < now() - {_LONG}"


def examine(
    conn: Connection, configured: Mapping[str, ModelConfig]
) -> Iterator[Finding]:
    """Check how changes reach the versions of every model.

    Args:
        conn: An autocommit connection; a role that may not look gets no findings.
        configured: The models of recsys.toml; others are judged by their newest
            version.
    """
    try:
        with conn.cursor(row_factory=dict_row) as cur:
            rows = cur.execute(
                f"select s.*, c.reason, s.lag > {_LATE} as late,"
                f" s.lag > {_LONG} as old,"
                " (select max(a.at) < now() - "
                f"{_LONG} from recsys.audit as a where a.model = s.model"
                " and a.kind = 'capture') as asked_long_ago"
                " from recsys.change_status as s"
                " left join recsys.capture as c on c.model = s.model order by s.model"
            ).fetchall()
            failed = cur.execute(
                "select task, model, error from recsys.schedule"
                " where error is not null order by task, model"
            ).fetchall()
            idle = cur.execute(
                f"select (select count(*) from recsys.schedule where {_DUE}) as tasks,"
                " array(select r.model from recsys.ramp as r"
                f" where {_DUE} and not exists (select from recsys.schedule as s"
                " where s.task = 'ramp' and s.model = r.model"
                f" and s.ran_at > now() - {_LONG}) order by 1) as ramps"
                " where not exists (select from recsys.worker"
                f" where seen_at > now() - {_LATE})"
            ).fetchall()
    except psycopg.errors.InsufficientPrivilege:
        return
    for row in rows:
        model = row["model"]
        yield from _captured(conn, row, configured.get(model))
        yield from _queue(f"{model} changes", row)
    yield from _idle(idle)
    for row in failed:
        yield Finding(
            f"task {row['task']} {row['model']}".strip(),
            "warn",
            row["error"],
            "The worker tries again; 'select * from recsys.schedule' shows when.",
        )


def _idle(rows: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """Say what waits for a worker besides changes; no rows: one runs."""
    for row in rows:
        if row["ramps"]:
            yield Finding(
                "ramp",
                "warn",
                f"the next step of {', '.join(row['ramps'])} is overdue, and no worker"
                " runs",
                "recsys worker",
            )
        if row["tasks"]:
            yield Finding(
                "tasks",
                "warn",
                f"{row['tasks']} periodic tasks are overdue, and no worker runs",
                "recsys worker",
            )


def _captured(
    conn: Connection, row: Mapping[str, Any], config: ModelConfig | None
) -> Iterator[Finding]:
    model = row["model"]
    check = f"{model} capture"
    known = versions.list_versions(conn, model)
    if not known:
        if row["triggers"]:
            yield Finding(
                check,
                "warn",
                f"{counted(row['triggers'], 'trigger')} of a model without versions",
                f"recsys unwatch {model}",
            )
        return
    wanted = config or known[0].config
    if not wanted.items.watch:
        how = "swept by updated_at" if wanted.items.updated_at else "by backfill only"
        yield Finding(check, "ok", f"not watched: changes are found {how}")
    elif not row["triggers"]:
        yield Finding(
            check,
            "warn",
            "items.watch names tables, and no enabled trigger stands on them",
            f"recsys watch {model}",
        )
    elif row["capture"] == "off":
        yield Finding(
            check,
            "warn",
            "switched off: changes do not reach the versions",
            f"recsys watch {model} --on",
        )
    else:
        yield from _up_to_date(conn, check, wanted)


def _up_to_date(conn: Connection, check: str, config: ModelConfig) -> Iterator[Finding]:
    try:
        report = capture.inspect(conn, config)
    except ConfigError as exc:
        yield Finding(check, "fail", str(exc), exc.hint)
        return
    except RecsysError:
        return  # the source itself fails: doctor says so elsewhere
    stale = [t.table for t in report.tables if not _installed(conn, config.name, t)]
    if stale:
        yield Finding(
            check,
            "warn",
            f"the triggers on {', '.join(stale)} do not fit the item source any more,"
            " or somebody switched them off or changed them",
            f"recsys watch {config.name}",
        )
    elif report.unwatched and not config.items.updated_at:
        yield Finding(
            check,
            "warn",
            f"{', '.join(report.unwatched)} is read, and its changes are not captured",
            "Add it to items.watch, or set items.updated_at.",
        )
    else:
        yield Finding(check, "ok", "triggers on every table that the items come from")


def _installed(conn: Connection, model: str, table: capture.TableCapture) -> bool:
    """Whether function and triggers are what ``watch`` would install now."""
    (_, text) = capture.statements(None, model, [table])
    row = conn.execute(
        "select p.prosrc = %(body)s and p.prosecdef"
        " and p.proconfig::text ~ 'search_path=pg_catalog,'"
        " and has_table_privilege(p.proowner, %(table)s, 'trigger')"
        " and count(distinct t.tgname) filter (where t.tgrelid = to_regclass(%(table)s)"
        " and t.tgenabled in ('O', 'A') and (t.tgtype & 1 = 1) = (%(by_row)s"
        " and t.tgname not like '%%truncate')) = 4"
        # The table had another name, and another one has this name now.
        " and count(*) filter (where t.tgparentid = 0"
        " and t.tgrelid <> to_regclass(%(table)s)) = 0"
        " from pg_catalog.pg_proc as p"
        " left join pg_catalog.pg_trigger as t on t.tgfoid = p.oid"
        " where p.pronamespace = 'recsys'::regnamespace and p.proname = %(function)s"
        " group by p.oid",
        {
            "body": text.split("$capture$")[1],
            "table": table.table,
            "by_row": table.by_row,
            "function": capture.function_name(model, table.table),
        },
    ).fetchone()
    return row is not None and bool(row[0])


def _queue(check: str, row: Mapping[str, Any]) -> Iterator[Finding]:
    model = row["model"]
    waits = (
        f"{row['backlog']}{' or more' if row['backlog_capped'] else ''} changes wait"
    )
    if row["late"] and not row["workers"]:
        yield Finding(check, "warn", f"{waits}, and no worker runs", "recsys worker")
    elif row["old"]:
        yield Finding(
            check,
            "warn",
            f"{waits}, the oldest for {row['lag']}",
            "Start more workers; their log says what keeps them.",
        )
    if row["reconcile_pending"] and row["asked_long_ago"]:
        yield Finding(
            check,
            "warn",
            f"every item is to be queued ({row['reason']}), and nothing did",
            "It needs a worker, and waits for older transactions:"
            " select pid, xact_start, query from pg_stat_activity order by 2;",
        )
    if row["retrying"]:
        yield Finding(
            check,
            "warn",
            counted(row["retrying"], "item failed and is", "items failed and are")
            + " tried again",
            "select number, item_id, error, retry_at from recsys.item_failure;",
        )
    if row["dead_letters"]:
        yield Finding(
            check,
            "warn",
            counted(row["dead_letters"], "item was", "items were") + " given up",
            "select * from recsys.dead_letter; mend what it names, then "
            f"recsys retry {model}",
        )
