"""Bring the current state of some items into every live version of a model.

Correctness rests on the order of three steps inside one transaction: take the items out
of the queue, which locks them until it ends (sql/functions/_claim_changes.v1.sql), then
read which versions live, then read the source. Whatever the queue rows stand for
is committed by then and so is read; who reads the item after it, writes after us.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors as pg

from recsys import _db, _sql, versions
from recsys._db import Connection, HalfvecArray
from recsys._items import Encoded, ItemEncoder
from recsys.errors import ArtifactError, RecsysError
from recsys.versions import ModelVersion
from recsys.worker import failures, keys, lookups
from recsys.worker.everything import queue_everything

_LIVE = ("building", "ready", "serving")
_LOCK_TIMEOUT = "200ms"
_MOST = 1_000_000
_UNLOADABLE = (RecsysError, psycopg.ProgrammingError, psycopg.DataError)
"""What loading a version raises that trying again at once does not cure."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What one batch did.

    Attributes:
        items: Items brought up to date, the deleted ones included.
        failed: Items that went to ``recsys.item_failure``.
        oldest: When the oldest change was made, one that was only looked up included;
            None when there was nothing.
    """

    items: int = 0
    failed: int = 0
    oldest: datetime | None = None


class LiveModel:
    """The live versions of one model, as this process has loaded them."""

    def __init__(self, model: str, *, run_encoders: bool = True) -> None:
        self.model = model
        self._run_encoders = run_encoders
        self._followers: dict[tuple[int, str], LoadedItems] = {}
        self._at_once = _MOST

    def apply_changes(self, conn: Connection, limit: int) -> Applied:
        """Take about ``limit`` changes out of the queue and apply them.

        Args:
            conn: A connection outside any transaction; one is made and committed.
            limit: Queue rows at most.

        Returns:
            What was done; nothing when the queue is empty or others work on it.
        """
        looked_up = lookups.look_up(conn, self.model)
        while True:
            try:
                done = self._apply(conn, min(limit, self._at_once))
            except pg.QueryCanceled:
                # Longer than the role's statement_timeout: fewer at a time, down to
                # one, which then fails alone.
                if self._at_once == 1:
                    raise
                self._at_once = max(min(limit, self._at_once) // 2, 1)
            else:
                self._at_once = min(2 * self._at_once, _MOST)
                return done if done.oldest else Applied(oldest=looked_up)

    def _apply(self, conn: Connection, limit: int) -> Applied:
        with conn.transaction():
            conn.execute(
                "select set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,)
            )
            claimed = conn.execute(
                "select item_id, changed_at from recsys._claim_changes(%s, %s)",
                (self.model, limit),
            ).fetchall()
            if not claimed:
                return Applied()
            followers = self.followers(conn)
            if any(item is None for item, _ in claimed):
                queue_everything(conn, self.model, followers)
            ids = keys.settle(conn, self.model, claimed)
            failed = self.bring(conn, followers, ids)
        return Applied(len(ids) - failed, failed, min(time for _, time in claimed))

    def sync(self, conn: Connection, ids: Sequence[str]) -> None:
        """Apply some items in the caller's transaction; an error is the caller's.

        The caller has queued them: a worker confirms them after the commit, whatever
        other transactions did meanwhile.
        """
        for follower in self.followers(conn):
            if not follower.indexing:
                follower.bring(conn, sorted(set(ids)))

    def bring(
        self, conn: Connection, followers: Iterable[Follower], ids: Sequence[str]
    ) -> int:
        """Bring items into every version; record the items that cannot be.

        Returns:
            How many could not be brought into some version.
        """
        broken: set[str] = set()
        for follower in followers:
            if follower.indexing:
                follower.leave(conn, ids)
                continue
            errors = failures.in_halves(conn, follower, ids)
            if errors:
                failures.record(conn, follower.version, errors)
                broken |= set(errors)
            failures.forget(conn, follower.version, ids, errors)
        return len(broken)

    def followers(self, conn: Connection) -> list[Follower]:
        """Return the versions that live now, in the caller's transaction."""
        rows = conn.execute(
            "select number, phase, state, artifacts ->> 'item_tower' from"
            " recsys.model_version where model = %s and state = any(%s)"
            # Before its learned rows are in, a version would get wrong vectors; its
            # backfill reads the source later than this moment.
            " and phase <> 'created' order by number",
            (self.model, list(_LIVE)),
        ).fetchall()
        found: dict[tuple[int, str], LoadedItems] = {}
        now: list[Follower] = []
        for number, phase, state, tower in rows:
            loading = phase != "done"
            indexing = phase == "indexing" and state == "building"
            known = self._followers.get((number, tower))
            if known is None:
                version = versions.get(conn, self.model, number)
                try:
                    with conn.transaction():
                        known = LoadedItems(
                            conn, version, run_encoders=self._run_encoders
                        )
                except _UNLOADABLE as exc:
                    # Its tower or its source is broken: no reason for the others to
                    # wait.
                    problem = failures.message(exc)
                    now.append(Follower(version, None, loading, indexing, problem))
                    continue
            found[number, tower] = known
            now.append(Follower(known.version, known, loading, indexing))
        self._followers = found
        return now


