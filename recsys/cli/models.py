"""Commands over models and their versions."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click
from psycopg.rows import dict_row

from recsys import (
    artifacts,
    evaluate,
    newcomers,
    pipeline,
    revisions,
    schema,
    versions,
)
from recsys import backfill as filling
from recsys import config as configuration
from recsys._db import Connection, connect
from recsys.cli import _malloc
from recsys.cli.bars import Bars, say
from recsys.cli.output import Row, format_option, write_rows
from recsys.cli.updates import update_now
from recsys.errors import ConfigError, VersionStateError
from recsys.report.verdict import verdicts
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


class Moment(click.ParamType[datetime]):
    """A date or time; without a zone it is UTC."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Read ISO 8601."""
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-03-01T12:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Lengths(click.ParamType[tuple[int, ...]]):
    """Lengths of vectors, such as 64,32,16."""

    name = "lengths"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Read whole numbers between commas."""
        if isinstance(value, tuple):
            return cast(tuple[int, ...], value)
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list such as 64,32,16", param, ctx)


@click.command()
@click.argument("model")
@click.option("--until", type=Moment(), help="Leave out interactions from then on.")
@click.option("--apply", is_flag=True, help="Also upgrade, backfill, index, verify.")
@click.option("--no-revision", is_flag=True, help="Make the version without a file.")
@click.option("--full", is_flag=True, help="Go on from the version that serves.")
@click.option("--from", "parent", type=int, help="With --full: from this version.")
@click.option("--distil-from", type=int, help="Also learn from this larger version.")
@click.option("--incremental", is_flag=True, help="Only move learned rows of it.")
@click.option(
    "--max-load",
    default=1.0,
    show_default=True,
    help="With --incremental: share of the time to write vectors.",
)
@click.option("--budget", type=float, help="Seconds for tuning and fitting.")
@click.option("--seed", type=int, help="Seed of every random choice.")
@click.option(
    "--dims", type=Lengths(), default=(), help="Such as 64,32: nested lengths."
)
@click.option("--device", help="cpu, cuda, or auto for the faster that is there.")
@click.option(
    "--checkpoint",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps the state of the fit until it is done.",
)
@click.option("--resume", is_flag=True, help="Go on with the state in --checkpoint.")
@format_option
@click.pass_obj
def train(
    settings: Settings,
    model: str,
    until: datetime | None,
    apply: bool,
    no_revision: bool,
    full: bool,
    parent: int | None,
    distil_from: int | None,
    incremental: bool,
    max_load: float,
    budget: float | None,
    seed: int | None,
    dims: tuple[int, ...],
    device: str | None,
    checkpoint: Path | None,
    resume: bool,
    fmt: str,
) -> None:
    """Train a new version of MODEL and write its revision file.

    The version is not built before 'recsys upgrade' and 'recsys backfill' (or
    --apply), and nobody is served by it before 'recsys promote'. --full goes on
    from the version that serves, on what came since it was trained. --incremental makes
    no version: it moves the learned rows of those that serve. Under torchrun several
    processes fit together.

    Example:

    \b
        recsys train shop
        recsys train shop --apply --until 2026-03-01
        recsys train shop --full --apply
        recsys train shop --dims 32 --distil-from 7
        recsys train shop --checkpoint state --resume
        recsys train shop --incremental
    """
    if parent is not None and not full:
        raise ConfigError("--from goes with --full")
    if incremental:
        given = (
            full, parent, apply, no_revision, until, budget, seed, device, checkpoint,
            distil_from,
        )  # fmt: skip
        if any(value not in (None, False) for value in given):
            raise ConfigError("--incremental makes no version: use it alone")
        if not 0 < max_load <= 1:
            raise ConfigError(f"--max-load must be above 0 and up to 1: {max_load}")
        update_now(settings, model, max_load, fmt)
        return
    _malloc.use_arena_settings()
    with pipeline.processes() as leads:
        if not leads:
            return
        project = configuration.load(settings.config)
        with _what_is_kept(checkpoint, model):
            trained = pipeline.train_version(
                settings.dsn,
                project,
                model,
                until=until,
                revision=not no_revision,
                full=full,
                parent=parent,
                distil_from=distil_from,
                budget_s=budget,
                seed=seed,
                dims=dims,
                device=device,
                checkpoint=checkpoint,
                resume=resume,
                progress=Bars(),
            )
    number = trained.plan.number
    write_rows(_metric_rows(model, number, trained.plan.metrics), fmt, columns=METRIC)
    for verdict in verdicts(trained.report):
        say(f"{model} {number}: {verdict}")
    if trained.revision:
        say(f"Wrote {trained.revision}")
    if apply:
        if trained.revision:
            schema.upgrade(settings.dsn, project.versions)
        _backfill(settings, model, number)
    elif trained.revision:
        say(f"Next: recsys upgrade && recsys backfill {model} {number}")
    else:
        say(f"Next: recsys backfill {model} {number}")


@contextmanager
def _what_is_kept(folder: Path | None, model: str) -> Generator[None]:
    """Say at Ctrl-C whether the fit can be gone on with."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is not None and (folder / f"{model}.safetensors").exists():
            say(f"The fit is kept: --checkpoint {folder} --resume goes on with it.")
        raise


