"""Artifacts: addressed by their bytes, checked at every read, carried by folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psycopg
import pytest
import world
from world import Shop

from recsys import _db, artifacts, embeddings
from recsys.config import IdType
from recsys.errors import ArtifactError


def test_an_artifact_comes_back_as_it_went_in(db: _db.Connection) -> None:
    content = bytes(range(256)) * 100

    sha256 = artifacts.put(db, "json", content)

    assert artifacts.get(db, sha256) == content
    assert sha256 == artifacts.digest(content)
    assert artifacts.put(db, "json", content) == sha256


def test_the_table_refuses_bytes_that_do_not_match_their_name(
    db: _db.Connection,
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(
            "insert into recsys.artifact (sha256, kind, content)"
            " values (%s, 'json', 'x')",
            ("0" * 64,),
        )


def test_a_missing_or_changed_artifact_is_an_error(db: _db.Connection) -> None:
    with pytest.raises(ArtifactError, match="not in this database") as missing:
        artifacts.get(db, "0" * 64)
    assert missing.value.hint
    sha256 = artifacts.put(db, "json", b"{}")
    db.execute(
        "alter table recsys.artifact drop constraint artifact_content_matches_its_name"
    )
    db.execute("update recsys.artifact set content = 'evil'")

    with pytest.raises(ArtifactError, match="corrupted") as changed:
        artifacts.get(db, sha256)

    assert "backup" in changed.value.hint


def test_only_known_kinds_are_stored(db: _db.Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        artifacts.put(db, "pickle", b"x")  # type: ignore[arg-type]


def test_what_is_too_large_is_refused_before_it_is_sent(
    db: _db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "_LARGEST", 10)

    with pytest.raises(ArtifactError, match="11 bytes"):
        artifacts.put(db, "json", b"x" * 11)


def test_a_folder_carries_a_version_to_another_database(
    shop: Shop, dsn: str, tmp_path: Path
) -> None:
    with _db.connect(shop.dsn) as conn:
        files = artifacts.export_version(conn, "shop", 1, tmp_path / "out")
    (tmp_path / "out" / "README.txt").write_text("not an artifact")

    with _db.connect(dsn) as conn:
        hashes = artifacts.import_folder(conn, tmp_path / "out")
        assert artifacts.import_folder(conn, tmp_path / "out") == hashes

        assert {f"{h}" for h in hashes} == {f.stem for f in files}
        assert len(hashes) == 4
        for path in files:
            assert artifacts.get(conn, path.stem) == path.read_bytes()


def test_a_changed_file_is_not_imported(db: _db.Connection, tmp_path: Path) -> None:
    (tmp_path / f"{'0' * 64}.json").write_bytes(b"{}")

    with pytest.raises(ArtifactError, match="corrupted"):
        artifacts.import_folder(db, tmp_path)


@pytest.mark.parametrize("id_type", ["bigint", "uuid", "text"])
def test_embeddings_come_back_as_they_were_packed(id_type: IdType) -> None:
    ids = [world.make_id(id_type, n) for n in (3, 1, 2)]
    rng = np.random.default_rng(0)
    rows = embeddings.Embeddings(
        item_ids=ids,
        served=rng.normal(size=(3, 4)).astype(np.float16),
        history=rng.normal(size=(3, 4)).astype(np.float16),
        bias=np.array([1, np.nan, -2], np.float32),
        default_query=np.ones(4, np.float32),
    )

    found = embeddings.unpack(embeddings.pack(rows, id_type), id_type, 4)

    assert list(found.item_ids) == ids
    for name in ("served", "history", "bias", "default_query"):
        np.testing.assert_array_equal(getattr(found, name), getattr(rows, name))


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_embeddings_file_is_an_error(content: bytes) -> None:
    with pytest.raises(ArtifactError):
        embeddings.unpack(content, "bigint", 4)
