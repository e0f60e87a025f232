"""Commands that show versions, and what happens to them."""

from __future__ import annotations

from collections.abc import Sequence

import click
from psycopg.rows import dict_row

from recsys import schema, versions
from recsys._db import Connection, connect
from recsys._wording import counted
from recsys.cli.bars import say
from recsys.cli.output import Row, format_option, write_rows
from recsys.settings import Settings

# "*" marks what a table leaves out, to fit 80 columns; CSV and JSON have it all.
VERSION_COLUMNS = (
    "model", "number", "state", "*percent", "*dim", "item_count", "*coverage_percent",
    "*ef_search", "*ann_recall", "*parent", "recall", "ndcg", "popular", "created_at",
    "*error",
)  # fmt: skip
STATUS_COLUMNS = (
    "model", "number", "state", "phase", "*percent", "*rows_done", "*rows_total",
    "progress_percent", "eta", "coverage_percent", "*table_bytes", "*index_bytes",
    "error",
)  # fmt: skip


@click.command("versions")
@click.argument("model", required=False)
@format_option
@click.pass_obj
def versions_(settings: Settings, model: str | None, fmt: str) -> None:
    """List the versions of MODEL (default: of every model), newest first.

    recall, ndcg and popular (recall of the better popularity floor) are those of the
    validation slice, at 20.

    Example:

    \b
        recsys versions shop --format json
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        rows = _status_rows(conn, model)
        for row in rows:
            row.update(_headline(conn, row["model"], row["number"]))
    write_rows(rows, fmt, columns=_with_shares(VERSION_COLUMNS, rows))
    if not rows:
        say("No versions yet: recsys train MODEL")


def _with_shares(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Show who answers how much while two versions share the users."""
    shared = any(0 < row["percent"] < 100 for row in rows)
    return ["percent" if shared and c == "*percent" else c for c in columns]


def _status_rows(conn: Connection, model: str | None) -> list[Row]:
    if model is not None:
        versions.list_versions(conn, model)
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute(
            "select * from recsys.version_status"
            " where model = %(model)s or %(model)s::text is null"
            " order by model, number desc",
            {"model": model},
        ).fetchall()


def _headline(conn: Connection, model: str, number: int) -> Row:
    found = {
        (method, metric): value
        for method, metric, value in conn.execute(
            "select method, metric, value from recsys.version_metric where model = %s"
            " and number = %s and slice = 'validation' and metric like '%%@20'",
            (model, number),
        )
    }
    floors = [
        v
        for (m, name), v in found.items()
        if m not in ("model", "parent") and "recall" in name
    ]
    row = conn.execute(
        "select (spec ->> 'parent')::int from recsys.model_version"
        " where model = %s and number = %s",
        (model, number),
    ).fetchone()
    return {
        "parent": row[0] if row else None,
        "recall": found.get(("model", "recall@20")),
        "ndcg": found.get(("model", "ndcg@20")),
        "popular": max(floors, default=None),
    }


@click.command()
@format_option
@click.pass_obj
def status(settings: Settings, fmt: str) -> None:
    """Show what every version is doing: progress, coverage, size, errors.

    A line below says what waits for the workers, for models that are watched, swept or
    have something waiting or failed.

    Example:

    \b
        recsys status
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        rows = _status_rows(conn, None)
        lines = [*_ramp_lines(conn), *_change_lines(conn), *_update_lines(conn)]
    write_rows(rows, fmt, columns=_with_shares(STATUS_COLUMNS, rows))
    if not rows:
        say("No versions yet: recsys train MODEL")
    for line in lines:
        say(line)


def _ramp_lines(conn: Connection) -> list[str]:
    """Say where each ramp stands, and who an experiment serves."""
    ramps = conn.execute(
        "select format('%s: version %s answers %s %%, step %s of %s, the next %s',"
        " model, number, trim_scale(percent), ramp_step, cardinality(ramp_steps),"
        " case when ramp_next_at <= now() then 'is due'"
        " else 'at ' || to_char(ramp_next_at, 'YYYY-MM-DD HH24:MI:SS TZ') end)"
        " from recsys.rollout_status where ramp_next_at is not null order by 1"
    ).fetchall()
    experiments = conn.execute(
        "select format('%s: experiment %s serves %s %% of the users by itself', model,"
        " name, trim_scale(traffic)) from recsys.experiment where state = 'running'"
        " order by 1"
    ).fetchall()
    return [line for (line,) in [*ramps, *experiments]]


def _change_lines(conn: Connection) -> list[str]:
    with conn.cursor(row_factory=dict_row) as cur:
        rows = cur.execute(
            "select *, date_trunc('second', lag)::text as waited"
            " from recsys.change_status where triggers > 0 or swept_to is not null"
            " or backlog > 0 or retrying > 0 or dead_letters > 0 order by model"
        ).fetchall()
    return [_change_line(row) for row in rows]


def _change_line(row: Row) -> str:
    """Say in at most 80 characters, for short names, what waits and what failed."""
    parts = ["nothing waits"]
    if row["backlog"]:
        more = "more than " if row["backlog_capped"] else ""
        noun = "change waits" if row["backlog"] == 1 else "changes wait"
        parts = [f"{more}{row['backlog']:,} {noun} ({row['waited']})"]
    how = {
        "triggers": "captured by triggers",
        "off": "capture is off",
        "sweep": "swept",
    }
    parts.append(how[row["capture"]])
    parts.append(_counted(row["workers"], "worker"))
    if row["retrying"]:
        parts.append(f"{row['retrying']:,} retrying")
    if row["dead_letters"]:
        parts.append(_counted(row["dead_letters"], "dead letter"))
    return f"{row['model']}: {', '.join(parts)}"


def _update_lines(conn: Connection) -> list[str]:
    """Say what the newest incremental update of each serving version did."""
    rows = conn.execute(
        "select distinct on (u.model, u.number) u.model, u.number, u.state,"
        " date_trunc('second', now() - u.began_at)::text, u.trained, u.ndcg"
        " from recsys.update_log as u join recsys.rollout as r using (model, number)"
        " order by u.model, u.number, u.id desc"
    ).fetchall()
    return [
        f"{model}: version {number} update {state} {ago} ago,"
        f" {counted(trained, 'interaction')}"
        + (f", ndcg before {ndcg:.4f}" if ndcg is not None else "")
        for model, number, state, ago, trained, ndcg in rows
    ]


def _counted(n: int, noun: str) -> str:
    return counted(n, noun) if n else f"no {noun}"
