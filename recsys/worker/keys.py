"""Item ids as the queue holds them: text, spelled as whoever queued them had it.

A trigger on a varchar column queues '007', the vectors know the bigint 7. Both must be
one item to a worker, or it takes the vector that it has just written for a deleted one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import datetime

from psycopg import errors as pg

from recsys import _sql
from recsys._db import Connection
from recsys.config import IdType

_HEX = "[0-9a-f]"
_CANONICAL = {
    "bigint": re.compile("0|-?[1-9][0-9]{0,17}"),
    "uuid": re.compile(f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"),
}
"""Text that Postgres gives back unchanged; whatever else there is, it is asked."""


def canonical(
    conn: Connection, id_type: IdType, ids: Collection[str]
) -> dict[str, str]:
    """Spell ids as the model's item type does.

    Args:
        conn: Any connection; an id that is none takes a savepoint.
        id_type: The model's item type.
        ids: Ids as text.

    Returns:
        Id -> the same id as ``str`` of the typed value has it. What is no id of the
        type stays as it is: it fails where it is used.
    """
    names = {item: item for item in ids}
    if id_type == "text":
        return names
    odd = [i for i in names if not _CANONICAL[id_type].fullmatch(i)]
    if odd:
        try:
            names |= _cast(conn, id_type, odd)
        except pg.DataError:
            for item in odd:
                try:
                    names |= _cast(conn, id_type, [item])
                except pg.DataError:
                    continue
    return names


def _cast(conn: Connection, id_type: IdType, ids: list[str]) -> dict[str, str]:
    query = _sql.trusted(f"select i, i::{id_type}::text from unnest(%s::text[]) as i")
    with conn.transaction():
        return dict(conn.execute(query, (ids,)).fetchall())


def settle(
    conn: Connection, model: str, claimed: Iterable[tuple[str | None, datetime]]
) -> list[str]:
    """Return the claimed ids in their canonical spelling.

    An id that was queued in another spelling came with another bucket's lock: it goes
    back under its canonical one, or two workers could write one item at once.
    """
    times = {item: at for item, at in claimed if item is not None}
    row = conn.execute(
        "select item_type from recsys.model where name = %s", (model,)
    ).fetchone()
    names = canonical(conn, row[0] if row else "text", times)
    again = {i: name for i, name in names.items() if name not in times}
    if again:
        conn.execute(
            "insert into recsys.item_change (model, bucket, item_id, changed_at)"
            " select %s, recsys._item_bucket(c.item_id), c.item_id, min(c.changed_at)"
            " from unnest(%s::text[], %s::timestamptz[]) as c(item_id, changed_at)"
            " group by c.item_id",
            (model, [*again.values()], [times[i] for i in again]),
        )
    return sorted(i for i, name in names.items() if name == i)
