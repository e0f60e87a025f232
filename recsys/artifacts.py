"""Model files in Postgres, addressed by their sha256; nothing executable."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from recsys._db import Connection, binary_cursor
from recsys.errors import ArtifactError

Kind = Literal["onnx", "safetensors", "json"]
KINDS: dict[str, Kind] = {
    "onnx": "onnx",
    "safetensors": "safetensors",
    "json": "json",
}
_LARGEST = 1_000_000_000  # bytea ends at 1 GB
_FILE_NAME = re.compile(r"([0-9a-f]{64})\.(onnx|safetensors|json)")


def digest(content: bytes) -> str:
    """Return the sha256 of the content in lower-case hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def put(conn: Connection, kind: Kind, content: bytes) -> str:
    """Store an artifact, once per content.

    Returns:
        Its sha256.

    Raises:
        ArtifactError: It is larger than a bytea can be.
    """
    if len(content) > _LARGEST:
        raise ArtifactError(
            f"an artifact of {len(content):,} bytes does not fit a bytea (1 GB)",
            hint="Lower train.dim, or leave items that can no longer be sold out.",
        )
    sha256 = digest(content)
    conn.execute(
        "insert into recsys.artifact (sha256, kind, content) values (%s, %s, %b)"
        " on conflict (sha256) do nothing",
        (sha256, kind, content),
    )
    return sha256


def get(conn: Connection, sha256: str) -> bytes:
    """Return an artifact after checking its hash.

    Raises:
        ArtifactError: It is missing, or its bytes are not what its name says.
    """
    with binary_cursor(conn) as cur:
        row = cur.execute(
            "select content from recsys.artifact where sha256 = %s", (sha256,)
        ).fetchone()
    if row is None:
        raise ArtifactError(
            f"artifact {sha256[:12]} is not in this database",
            hint="Bring it by 'recsys artifacts export' and 'import', or train.",
        )
    content = bytes(row[0])
    if digest(content) != sha256:
        raise ArtifactError(
            f"artifact {sha256[:12]} is corrupted: its bytes have another sha256",
            hint="Restore recsys.artifact from a backup, or train again.",
        )
    return content


def export_version(
    conn: Connection, model: str, number: int, folder: Path
) -> list[Path]:
    """Write every artifact of a version to a folder as ``<sha256>.<kind>``.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = conn.execute(
        "select a.sha256, a.kind from recsys.model_version as v"
        " cross join jsonb_each_text(v.artifacts) as wanted"
        " join recsys.artifact as a on a.sha256 = wanted.value"
        " where v.model = %s and v.number = %s",
        (model, number),
    ).fetchall()
    files: list[Path] = []
    for sha256, kind in rows:
        path = folder / f"{sha256}.{kind}"
        path.write_bytes(get(conn, sha256))
        files.append(path)
    return files


def import_folder(conn: Connection, folder: Path) -> list[str]:
    """Store every ``<sha256>.<kind>`` of a folder.

    Returns:
        The hashes.

    Raises:
        ArtifactError: A file's content does not match its name.
    """
    hashes: list[str] = []
    for path in sorted(folder.iterdir()):
        match = _FILE_NAME.fullmatch(path.name)
        if not match:
            continue
        content = path.read_bytes()
        if digest(content) != match.group(1):
            raise ArtifactError(
                f"{path.name} is corrupted: its bytes have another sha256",
                hint="Export it again.",
            )
        kind = KINDS[match.group(2)]
        hashes.append(put(conn, kind, content))
    return hashes
