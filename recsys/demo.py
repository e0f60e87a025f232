"""The whole path once: data, schema, training, backfill, switch, recommendations.

``recsys demo`` is what a newcomer runs first. Every step is one call of the library,
the same that the other commands make. A second run finds what is there and only shows.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from recsys import (
    _preset,
    _show,
    _sql,
    embedded,
    evaluate,
    pipeline,
    rollout,
    schema,
    versions,
)
from recsys import backfill as filling
from recsys import config as configuration
from recsys._db import Connection, connect
from recsys._preset import Preset
from recsys._wording import counted
from recsys.cli.bars import Bars, console
from recsys.config import ModelConfig, ProjectConfig
from recsys.errors import ConfigError
from recsys.evaluate import Evaluation, Holdout
from recsys.settings import Settings, names_a_server
from recsys.versions import ModelVersion

FOLDER = Path(".recsys")
"""What the demo makes, below the current folder: server, configuration, revisions."""
SLICE = "holdout"


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where the demo runs.

    Attributes:
        dsn: Connection string.
        project: The recsys.toml of this database; it declares the preset's model.
        preset: What to import, train and show.
    """

    dsn: str
    project: ProjectConfig
    preset: Preset

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.project.model(self.preset.model)


def run(settings: Settings, *, data: Path | None = None, fresh: bool = False) -> None:
    """Run the demo; steps that were done before are skipped.

    Args:
        settings: Names a server, else the embedded one is used.
        data: Folder of a data set that has a preset; default the synthetic shop.
        fresh: Start over with new data and a new version; embedded server only.

    Raises:
        ConfigError: No preset fits, or ``fresh`` on a server of the user's own.
        RecsysError: A step failed; what was done before it stays and is reused.
    """
    preset = _preset.find(data)
    with _step(1, "Postgres") as say:
        dsn = _server(settings, preset, fresh=fresh)
        with connect(dsn) as conn:
            work = Workplace(dsn, _project(conn, preset), preset)
            say(_server_name(conn, settings))
    with _step(2, "Data") as say:
        say(_load(work))
    with _step(3, "Schema") as say:
        schema.upgrade(dsn, work.project.versions)
        _let_trainers_read(work)
        say(f"recsys revision {schema.CORE_REVISION}")
    with _step(4, "Training") as say:
        number, done = _train(work)
        say(done)
    with _step(5, "Vectors and index") as say:
        say(_fill(work, number))
    with _step(6, "Evaluation") as say:
        holdout, evaluation = _evaluate(work, number)
        say(f"{counted(evaluation.users, 'user')}, {counted(evaluation.hits, 'hit')}")
    case = _show.show(work.dsn, work.config, preset, number, holdout, evaluation)
    _show.commands(
        preset,
        case,
        dsn=dsn if _uses_embedded(settings) else None,
        config=work.project.path,
    )


def stop_server(settings: Settings) -> bool:
    """Stop the embedded server: the one below this folder, or that of the DSN.

    Returns:
        Whether one was running.
    """
    folder = FOLDER / "pgdata"
    host = conninfo_to_dict(settings.dsn).get("host") if settings.dsn else None
    if host and Path(str(host), "postmaster.pid").exists():
        folder = Path(str(host))
    return embedded.stop(folder)


@contextmanager
def _step(number: int, name: str) -> Generator[_Say]:
    """Print one line when the step ends: what it did and how long it took."""
    say = _Say()
    start = time.perf_counter()
    console.print(f"[bold]{number}/6 {name}[/bold]")
    yield say
    took = time.perf_counter() - start
    done = f"  {say.text} [dim]({took:.1f} s)[/dim]"
    console.print(done, highlight=False, soft_wrap=True)


class _Say:
    text = ""

    def __call__(self, text: str) -> None:
        self.text = text


def _uses_embedded(settings: Settings) -> bool:
    return not settings.dsn and not names_a_server()


def _server(settings: Settings, preset: Preset, *, fresh: bool) -> str:
    """Return the DSN of the server; the embedded one has a database per model."""
    if not _uses_embedded(settings):
        if fresh:
            raise ConfigError(
                "--fresh does not drop anything on a server of your own",
                hint="Create another database and name it in RECSYS_DSN.",
            )
        return settings.dsn
    if fresh:
        _forget(preset)
    return embedded.start(FOLDER / "pgdata", database=preset.model)


def _forget(preset: Preset) -> None:
    with connect(embedded.start(FOLDER / "pgdata"), autocommit=True) as conn:
        statement = sql.SQL("drop database if exists {} with (force)")
        conn.execute(statement.format(sql.Identifier(preset.model)))
    for folder in FOLDER.glob(f"{preset.model}-*"):
        shutil.rmtree(folder)


