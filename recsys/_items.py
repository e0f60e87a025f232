"""From rows of the item source to the two vectors of each item, for one version.

Backfill, worker and ``sync_items`` all go through here, so that bulk and stream make
the same vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _db, artifacts
from recsys._db import Connection
from recsys._texts import Texts
from recsys._tower import ItemTower
from recsys.encoder.values import Columns, projection
from recsys.errors import ArtifactError, SourceError
from recsys.types import ItemId
from recsys.versions import ModelVersion


@dataclass(frozen=True, slots=True)
class Encoded:
    """Items and their vectors.

    Attributes:
        ids: N item ids.
        vectors: As searched, shape (N, dim + 1), float32.
        history: As a query is made of them, shape (N, dim), float32.
    """

    ids: list[ItemId]
    vectors: NDArray[np.float32]
    history: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ItemInputs:
    """Items as the tower takes them.

    Attributes:
        ids: N item ids.
        served: Served ID rows, 0 without one, shape (N, dim), float32.
        history: History-side ID rows, likewise.
        bias: Popularity dimension, NaN without a row, shape (N,), float32.
        columns: Raw feature cells by feature name.
    """

    ids: list[ItemId]
    served: NDArray[np.float32]
    history: NDArray[np.float32]
    bias: NDArray[np.float32]
    columns: Columns


class ItemEncoder:
    """The item tower of a version, with the query that feeds it."""

    def __init__(
        self, conn: Connection, version: ModelVersion, *, run_encoders: bool = True
    ) -> None:
        """Load the tower.

        Args:
            conn: An open connection.
            version: The version.
            run_encoders: Whether text encoders may run here, or what they gave
                before must do.

        Raises:
            ArtifactError: It is missing, corrupted or does not fit the tables.
        """
        config = version.config
        if version.dim != config.train.dim + 1:
            raise ArtifactError(
                f"the tables have {version.dim} dimensions, the towers "
                f"{config.train.dim + 1}",
                hint="The registry was edited: drop the version and train again.",
            )
        self.version = version
        self.config = config
        self.texts = Texts(config.items.features, run=run_encoders)
        self.tower = ItemTower(
            artifacts.get(conn, version.artifacts["item_tower"]),
            config.items.features,
            config.train.dim,
        )

    def select(self, extra: str = "") -> str:
        """Return the query of what ``encode`` takes, without a where clause.

        Args:
            extra: Further columns, after those that ``encode`` takes.
        """
        fields = projection(self.config.items.features, "s")
        id_type = self.config.item_id
        return (
            f"select s.item_id::{id_type}, halfvec_send(e.served),"
            f" halfvec_send(e.history), e.bias{', ' if fields else ''}{fields}{extra}"
            f" from ({self.config.items.sql}\n) as s"
            f" left join recsys.id_embedding_{self.version.suffix} as e"
            f" on e.item_id = s.item_id::{id_type}"
        )

    def encode(
        self, rows: Sequence[Sequence[Any]], conn: Connection | None = None
    ) -> Encoded:
        """Encode rows of ``select``; further columns are passed over.

        Args:
            rows: The rows.
            conn: An open connection; needed when a text has an encoder. What that
                gives is kept in its transaction.

        Raises:
            SourceError: An item id is null.
            ConfigError: A text encoder is needed that is not on this machine.
        """
        dim = self.tower.dim
        if not rows:
            none = np.empty((0, dim), np.float32)
            return Encoded([], np.empty((0, dim + 1), np.float32), none)
        given = self.inputs(rows, conn)
        vectors, past = self.tower.encode(
            given.columns, len(given.ids), given.served, given.history, given.bias
        )
        return Encoded(given.ids, vectors, past)

    def inputs(
        self, rows: Sequence[Sequence[Any]], conn: Connection | None = None
    ) -> ItemInputs:
        """Return rows of ``select``, at least one, as the tower takes them.

        Args:
            rows: The rows.
            conn: As for ``encode``.

        Raises:
            SourceError: An item id is null.
            ConfigError: A text encoder is needed that is not on this machine.
        """
        dim = self.tower.dim
        ids, served, history, bias, *cells = zip(*rows, strict=True)
        if None in ids:
            raise SourceError(
                "the item source returns a null item_id",
                hint="Add 'where ... is not null' to items.sql.",
            )
        names = [feature.name for feature in self.config.items.features]
        columns: Columns = dict(zip(names, cells, strict=False))
        if self.texts.features:
            if conn is None:
                raise ValueError("texts with an encoder need a connection")
            columns = self.texts.fill(conn, columns)
        return ItemInputs(
            list(ids),
            unpack_rows(served, dim),
            unpack_rows(history, dim),
            np.array([math.nan if b is None else b for b in bias], np.float32),
            columns,
        )


def unpack_rows(cells: Sequence[bytes | None], dim: int) -> NDArray[np.float32]:
    """Return halfvec_send values as rows, shape (N, dim); None becomes zeros."""
    present = np.array([cell is not None for cell in cells])
    out = np.zeros((len(cells), dim), dtype=np.float32)
    if present.any():
        packed = b"".join(cell for cell in cells if cell is not None)
        out[present] = _db.unpack_halfvecs(packed, dim)
    return out
