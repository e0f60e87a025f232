"""Planted bugs: what the tests of this folder must find."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from recsys import _db, _sql, capture_check
from recsys._db import Connection
from recsys.worker import apply

_NO_BUCKETS = re.compile(r"\n *continue when not pg_try_advisory_xact_lock[^;]*;")


def stale_write() -> None:
    """Workers read the source before they claim, and so before they hold a lock."""
    claim = apply.LiveModel.apply_changes
    bring = apply.Follower.bring
    early: dict[str, Any] = {}

    def apply_changes(self: Any, conn: Connection, limit: int) -> Any:
        early.clear()
        for follower in self.followers(conn):
            rows = _db.binary_cursor(conn).execute(
                _sql.trusted(follower.loaded.encoder.select())
            )
            early[follower.version.suffix] = rows.fetchall()
        return claim(self, conn, limit)

    def bring_early(self: Any, conn: Connection, ids: Sequence[str]) -> None:
        rows = early.get(self.version.suffix)
        if rows is None:
            return bring(self, conn, ids)
        wanted = set(ids)
        with _db.binary_cursor(conn) as cur:
            encoded = self.loaded.encoder.encode(
                [r for r in rows if str(r[0]) in wanted]
            )
            self._store(cur, self.loaded, encoded)
            gone = sorted(wanted - {str(item) for item in encoded.ids})
            if gone:
                self._remove(cur, self.loaded, gone)
        return None

    apply.LiveModel.apply_changes = apply_changes
    apply.Follower.bring = bring_early


def resurrected_delete() -> None:
    """Workers do not tell a backfill what they deleted after it read its chunk.

    The comparison at the end of the backfill is left out as well: it would mend this.
    """
    remove = apply.Follower._remove

    def silently(self: Any, *args: Any) -> None:
        remove(dataclasses.replace(self, loading=False), *args)

    apply.Follower._remove = silently
    capture_check.queue_differences = lambda conn, version: 0


def lost_event() -> None:
    """Workers read the items of a batch, then delete whatever is queued for them.

    A change that commits between the two is deleted unread.
    """
    bring = apply.LiveModel.bring

    def bring_and_sweep(
        self: Any, conn: Connection, followers: Any, ids: Sequence[str]
    ) -> int:
        failed = bring(self, conn, followers, ids)
        conn.execute(
            "delete from recsys.item_change where model = %s and item_id = any(%s)",
            (self.model, list(ids)),
        )
        return failed

    apply.LiveModel.bring = bring_and_sweep


def versions_first() -> None:
    """Workers read which versions live before they claim."""
    claim = apply.LiveModel.apply_changes
    followers_now = apply.LiveModel.followers
    known: dict[int, Any] = {}

    def apply_changes(self: Any, conn: Connection, limit: int) -> Any:
        known[id(self)] = followers_now(self, conn)
        return claim(self, conn, limit)

    apply.LiveModel.apply_changes = apply_changes
    apply.LiveModel.followers = lambda self, conn: known[id(self)]


IN_PYTHON: dict[str, Callable[[], None]] = {
    "stale write": stale_write,
    "resurrected delete": resurrected_delete,
    "lost event": lost_event,
    "versions first": versions_first,
}


def plant(name: str) -> None:
    """Plant a bug in this process."""
    IN_PYTHON[name]()


def without_buckets(definition: str) -> str:
    """Return _claim_changes without the locks that keep two workers off one item."""
    changed = _NO_BUCKETS.sub("", definition)
    assert changed != definition
    return changed


def without_price(definition: str) -> str:
    """Return the capture function of ``product`` blind to the price."""
    changed = re.sub(r'"price" as (c\d)', r"null as \1", definition)
    assert changed != definition
    return changed


REPLACED: Sequence[tuple[Any, str]] = (
    (apply.LiveModel, "apply_changes"),
    (apply.LiveModel, "bring"),
    (apply.LiveModel, "followers"),
    (apply.Follower, "bring"),
    (apply.Follower, "_remove"),
    (capture_check, "queue_differences"),
)
"""What the bugs in Python replace, for the tests to put back."""
