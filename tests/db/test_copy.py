"""Binary COPY by numpy: every id type, every value back as it went in."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pytest

from recsys import _copy, _db
from recsys.config import IdType
from recsys.errors import SourceError
from recsys.types import ItemId

IDS: dict[IdType, list[ItemId]] = {
    "bigint": [0, -1, 2**63 - 1, -(2**63)],
    "uuid": [UUID(int=0), UUID(int=2**128 - 1), UUID(int=7), UUID(int=1 << 64)],
    "text": ["0007", "", "85123A", "شركة 🍏 \t\n\\N"],
}


def make_table(conn: _db.Connection, id_type: IdType, dim: int) -> None:
    conn.execute(
        f"create table recsys.sample (item_id {id_type} primary key,"
        f" embedding halfvec({dim}) not null, bias real)".encode()
    )


@pytest.mark.parametrize("id_type", ["bigint", "uuid", "text"])
def test_rows_come_back_as_they_went_in(db: _db.Connection, id_type: IdType) -> None:
    make_table(db, id_type, 3)
    ids = IDS[id_type]
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3) / 8 - 0.5
    bias = np.array([0, -1.5, np.nan, 3e38], np.float32)

    _copy.copy_rows(db, "sample", id_type, ids, [vectors, bias])

    rows = db.execute("select item_id, embedding::real[], bias from recsys.sample")
    found = {item: (embedding, value) for item, embedding, value in rows}
    assert list(found) == ids
    for item, vector, value in zip(ids, vectors, bias, strict=True):
        np.testing.assert_array_equal(found[item][0], vector)
        np.testing.assert_equal(np.float32(found[item][1]), value)


@pytest.mark.parametrize("id_type", ["bigint", "uuid", "text"])
def test_no_rows_are_no_error(db: _db.Connection, id_type: IdType) -> None:
    make_table(db, id_type, 3)

    _copy.copy_rows(db, "sample", id_type, [], [np.empty((0, 3), np.float32)] * 2)


def test_an_id_twice_is_named(db: _db.Connection) -> None:
    make_table(db, "text", 1)
    column = np.ones((2, 1), np.float32)

    with pytest.raises(SourceError, match="85123A") as caught:
        _copy.copy_rows(db, "sample", "text", ["85123A"] * 2, [column, column[:, 0]])

    assert "one row per item" in caught.value.hint


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_vectors_are_read_in_blocks_of_any_size(db: _db.Connection, block: int) -> None:
    make_table(db, "bigint", 5)
    vectors = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float16)
    wide = vectors.astype(np.float32)
    _copy.copy_rows(db, "sample", "bigint", range(100), [wide, wide[:, 0]])

    blocks = _copy.read_vectors(db, "sample", 5, block=block)

    assert max(map(len, blocks)) <= max(block, 7)
    np.testing.assert_array_equal(np.concatenate(blocks), wide)


def test_an_empty_table_reads_as_no_blocks(db: _db.Connection) -> None:
    make_table(db, "bigint", 5)

    assert _copy.read_vectors(db, "sample", 5) == []


def test_an_id_too_long_for_an_index_is_named(db: _db.Connection) -> None:
    make_table(db, "text", 1)
    column = np.ones((1, 1), np.float32)
    noise = np.random.default_rng(0).integers(97, 123, 20_000).astype(np.uint8)
    long = noise.tobytes().decode()  # not compressible below a page

    with pytest.raises(SourceError, match="too long") as caught:
        _copy.copy_rows(db, "sample", "text", [long], [column, column[:, 0]])

    assert "shorter key" in caught.value.hint
