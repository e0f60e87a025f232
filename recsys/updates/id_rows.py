"""The ID rows of a version as an update writes them, and puts them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys import _db, _sql
from recsys._db import Connection, HalfvecArray
from recsys.types import ItemId
from recsys.updates.objective import Float32
from recsys.versions import ModelVersion


@dataclass(frozen=True, slots=True)
class NewRows:
    """ID rows to publish.

    Attributes:
        ids: Item ids, shape (U,).
        served: Served rows, shape (U, d).
        history: History-side rows, shape (U, d).
    """

    ids: list[ItemId]
    served: Float32
    history: Float32


def changed(conn: Connection, version: ModelVersion, rows: NewRows) -> NewRows:
    """Return the rows that differ from those stored, as halfvec holds them."""
    id_type, dim = version.config.item_id, version.config.train.dim
    with _db.binary_cursor(conn) as cur:
        stored = cur.execute(
            _sql.trusted(
                "select given.place, halfvec_send(e.served), halfvec_send(e.history)"
                f" from unnest(%s::{id_type}[])"
                " with ordinality as given(item_id, place)"
                f" join recsys.id_embedding_{version.suffix} as e using (item_id)"
            ),
            (rows.ids,),
        ).fetchall()
    at = np.array([row[0] for row in stored], np.int64) - 1
    same = np.ones(len(at), np.bool_)
    for side, now in ((1, rows.served), (2, rows.history)):
        before = _db.unpack_halfvecs(b"".join(row[side] for row in stored), dim)
        same &= (before == now[at].astype(np.float16)).all(1)
    differs = np.ones(len(rows.ids), np.bool_)
    differs[at[same]] = False
    keep = np.flatnonzero(differs)
    return NewRows([rows.ids[i] for i in keep], rows.served[keep], rows.history[keep])


def remember(
    conn: Connection, version: ModelVersion, update: int, ids: Sequence[ItemId]
) -> None:
    """Keep the rows as they are before the update."""
    id_type = version.config.item_id
    conn.execute(
        _sql.trusted(
            "insert into recsys.id_update_row (update_id, item_id, served, history)"
            " select %s, given.item_id::text, e.served, e.history"
            f" from unnest(%s::{id_type}[]) as given(item_id)"
            f" left join recsys.id_embedding_{version.suffix} as e using (item_id)"
        ),
        (update, list(ids)),
    )


def write(conn: Connection, version: ModelVersion, rows: NewRows) -> None:
    """Store rows, those of new items too."""
    if not rows.ids:
        return
    halfvec = _halfvec_oid(conn)
    statement = _sql.trusted(
        f"insert into recsys.id_embedding_{version.suffix} as e"
        " (item_id, served, history, bias)"
        # Without a popularity of its own an item has that of a cold one.
        " select given.*, 'NaN'::real"
        f" from unnest(%s::{version.config.item_id}[], %s::halfvec[], %s::halfvec[])"
        " as given on conflict (item_id) do update"
        " set served = excluded.served, history = excluded.history"
    )
    with _db.binary_cursor(conn) as cur:
        cur.execute(
            statement,
            (
                rows.ids,
                HalfvecArray(rows.served, halfvec),
                HalfvecArray(rows.history, halfvec),
            ),
        )


def restore(conn: Connection, version: ModelVersion, update: int) -> list[str]:
    """Put the rows back as they were before an update; returns their ids."""
    id_type, suffix = version.config.item_id, version.suffix
    conn.execute(
        _sql.trusted(
            f"update recsys.id_embedding_{suffix} as e"
            " set served = r.served, history = r.history"
            " from recsys.id_update_row as r where r.update_id = %s"
            f" and r.served is not null and e.item_id = r.item_id::{id_type}"
        ),
        (update,),
    )
    conn.execute(
        _sql.trusted(
            f"delete from recsys.id_embedding_{suffix} as e"
            " using recsys.id_update_row as r where r.update_id = %s"
            f" and r.served is null and e.item_id = r.item_id::{id_type}"
        ),
        (update,),
    )
    return [
        item
        for (item,) in conn.execute(
            "delete from recsys.id_update_row where update_id = %s returning item_id",
            (update,),
        )
    ]


def keep_only(
    conn: Connection, version: ModelVersion, ids: Sequence[ItemId]
) -> list[str]:
    """Delete the rows of all other items; returns their ids."""
    removed = conn.execute(
        _sql.trusted(
            f"delete from recsys.id_embedding_{version.suffix}"
            f" where not item_id = any(%s::{version.config.item_id}[])"
            " returning item_id::text"
        ),
        (list(ids),),
    )
    return [item for (item,) in removed]


def _halfvec_oid(conn: Connection) -> int:
    row = conn.execute("select 'halfvec'::regtype::oid").fetchone()
    return int(row[0]) if row else 0
