"""What training learned of items and popularity, put into a version's tables."""

from __future__ import annotations

from psycopg import sql

from recsys import _copy, artifacts, embeddings
from recsys._db import Connection
from recsys.progress import Progress
from recsys.versions import ModelVersion


def load(conn: Connection, version: ModelVersion, progress: Progress) -> None:
    """Put what the artifacts hold where SQL finds it; commits.

    Raises:
        ArtifactError: An artifact is missing, corrupted or does not fit the tables.
    """
    _load_lean(conn, version)
    _load_id_embeddings(conn, version, progress)


def _load_lean(conn: Connection, version: ModelVersion) -> None:
    """Put where SQL finds it what the query tower makes of popularity."""
    sha256 = version.artifacts.get("weights")
    lean: list[float] = []
    if sha256 is not None:
        lean = embeddings.lean(artifacts.get(conn, sha256))
    conn.execute(
        "update recsys.model_version set lean = %s where model = %s and number = %s",
        (lean, version.model, version.number),
    )
    conn.commit()


def _load_id_embeddings(
    conn: Connection, version: ModelVersion, progress: Progress
) -> None:
    """Put the learned rows into their table, all or nothing."""
    config, name = version.config, f"id_embedding_{version.suffix}"
    table = sql.Identifier("recsys", name)
    row = conn.execute(
        sql.SQL("select exists (select from {})").format(table)
    ).fetchone()
    if row and row[0]:
        conn.commit()
        return
    content = artifacts.get(conn, version.artifacts["embeddings"])
    learned = embeddings.unpack(content, config.item_id, config.train.dim)
    with progress.stage("Loading ID embeddings", len(learned.item_ids)) as s:
        _copy.copy_rows(
            conn,
            name,
            config.item_id,
            learned.item_ids,
            [learned.served, learned.history, learned.bias],
        )
        s.advance(len(learned.item_ids))
    conn.execute(
        "update recsys.model_version set default_query = %s"
        " where model = %s and number = %s",
        (
            [float(x) for x in learned.default_query],
            version.model,
            version.number,
        ),
    )
    conn.execute(sql.SQL("analyze {}").format(table))
    conn.commit()
