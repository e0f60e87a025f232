"""Model files in Postgres, addressed by their sha256; nothing executable."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from recsys import _deadline
from recsys._db import Connection, binary_cursor
from recsys._deadline import DeadlineExceeded
from recsys.errors import ArtifactError

Kind = Literal["onnx", "safetensors", "json"]
KINDS: dict[str, Kind] = {
    "onnx": "onnx",
    "safetensors": "safetensors",
    "json": "json",
}
SLICE = 256 * 1024
"""Bytes that a process with a budget fetches at once."""
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
        raise _missing(sha256)
    return _checked(sha256, bytes(row[0]))


def _missing(sha256: str) -> ArtifactError:
    return ArtifactError(
        f"artifact {sha256[:12]} is not in this database",
        hint="Bring it by 'recsys artifacts export' and 'import', or train.",
    )


def _checked(sha256: str, content: bytes) -> bytes:
    if digest(content) != sha256:
        raise ArtifactError(
            f"artifact {sha256[:12]} is corrupted: its bytes have another sha256",
            hint="Restore recsys.artifact from a backup, or train again.",
        )
    return content


class StillLoading(DeadlineExceeded):
    """The budget ended while an artifact was fetched; a part of it arrived."""

    hint = "The next request goes on from there; see docs/budget.md."


class Download:
    """An artifact on its way, slice by slice, over as many requests as it takes.

    Any thread may go on with it: two that do fetch a slice twice.

    Args:
        sha256: Its hash.
    """

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256
        self._size: int | None = None
        self._slices: dict[int, bytes] = {}

    def go_on(self, conn: Connection) -> bytes:
        """Return the whole artifact, after fetching what is missing of it.

        Raises:
            StillLoading: The budget is spent; what arrived is kept.
            DeadlineExceeded: The budget is spent, and nothing arrived.
            ArtifactError: It is missing, or its bytes are not what its name says.
        """
        before, number = len(self._slices), 0
        try:
            while self._size is None or number * SLICE < self._size:
                if number not in self._slices:
                    _deadline.check()
                    self._fetch(conn, number)
                number += 1
        except DeadlineExceeded as exc:
            if len(self._slices) == before:
                raise
            raise StillLoading(str(exc)) from exc
        return _checked(self.sha256, b"".join(self._slices[n] for n in range(number)))

    def _fetch(self, conn: Connection, number: int) -> None:
        with binary_cursor(conn) as cur:
            row = cur.execute(
                "select octet_length(content), substring(content from %s for %s)"
                " from recsys.artifact where sha256 = %s",
                (number * SLICE + 1, SLICE, self.sha256),
            ).fetchone()
        if row is None:
            raise _missing(self.sha256)
        self._slices[number] = bytes(row[1])
        self._size = int(row[0])


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