def _project(conn: Connection, preset: Preset) -> ProjectConfig:
    """Return the configuration of this database, with the preset's model added.

    Model revisions are written beside it. They belong to one database, so the folder
    carries its oid: a database made again under the same name starts without them.
    """
    row = conn.execute(
        "select datname || '-' || oid from pg_database"
        " where datname = current_database()"
    ).fetchone()
    path = FOLDER / str(row[0] if row else "") / "recsys.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    declared = path.exists() and preset.model in configuration.load(path).models
    if not declared:
        with path.open("a", encoding="utf-8") as file:
            file.write((preset.folder / "recsys.toml").read_text("utf-8"))
    return configuration.load(path)


def _server_name(conn: Connection, settings: Settings) -> str:
    row = conn.execute("show server_version").fetchone()
    place = f"embedded, in {FOLDER}/" if _uses_embedded(settings) else "yours"
    return f"Postgres {row[0].split()[0] if row else ''}, {place}"


def _load(work: Workplace) -> str:
    with connect(work.dsn) as conn:
        loaded = _preset.is_loaded(conn, work.config)
        if not loaded:
            _preset.load(conn, work.preset, Bars())
            conn.commit()
        counts = [
            conn.execute(_sql.trusted(f"select count(*) from ({text}\n) as source"))
            for text in (work.config.items.sql, work.config.interactions.sql)
        ]
        items, events = (row[0] for row in (c.fetchone() for c in counts) if row)
    how = "found" if loaded else "loaded"
    return f"{how} {counted(items, 'item')}, {counted(events, 'interaction')}"


def _let_trainers_read(work: Workplace) -> None:
    """Grant recsys_trainer, as which the SQL functions run, the preset's tables."""
    config = work.config
    with connect(work.dsn) as conn:
        role = conn.execute("select to_regrole('recsys_trainer')").fetchone()
        if role is None or role[0] is None:
            return
        for text in filter(
            None, (config.items.sql, config.users.sql, config.interactions.sql)
        ):
            # A view depends on exactly what its query reads.
            conn.execute(_sql.trusted(f"create temp view reads as {text}"))
            tables = conn.execute(
                "select distinct d.refobjid::regclass::text"
                " from pg_rewrite as r join pg_depend as d on d.objid = r.oid"
                " where r.ev_class = 'pg_temp.reads'::regclass"
                " and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class"
            ).fetchall()
            conn.execute("drop view pg_temp.reads")
            for (table,) in tables:
                conn.execute(_sql.trusted(f"grant select on {table} to recsys_trainer"))


def _train(work: Workplace) -> tuple[int, str]:
    """Return the version to show: the serving or newest one, else a new one."""
    model = work.preset.model
    with connect(work.dsn) as conn:
        known = conn.execute(
            "select number, state from recsys.model_version where model = %s"
            " and state in ('building', 'ready', 'serving')"
            " order by state = 'serving' desc, number desc limit 1",
            (model,),
        ).fetchone()
    if known is not None:
        return known[0], f"found version {known[0]}, {known[1]}"
    trained = pipeline.train_version(
        work.dsn, work.project, model, until=work.preset.until, progress=Bars()
    )
    schema.upgrade(work.dsn, work.project.versions)
    return trained.plan.number, f"version {trained.plan.number}: {trained.revision}"


def _fill(work: Workplace, number: int) -> str:
    """Backfill, index, verify and promote, as far as that is still to do."""
    model = work.preset.model
    with connect(work.dsn) as conn:
        version = versions.get(conn, model, number)
    if version.state == "building":
        filling.backfill(work.dsn, model, number, progress=Bars())
    with connect(work.dsn) as conn:
        if version.state != "serving":
            rollout.promote(conn, model, number, reason="recsys demo")
        conn.commit()
        version = versions.get(conn, model, number)
    return (
        f"{version.item_count:,} vectors, recall@20 of the index "
        f"{version.ann_recall:.3f} at ef_search {version.ef_search}; version "
        f"{number} serves"
    )


def _evaluate(work: Workplace, number: int) -> tuple[Holdout, Evaluation]:
    """Measure the version on what came later, once: the numbers stay with it."""
    preset = work.preset
    with connect(work.dsn) as conn:
        version = versions.get(conn, preset.model, number)
        if preset.until is not None:
            holdout = evaluate.after(conn, preset.model, number, preset.until)
        else:
            holdout = evaluate.from_csv(preset.data / preset.holdout, work.config)
        if SLICE in version.metrics:
            return holdout, _remembered(version, holdout)
        found = evaluate.evaluate(conn, preset.model, number, holdout, progress=Bars())
        evaluate.store(conn, found, SLICE)
        conn.commit()
    return holdout, found


def _remembered(version: ModelVersion, holdout: Holdout) -> Evaluation:
    return Evaluation(
        model=version.model,
        number=version.number,
        k=20,
        users=len(holdout.relevant),
        hits=sum(map(len, holdout.relevant.values())),
        short=0,
        metrics=version.metrics[SLICE],
    )
