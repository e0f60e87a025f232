"""Checks of server, schema, versions and configuration, each with what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import psycopg

from recsys import (
    _columns,
    _db,
    _doctor_live,
    _doctor_pooler,
    _index,
    _sql,
    config,
    rollout,
    schema,
    versions,
)
from recsys._db import Connection
from recsys._finding import Finding
from recsys._source import source_errors
from recsys._wording import counted
from recsys.errors import RecsysError
from recsys.settings import Settings
from recsys.versions import ModelVersion

_SHM_WARN_MB = 256


def examine(settings: Settings) -> list[Finding]:
    """Run every check; a failing one never hides the others.

    Args:
        settings: Where the database and recsys.toml are.

    Returns:
        Findings in the order server, memory, schema, versions, changes, configuration.
    """
    try:
        conn = _db.connect(settings.dsn, autocommit=True)
    except RecsysError as exc:
        return [_failure("server", exc)]
    with conn:
        pooler = list(_doctor_pooler.examine(conn, settings.dsn))
        if any(finding.result == "fail" for finding in pooler):
            return pooler
        findings = [*_server(conn), *_memory(conn), *_privileges(conn), *pooler]
        try:
            schema.check(conn)
        except RecsysError as exc:
            return [*findings, _failure("schema", exc), *_configuration(conn, settings)]
        findings.append(Finding("schema", "ok", f"revision {schema.CORE_REVISION}"))
        findings += [f for version in _all(conn) for f in _version(conn, version)]
        findings += _doctor_live.examine(conn, _configured(settings))
        findings += _impressions(conn)
        findings += _configuration(conn, settings)
    return findings


def _failure(check: str, exc: RecsysError) -> Finding:
    return Finding(check, "fail", str(exc), exc.hint)


def _setting(conn: Connection, name: str) -> str:
    row = conn.execute("select current_setting(%s, true)", (name,)).fetchone()
    return (row[0] if row else None) or ""


def _server(conn: Connection) -> Iterator[Finding]:
    number = conn.info.server_version
    shown = f"Postgres {number // 10000}.{number % 10000}"
    if number < 160000:
        yield Finding("server", "warn", shown, "Tested with Postgres 16 to 18.")
    else:
        yield Finding("server", "ok", shown)
    found = _db.pgvector_version(conn)
    try:
        _db.require_pgvector(conn)
    except RecsysError as exc:
        yield _failure("pgvector", exc)
        return
    text = ".".join(map(str, found or ()))
    if found and found < _db.ADVISED_PGVECTOR:
        yield Finding(
            "pgvector",
            "warn",
            text,
            "Upgrade to 0.8.4 or newer: earlier ones can corrupt an HNSW index.",
        )
    else:
        yield Finding("pgvector", "ok", text)


def _memory(conn: Connection) -> Iterator[Finding]:
    row = conn.execute(
        "select pg_size_bytes(current_setting('shared_buffers')) / 1048576,"
        " coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint / 1048576"
        " from pg_catalog.pg_class as c"
        " join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
        " where n.nspname = 'recsys' and c.relname like 'item\\_%' and c.relkind = 'r'"
    ).fetchone()
    buffers, vectors = row or (0, 0)
    detail = f"shared_buffers {buffers} MB, item vectors and indexes {vectors} MB"
    if vectors > buffers:
        yield Finding(
            "memory",
            "warn",
            detail,
            "Searches are fast when the index stays in memory: raise shared_buffers.",
        )
    else:
        yield Finding("memory", "ok", detail)
    if _setting(conn, "dynamic_shared_memory_type") == "posix" and _local(conn):
        yield _shared_memory()


def _local(conn: Connection) -> bool:
    return conn.info.host.startswith("/") or conn.info.host in ("localhost", "")


def _shared_memory() -> Finding:
    try:
        status = os.statvfs("/dev/shm")
    except OSError as exc:
        return Finding("/dev/shm", "warn", f"cannot be read: {exc}")
    size = status.f_blocks * status.f_frsize // 2**20
    if size < _SHM_WARN_MB:
        return Finding(
            "/dev/shm",
            "warn",
            f"{size} MB",
            "Parallel index builds need maintenance_work_mem there: "
            "set shm_size of the container.",
        )
    return Finding("/dev/shm", "ok", f"{size} MB")


def _privileges(conn: Connection) -> Iterator[Finding]:
    row = conn.execute(
        "select current_user, has_database_privilege(current_database(), 'create'),"
        " coalesce(has_schema_privilege(to_regnamespace('recsys'), 'usage'), true)"
    ).fetchone()
    role, create, usage = row or ("", False, False)
    if not usage:
        yield Finding(
            "privileges",
            "fail",
            f"role {role} may not use schema recsys",
            f"grant recsys_app to {role};",
        )
    elif not create:
        yield Finding(
            "privileges",
            "ok",
            f"role {role} may serve; it may not run 'recsys upgrade'",
        )
    else:
        yield Finding("privileges", "ok", f"role {role} may migrate")


def _all(conn: Connection) -> list[ModelVersion]:
    try:
        names = [
            row[0] for row in conn.execute("select name from recsys.model order by 1")
        ]
        return [v for name in names for v in versions.list_versions(conn, name)]
    except psycopg.errors.InsufficientPrivilege:
        return []


def _version(conn: Connection, version: ModelVersion) -> Iterator[Finding]:
    name = f"{version.model} {version.number}"
    if version.state == "building":
        yield Finding(
            name,
            "warn",
            f"building ({version.phase}) {version.error or ''}".strip(),
            f"recsys backfill {version.model} {version.number}",
        )
    try:
        rollout.run_towers(conn, version)
    except RecsysError as exc:
        yield _failure(name, exc)
        return
    if version.state == "building":
        return
    row = conn.execute(
        "select i.indisvalid, a.atttypmod from pg_catalog.pg_attribute as a"
        " left join pg_catalog.pg_index as i on i.indexrelid = to_regclass(%s)"
        " where a.attrelid = to_regclass(%s) and a.attname = 'embedding'",
        (
            f"recsys.{_index.index_name(version.suffix)}",
            f"recsys.item_vector_{version.suffix}",
        ),
    ).fetchone()
    yield _storage(name, version, row)
    yield from _request(conn, name, version)
    yield from _coverage(conn, name, version)


def _storage(
    name: str, version: ModelVersion, row: tuple[bool | None, int] | None
) -> Finding:
    if row is None:
        return Finding(
            name,
            "fail",
            "its tables are missing",
            "Drop the version and train again, or restore a backup.",
        )
    valid, dim = row
    if dim != version.dim:
        return Finding(
            name,
            "fail",
            f"the table has {dim} dimensions, the towers {version.dim}",
            "The tables do not belong to these towers: drop and train again.",
        )
    if not valid:
        return Finding(
            name,
            "fail",
            "its HNSW index is missing or invalid",
            f"drop index if exists recsys.{_index.index_name(version.suffix)}; "
            f"recsys backfill {version.model} {version.number}",
        )
    return Finding(
        name, "ok", f"{version.state}, {dim} dimensions, towers load, index valid"
    )


def _request(conn: Connection, name: str, version: ModelVersion) -> Iterator[Finding]:
    """Read a user's state as a request does; the user is null, so nobody's."""
    try:
        with source_errors("interactions"):
            conn.execute(
                _sql.trusted(f"select from recsys._state_{version.suffix}(null)")
            )
    except RecsysError as exc:
        yield _failure(f"{name} requests", exc)


def _coverage(conn: Connection, name: str, version: ModelVersion) -> Iterator[Finding]:
    try:
        with source_errors("items"):
            row = conn.execute(
                _sql.trusted(
                    f"select missing, orphaned from recsys._coverage_{version.suffix}()"
                )
            ).fetchone()
            waiting = conn.execute(
                "select from recsys.change_status where model = %s"
                " and (backlog > 0 or reconcile_pending)",
                (version.model,),
            ).fetchone()
    except RecsysError as exc:
        yield _failure(f"{name} coverage", exc)
        return
    missing, orphaned = row or (0, 0)
    if missing or orphaned:
        yield Finding(
            f"{name} coverage",
            "warn",
            f"{counted(missing, 'item')} without a vector,"
            f" {counted(orphaned, 'vector')} without an item",
            f"recsys backfill {version.model} {version.number}"
            if waiting is None
            else "recsys worker",
        )
    else:
        yield Finding(f"{name} coverage", "ok", "every item has its vector")


def _impressions(conn: Connection) -> Iterator[Finding]:
    """Warn when answers are logged and nobody makes or forgets their days."""
    allowed = conn.execute(
        "select has_table_privilege('recsys.impression', 'select')"
        " and has_table_privilege('recsys.impression_default', 'select')"
    ).fetchone()
    if not allowed or not allowed[0]:
        return
    row = conn.execute(
        "select exists (select from recsys.impression"
        " where occurred_at > now() - interval '1 day'),"
        " to_regclass('recsys.impression_' || to_char("
        "now() at time zone 'UTC' + interval '1 day', 'YYYYMMDD')) is null,"
        " (select count(*) from (select from recsys.impression_default limit 1000)"
        " as stray)"
    ).fetchone()
    logged, behind, stray = row or (False, False, 0)
    if logged and behind:
        yield Finding(
            "impressions",
            "warn",
            "logged, but no partition for tomorrow",
            "Run 'recsys worker': without it no impression is ever forgotten.",
        )
    elif stray:
        yield Finding(
            "impressions",
            "warn",
            f"{'1000 or more rows' if stray == 1000 else counted(stray, 'row')} in no"
            " day's partition",
            "Set the clock of the server; the worker makes the days.",
        )


def _configuration(conn: Connection, settings: Settings) -> Iterator[Finding]:
    if not settings.config.exists():
        yield Finding(
            "recsys.toml", "ok", f"{settings.config} is absent; serving needs none"
        )
        return
    try:
        project = config.load(settings.config)
    except RecsysError as exc:
        yield _failure("recsys.toml", exc)
        return
    for model in project.models.values():
        yield from _sources(conn, model)


def _configured(settings: Settings) -> Mapping[str, config.ModelConfig]:
    try:
        return config.load(settings.config).models
    except (RecsysError, OSError):
        return {}


def _sources(conn: Connection, model: config.ModelConfig) -> Iterator[Finding]:
    name = f"recsys.toml {model.name}"
    empty: list[str] = []
    try:
        _columns.check_sources(conn, model)
        for which, text in (
            ("items", model.items.sql),
            ("users", model.users.sql),
            ("interactions", model.interactions.sql),
        ):
            if text and not _has_rows(conn, which, text):
                empty.append(which)
    except RecsysError as exc:
        yield _failure(name, exc)
        return
    for which in empty:
        detail = f"{which}.sql returns no rows"
        yield Finding(name, "warn", detail, "There is nothing to train on yet.")
    yield Finding(name, "ok", "every source can be read")


def _has_rows(conn: Connection, which: str, text: str) -> bool:
    with source_errors(which):
        cursor = conn.execute(_sql.trusted(f"select from ({text}\n) as source limit 1"))
    return cursor.fetchone() is not None
