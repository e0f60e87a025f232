"""Garbage collection: versions that nobody needs are retired, then dropped."""

from __future__ import annotations

import logging
from datetime import timedelta

from psycopg import sql

from recsys import _texts, rollout, slow, versions
from recsys._db import Connection
from recsys.errors import ConfigError, UnknownVersion, VersionStateError

logger = logging.getLogger(__name__)


def run(conn: Connection, model: str) -> str:
    """Retire what is superfluous, drop what was retired long enough ago.

    Superfluous is a ready version older than every serving one, that a rollback would
    not go to, that no experiment uses, that has not served for ``model.grace``, beyond
    the newest ``model.keep_versions`` of that kind. A retired version is dropped after
    another ``model.grace``: no request that began on it can still run.

    Args:
        conn: An autocommit connection.
        model: Name of the model.

    Returns:
        What was done, empty for nothing.
    """
    done: list[str] = []
    for (number,) in conn.execute(
        "select number from recsys._superfluous(%s)", (model,)
    ).fetchall():
        try:
            with conn.transaction():
                rollout.retire(conn, model, number, reason="superseded (clean-up)")
            done.append(f"version {number} retired")
        except (VersionStateError, UnknownVersion) as exc:
            logger.info("version %d of %s is not retired: %s", number, model, exc)
    for (number,) in conn.execute(
        "select v.number from recsys.model_version as v"
        " join recsys.model as m on m.name = v.model where v.model = %s"
        " and v.state = 'retired' and v.retired_at < now() - m.grace order by 1",
        (model,),
    ).fetchall():
        try:
            if _drop_retired(conn, model, number):
                done.append(f"version {number} dropped")
        except (VersionStateError, UnknownVersion) as exc:
            # Somebody reads it, such as an analyst's long query: next time.
            logger.info("version %d of %s is not dropped yet: %s", number, model, exc)
    forget(conn, model)
    slow.forget(conn, model)
    _texts.forget(conn)
    conn.execute("delete from recsys.worker where seen_at < now() - interval '1 day'")
    return "; ".join(done)


def _drop_retired(conn: Connection, model: str, number: int) -> bool:
    """Drop a version unless somebody brought it back since it was looked at."""
    with rollout.locking(conn, model):
        conn.execute("select from recsys.model where name = %s for update", (model,))
        row = conn.execute(
            "select from recsys.model_version as v"
            " join recsys.model as m on m.name = v.model"
            " where v.model = %s and v.number = %s and v.state = 'retired'"
            " and v.retired_at < now() - m.grace for update of v",
            (model, number),
        ).fetchone()
        if row is None:
            return False
        rollout.drop(conn, model, number)
    return True


def forget(conn: Connection, model: str) -> None:
    """Forget failures and deletes of versions that nobody keeps up to date any more.

    A batch that was in work when its version was retired or dropped may leave some.
    """
    for table in ("item_failure", "item_gone"):
        conn.execute(
            sql.SQL(
                "delete from {} as left_over where model = %s and not exists"
                " (select from recsys.model_version as v"
                " where v.model = left_over.model and v.number = left_over.number"
                " and v.state in ('building', 'ready', 'serving'))"
            ).format(sql.Identifier("recsys", table)),
            (model,),
        )


def keep(
    conn: Connection,
    model: str,
    *,
    versions_kept: int | None = None,
    grace: timedelta | None = None,
) -> tuple[int, timedelta]:
    """Set what the clean-up leaves; None leaves a setting as it is.

    Args:
        conn: An open connection; the caller commits.
        model: Name of the model.
        versions_kept: Superseded ready versions that stay, 0 or more.
        grace: For how long a version stays after it served, and again after it was
            retired.

    Returns:
        Both settings as they are now.

    Raises:
        UnknownModel: No model of that name is registered.
        ConfigError: A setting is negative.
    """
    versions.list_versions(conn, model)
    if versions_kept is not None and versions_kept < 0:
        raise ConfigError(f"the number of versions must be 0 or more: {versions_kept}")
    if grace is not None and grace < timedelta(0):
        raise ConfigError(f"the grace period must not be negative: {grace}")
    row = conn.execute(
        "update recsys.model set keep_versions = coalesce(%s, keep_versions),"
        " grace = coalesce(%s, grace) where name = %s returning keep_versions, grace",
        (versions_kept, grace, model),
    ).fetchone()
    return (row[0], row[1]) if row else (0, timedelta(0))