METRIC = ("model", "number", "slice", "method", "metric", "value")


def _warn_of_seen(conn: Connection, model: str, number: int, after: datetime) -> None:
    """Warn when the version has learned from what it is asked about."""
    end = versions.get(conn, model, number).spec.get("trained_until")
    if end is None:
        return
    begin = after.replace(tzinfo=after.tzinfo or UTC)
    if datetime.fromisoformat(str(end)) > begin:
        say(
            f"Warning: version {number} was trained on data up to {end}, so it has seen"
            f" hits that it is asked for. For a fair number train one with"
            f" --until {begin.isoformat()}."
        )


def _metric_rows(
    model: str, number: int, metrics: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    return [
        {"model": model, "number": number, "slice": slice_name, "method": method,
         "metric": name, "value": value}
        for slice_name, methods in metrics.items()
        for method, values in methods.items() if isinstance(values, Mapping)
        for name, value in cast(Mapping[str, float], values).items()
    ]  # fmt: skip


def _backfill(
    settings: Settings,
    model: str,
    number: int | None,
    workers: int = 1,
    max_load: float = 1.0,
) -> None:
    if number is None:
        _name_waiting(settings, model)
    report = filling.backfill(
        settings.dsn,
        model,
        number,
        workers=workers,
        max_load=max_load,
        progress=Bars(),
    )
    say(
        f"Version {report.number} of {model} is ready: {report.item_count:,} items, "
        f"ANN recall@20 {report.ann_recall:.3f} at ef_search {report.ef_search}"
    )
    with connect(settings.dsn) as conn:
        serving = versions.serving_number(conn, model)
    if serving is None:
        say(f"Next: recsys promote {model} {report.number}")
    elif serving != report.number:
        say(f"Next: recsys compare {model} {report.number}, then recsys promote")


def _name_waiting(settings: Settings, model: str) -> None:
    """Refuse to backfill the newest version while a newer one has only its file."""
    try:
        folder = configuration.load(settings.config).versions
    except ConfigError:
        return  # a machine that only serves has no recsys.toml
    with connect(settings.dsn) as conn:
        waiting = revisions.waiting(conn, folder, model)
    if waiting:
        raise VersionStateError(
            f"version {waiting[-1]} of model {model!r} has a revision file that was"
            " not applied",
            hint="Run 'recsys upgrade' first, or name the version to backfill.",
        )


@click.command()
@click.argument("model")
@click.argument("number", type=int, required=False)
@click.option("--workers", default=1, show_default=True, help="Encoding threads.")
@click.option(
    "--max-load",
    default=1.0,
    show_default=True,
    help="Share of the time each thread works, and below 1 a one-process index build.",
)
@click.pass_obj
def backfill(
    settings: Settings, model: str, number: int | None, workers: int, max_load: float
) -> None:
    """Fill version NUMBER of MODEL (default: the newest): load, index, verify.

    Safe to repeat: it goes on where it stopped, and gives new items their vector. With
    'recsys watch' and 'recsys worker', changes reach the version while it is filled.

    Example:

    \b
        recsys backfill shop 2
        recsys backfill shop 2 --workers 4 --max-load 0.5
    """
    _backfill(settings, model, number, workers, max_load)


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


@click.command("evaluate")
@click.argument("model")
@click.argument("number", type=int, required=False)
@click.option("--holdout", type=click.Path(path_type=Path), help="user_id,item_id CSV.")
@click.option("--after", type=Moment(), help="Hits: interactions from then on.")
@click.option("-k", default=20, show_default=True, help="List length, 1 to 1000.")
@click.option("--exact", is_flag=True, help="Also rank with an exact scan.")
@click.option("--new-users", is_flag=True, help="Only users who came after --after.")
@click.option("--cold", is_flag=True, help="Only hits on items new to the version.")
@click.option("--segments", is_flag=True, help="Also parts of the users and items.")
@click.option("--store", "slice_name", help="Keep the metrics under this name.")
@format_option
@click.pass_obj
def evaluate_(
    settings: Settings,
    model: str,
    number: int | None,
    holdout: Path | None,
    after: datetime | None,
    k: int,
    exact: bool,
    new_users: bool,
    cold: bool,
    segments: bool,
    slice_name: str | None,
    fmt: str,
) -> None:
    """Measure a version of MODEL (default: the serving one) on what came later.

    Ranks the full catalogue through the served path; popularity stands beside it.

    Example:

    \b
        recsys evaluate gowalla --holdout test.csv -k 20 --exact
        recsys evaluate shop 1 --after 2026-03-01 --segments
        recsys evaluate shop 1 --after 2026-03-01 --cold
    """
    if (holdout is None) == (after is None):
        raise ConfigError("pass either --holdout FILE or --after TIME")
    if new_users and (after is None or exact or cold):
        raise ConfigError(
            "--new-users goes with --after TIME, and without --exact and --cold"
        )
    with connect(settings.dsn) as conn:
        if number is None:
            number = versions.serving_number(conn, model)
        if number is None:
            number = versions.newest(conn, model, states=("ready",))
        if after is not None:
            _warn_of_seen(conn, model, number, after)
        if new_users and after is not None:
            result = newcomers.measure(conn, model, number, after, k=k, progress=Bars())
        else:
            if holdout is not None:
                config = versions.get(conn, model, number).config
                expected = evaluate.from_csv(holdout, config)
            else:
                moment = after or datetime.now(UTC)
                expected = evaluate.after(conn, model, number, moment, cold=cold)
            result = evaluate.evaluate(
                conn,
                model,
                number,
                expected,
                k=k,
                exact=exact,
                cold=cold,
                segments=segments,
                progress=Bars(),
            )
        if slice_name:
            evaluate.store(conn, result, slice_name)
    say(f"{result.users:,} users, {result.hits:,} hits, k = {k}")
    name = slice_name or "holdout"
    parts = {f"{name}: {part}": each for part, each in result.segments.items()}
    rows = _metric_rows(model, number, {name: result.metrics, **parts})
    write_rows(rows, fmt, columns=METRIC)


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
        f"{model}: version {number} update {state} {ago} ago, {trained:,} interactions"
        + (f", ndcg before {ndcg:.4f}" if ndcg is not None else "")
        for model, number, state, ago, trained, ndcg in rows
    ]


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}" if n else f"no {noun}"


@click.group("artifacts")
def artifacts_() -> None:
    """Carry the files of a version from one database to another."""


@artifacts_.command("export")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--number", type=int, help="Only this version; default: every one.")
@click.pass_obj
def export(settings: Settings, model: str, folder: Path, number: int | None) -> None:
    """Write the artifacts of the versions of MODEL to FOLDER.

    Model revisions are a chain: a database that runs them from the start needs the
    artifacts of all.

    Example:

    \b
        recsys artifacts export shop ./artifacts
    """
    with connect(settings.dsn) as conn:
        if number is not None:
            versions.get(conn, model, number)
        files = [
            file
            for version in versions.list_versions(conn, model)
            if number in (None, version.number)
            for file in artifacts.export_version(conn, model, version.number, folder)
        ]
    say(f"Wrote {len(files)} files to {folder}")


@artifacts_.command("import")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.pass_obj
def import_(settings: Settings, folder: Path) -> None:
    """Store the artifacts of FOLDER in this database.

    Example:

    \b
        recsys artifacts import ./artifacts
    """
    with connect(settings.dsn) as conn:
        schema.check(conn)
        hashes = artifacts.import_folder(conn, folder)
    say(f"Stored {len(hashes)} artifacts")
