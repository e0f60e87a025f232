"""Garbage collection: versions that nobody needs are retired, then dropped."""

from __future__ import annotations

import logging

from recsys import rollout
from recsys._db import Connection
from recsys.errors import VersionStateError

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
        with conn.transaction():
            rollout.retire(conn, model, number, reason="superseded (clean-up)")
        done.append(f"version {number} retired")
    for (number,) in conn.execute(
        "select v.number from recsys.model_version as v"
        " join recsys.model as m on m.name = v.model where v.model = %s"
        " and v.state = 'retired' and v.retired_at < now() - m.grace order by 1",
        (model,),
    ).fetchall():
        try:
            with conn.transaction():
                rollout.drop(conn, model, number)
        except VersionStateError as exc:
            # Somebody reads it, such as an analyst's long query: next time.
            logger.info("version %d of %s is not dropped yet: %s", number, model, exc)
            continue
        done.append(f"version {number} dropped")
    conn.execute("delete from recsys.worker where seen_at < now() - interval '1 day'")
    return "; ".join(done)
