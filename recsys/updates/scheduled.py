"""Incremental updates as a periodic task of the workers."""

from __future__ import annotations

from recsys._db import Connection
from recsys._guard import exclusive
from recsys._wording import counted
from recsys.errors import RecsysError, TrainingError
from recsys.impressions import dsn_of
from recsys.updates import run as updates
from recsys.versions import ModelVersion


def run(conn: Connection, model: str) -> str:
    """Update the serving versions of a model whose ``update.every_s`` has passed.

    Args:
        conn: An autocommit connection.
        model: Name of the model.

    Returns:
        What was done, empty for nothing, as where another update runs.
    """
    found = _serving(conn, model)
    if not any(_is_due(conn, version) for version in found):
        return ""
    refusal = updates.refusal(model)
    try:
        with exclusive(dsn_of(conn), updates.key(model), refusal):
            return _update(conn, found)
    except TrainingError as exc:
        if exc is refusal:
            return ""
        raise


def _update(conn: Connection, serving: list[ModelVersion]) -> str:
    done: list[str] = []
    problems: list[RecsysError] = []
    for version in serving:
        # Asked again: another one may have ended just before this one had the lock.
        if not _is_due(conn, version):
            continue
        try:
            found = updates.update_version(conn, version, version.config.update)
        except RecsysError as exc:
            # The other version, if there are two, need not wait.
            problems.append(exc)
            continue
        if found.state != "nothing new":
            said = f"version {found.number} {found.state}"
            learned = counted(found.trained, "interaction")
            done.append(f"{said}, {learned}, {counted(found.changed, 'row')}")
    if problems:
        raise problems[0]
    return "; ".join(done)


def _serving(conn: Connection, model: str) -> list[ModelVersion]:
    served = conn.execute("select from recsys.rollout where model = %s", (model,))
    return updates.serving(conn, model) if served.fetchone() is not None else []


def _is_due(conn: Connection, version: ModelVersion) -> bool:
    every_s = version.config.update.every_s
    if not every_s:
        return False
    row = conn.execute(
        "select max(began_at) + make_interval(secs => %s) > now()"
        " from recsys.id_update where model = %s and number = %s",
        (every_s, version.model, version.number),
    ).fetchone()
    return not (row and row[0])