class LoadedItems:
    """One version: its item tower and the statements that read and write its items."""

    def __init__(
        self, conn: Connection, version: ModelVersion, *, run_encoders: bool = True
    ) -> None:
        self.version = version
        self.encoder = ItemEncoder(conn, version, run_encoders=run_encoders)
        config, suffix = version.config, version.suffix
        with _db.binary_cursor(conn) as cur:
            cur.execute(_sql.trusted(f"select item_id from ({config.items.sql}\n) as s"
                                     " limit 0"))  # fmt: skip
            own_type = cur.description[0].type_code if cur.description else 0
            # Compared in its own type, so that the source's index is used. Without a
            # modifier that is bpchar: 'character' would mean one character.
            row = cur.execute(
                "select format_type(oid, -1), typcategory = 'S',"
                " 'halfvec'::regtype::oid from pg_catalog.pg_type where oid = %s",
                (own_type,),
            ).fetchone()
        id_type, textual, self.halfvec = row or (config.item_id, False, 0)
        select = _sql.escaped(self.encoder.select())
        self.read = _sql.trusted(
            f"{select} where s.item_id = any(%s::text[]::{id_type}[])"
        )
        # '007' is 7 to the model, but not the text '7'.
        self.read_odd = (
            _sql.trusted(
                f"{select} where s.item_id::{config.item_id}"
                f" = any(%s::text[]::{config.item_id}[])"
            )
            if textual and config.item_id != "text"
            else None
        )
        self.delete = [
            _sql.trusted(
                f"delete from recsys.{table}_{suffix}"
                f" where item_id = any(%s::text[]::{config.item_id}[])"
            )
            for table in ("item_vector", "item_embedding")
        ]
        self.write = [
            _sql.trusted(
                f"insert into recsys.{table}_{suffix} as stored (item_id, embedding)"
                f" select * from unnest(%s::{config.item_id}[], %s::halfvec[])"
                " on conflict (item_id) do update set embedding = excluded.embedding"
                # An equal vector is not written: HNSW pays for every row version.
                " where stored.embedding is distinct from excluded.embedding"
            )
            for table in ("item_vector", "item_embedding")
        ]

    def find(
        self, cur: psycopg.Cursor[Any], ids: Sequence[str]
    ) -> tuple[list[Any], list[str]]:
        """Read items as they are now.

        Args:
            cur: A binary cursor.
            ids: Item ids as text.

        Returns:
            Rows as the encoder takes them, and the ids that the source does not have.
        """
        names = keys.canonical(cur.connection, self.version.config.item_id, ids)
        wanted = set(names.values())
        rows = cur.execute(self.read, ([*wanted.union(ids)],)).fetchall()
        gone = sorted(wanted.difference(str(row[0]) for row in rows))
        if gone and self.read_odd:
            rows += cur.execute(self.read_odd, (gone,)).fetchall()
            gone = sorted(wanted.difference(str(row[0]) for row in rows))
        return rows, gone


@dataclass(frozen=True, slots=True)
class Follower:
    """A live version, as this transaction found it.

    Attributes:
        version: The version.
        loaded: Its tower and statements; None when they could not be loaded.
        loading: A backfill may be at work: deletes are noted for it.
        indexing: Its index is being built, which locks writers out; what changes is
            left to the backfill, or the other versions would wait, too.
        problem: Why they could not be loaded.
    """

    version: ModelVersion
    loaded: LoadedItems | None
    loading: bool
    indexing: bool = False
    problem: str = ""

    def bring(self, conn: Connection, ids: Sequence[str]) -> None:
        """Read the items as they are now and store or delete their vectors.

        Raises:
            ArtifactError: The version could not be loaded.
        """
        if not ids:
            return
        if self.loaded is None:
            raise ArtifactError(self.problem)
        with _db.binary_cursor(conn) as cur:
            rows, gone = self.loaded.find(cur, ids)
            self._store(cur, self.loaded, self.loaded.encoder.encode(rows, conn))
            if gone:
                self._remove(cur, self.loaded, gone)

    def busy(self, conn: Connection, ids: Sequence[str]) -> set[str]:
        """Return the items whose vectors another transaction is writing."""
        table = f"recsys.item_vector_{self.version.suffix}"
        try:
            with conn.transaction():
                locking = f"lock table {table} in row exclusive mode nowait"
                conn.execute(_sql.trusted(locking))
        except pg.LockNotAvailable:
            return set(ids)  # nobody can write anything
        query = (
            f"select item_id::text from {table}"
            f" where item_id = any(%s::text[]::{self.version.config.item_id}[])"
        )
        stored = {i for (i,) in conn.execute(_sql.trusted(query), (list(ids),))}
        locking = _sql.trusted(f"{query} for update skip locked")
        return stored - {i for (i,) in conn.execute(locking, (list(ids),))}

    def _store(
        self, cur: psycopg.Cursor[Any], loaded: LoadedItems, encoded: Encoded
    ) -> None:
        if not encoded.ids:
            return
        for statement, rows in zip(
            loaded.write, (encoded.vectors, encoded.history), strict=True
        ):
            cur.execute(statement, (encoded.ids, HalfvecArray(rows, loaded.halfvec)))

    def _remove(
        self, cur: psycopg.Cursor[Any], loaded: LoadedItems, gone: list[str]
    ) -> None:
        for statement in loaded.delete:
            cur.execute(statement, (gone,))
        if self.loading:
            # A backfill may hold an older copy of these items.
            cur.execute(
                "insert into recsys.item_gone (model, number, item_id)"
                " select %s, %s, unnest(%s::text[]) on conflict do nothing",
                (self.version.model, self.version.number, gone),
            )

    def leave(self, conn: Connection, ids: Sequence[str]) -> None:
        """Note items for the backfill of the version, unless it was given up."""
        conn.execute(
            "insert into recsys.item_gone (model, number, item_id)"
            " select v.model, v.number, unnest(%s::text[]) from"
            # Locked: nobody would ever clear the list of a version that is dropped.
            " (select model, number from recsys.model_version where model = %s"
            " and number = %s and state = 'building' for share) as v"
            " on conflict do nothing",
            (failures.storable(ids), self.version.model, self.version.number),
        )
