"""When the interactions of a source end."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from recsys import _sql
from recsys._db import Connection
from recsys._source import source_errors
from recsys.config import ModelConfig

logger = logging.getLogger(__name__)


def ends_before(conn: Connection, config: ModelConfig, moment: datetime) -> str | None:
    """Return a clause that says so, if all interactions are before a moment.

    Args:
        conn: An open connection.
        config: Its interactions have ``occurred_at``.
        moment: Without a time zone it is UTC, as in the sources.

    Raises:
        SourceError: The source fails.
    """
    with source_errors("interactions"):
        row = conn.execute(
            _sql.trusted(
                "select max(extract(epoch from source.occurred_at))::float8"
                f" from ({config.interactions.sql}\n) as source"
                " where isfinite(source.occurred_at)"
            )
        ).fetchone()
    last = row[0] if row else None
    if last is None or last >= moment.replace(tzinfo=moment.tzinfo or UTC).timestamp():
        return None
    return f"the last interaction is of {datetime.fromtimestamp(last, UTC):%F %T} UTC"


def warn_of_end(conn: Connection, config: ModelConfig, until: datetime | None) -> None:
    """Warn where a time from which on interactions are left out leaves out none.

    Args:
        conn: An open connection.
        config: Its interactions have ``occurred_at``, where a time is given.
        until: As it was asked for; None says nothing.

    Raises:
        SourceError: The source fails.
    """
    if until is not None and (ends := ends_before(conn, config, until)):
        logger.warning("--until %s leaves nothing out: %s", f"{until:%F %T}", ends)
