"""Texts to the vectors of a text encoder, each once: a table keeps them.

What is kept is what everybody reads, rounded to halfvec: training, backfill and worker
see the same numbers whoever computed them first. The table is keyed by the encoder's
and the text's sha256, so neither a change of the text nor of the model can be missed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import _db, _sql, settings
from recsys._db import Connection, HalfvecArray
from recsys._wording import counted
from recsys.config import Feature, ModelConfig
from recsys.encoder.sentence import SentenceEncoder, fingerprint, graph_of
from recsys.encoder.text import MAX_CHARS
from recsys.encoder.values import Cells, Columns, projection
from recsys.errors import ConfigError, SourceError
from recsys.progress import Progress

_FETCH = 1_000
_KEPT = 4_096
"""Vectors that a process keeps of its newest texts: every live version needs them."""


def with_encoders(config: ModelConfig, path: Path | None) -> ModelConfig:
    """Fill in what the declared text encoders are: length and sha256.

    Args:
        config: The configuration.
        path: Its file; relative directories are looked for beside it first.

    Raises:
        ConfigError: A directory does not hold a text encoder.
    """
    root = path.resolve().parent if path else Path.cwd()
    features: list[Feature] = []
    for feature in config.items.features:
        if feature.encoder:
            encoder = _load(_found(feature.encoder, root))
            _ENCODERS[os.getpid(), encoder.sha256] = encoder
            feature = replace(feature, dim=encoder.dim, sha256=encoder.sha256)
        features.append(feature)
    return replace(config, items=replace(config.items, features=tuple(features)))


def warm(dsn: str, config: ModelConfig, progress: Progress) -> None:
    """Encode every text of the item source that is not kept yet.

    It commits as it goes: who stops it loses a thousand texts at most.

    Args:
        dsn: Connection string.
        config: From ``with_encoders``.
        progress: Receives the items looked at.
    """
    texts = Texts(config.items.features)
    if not texts.features:
        return
    fields = projection(texts.features, "s")
    query = f"select {fields} from ({config.items.sql}\n) as s"
    names = [feature.name for feature in texts.features]
    with (
        _db.connect(dsn) as reader,
        _db.connect(dsn) as writer,
        reader.cursor(name="recsys_texts", binary=True) as cursor,
        progress.stage("encode texts") as stage,
    ):
        cursor.itersize = _FETCH
        cursor.execute(_sql.trusted(query))
        while rows := cursor.fetchmany(_FETCH):
            columns = dict(zip(names, zip(*rows, strict=True), strict=True))
            texts.fill(writer, columns)
            writer.commit()
            stage.advance(len(rows))


class Texts:
    """Puts vectors in the place of texts.

    Args:
        features: Item features; those with an encoder are filled.
        run: Whether an encoder may run here, or kept vectors must do.
        keep: Whether to keep what was computed.
    """

    def __init__(
        self, features: Iterable[Feature], *, run: bool = True, keep: bool = True
    ) -> None:
        self.features = tuple(f for f in features if f.encoder)
        self._run = run
        self._keep = keep
        self._newest: dict[tuple[str, bytes], NDArray[np.float16]] = {}

    def fill(self, conn: Connection, columns: Columns) -> Columns:
        """Return the columns with vectors, (n, dim), where texts were.

        Args:
            conn: An open connection; what was computed is kept in its transaction.
            columns: Raw cells by feature name.

        Raises:
            ConfigError: An encoder that is needed is not here, or is another one.
            SourceError: It is needed, but may not run here.
        """
        filled: dict[str, Any] = dict(columns)
        for feature in self.features:
            if feature.name in columns:
                filled[feature.name] = self._vectors(
                    conn, feature, columns[feature.name]
                )
        return filled

    def _vectors(
        self, conn: Connection, feature: Feature, cells: Cells
    ) -> NDArray[np.float32]:
        texts = [_clean(cell) for cell in cells]
        wanted = {text: _hash(text) for text in texts if text}
        known = self._known(conn, feature, wanted)
        rest = [text for text in wanted if text not in known]
        if rest:
            known |= self._computed(conn, feature, rest, wanted)
        out = np.zeros((len(cells), feature.dim), np.float32)
        for row, text in zip(out, texts, strict=True):
            if text:
                row[:] = known[text]
        return out

    def _known(
        self, conn: Connection, feature: Feature, wanted: Mapping[str, bytes]
    ) -> dict[str, NDArray[np.float16]]:
        """Return the vectors that this process or the table has."""
        newest, sha256 = self._newest, feature.sha256
        known = {
            text: newest[sha256, key]
            for text, key in wanted.items()
            if (sha256, key) in newest
        }
        asked = {key: text for text, key in wanted.items() if text not in known}
        if not asked:
            return known
        rows = _db.binary_cursor(conn).execute(
            "select text_hash, halfvec_send(embedding) from recsys.text_embedding"
            " where encoder = %s and text_hash = any(%s)",
            (bytes.fromhex(sha256), list(asked)),
        )
        for key, packed in rows.fetchall():
            vector = _db.unpack_halfvecs(packed, feature.dim)[0]
            known[asked[bytes(key)]] = vector
        return known

    def _computed(
        self,
        conn: Connection,
        feature: Feature,
        texts: list[str],
        keys: Mapping[str, bytes],
    ) -> dict[str, NDArray[np.float16]]:
        if not self._run:
            raise SourceError(
                f"feature {feature.name!r} has {counted(len(texts), 'text')} that"
                f" {'is' if len(texts) == 1 else 'are'} not encoded yet",
                hint="The worker encodes them.",
            )
        vectors = _encoder_of(feature).encode(texts)
        for text, vector in zip(texts, vectors, strict=True):
            self._newest[feature.sha256, keys[text]] = vector
        for old in list(self._newest)[:-_KEPT]:
            self._newest.pop(old, None)
        if self._keep:
            _store(conn, feature, [keys[text] for text in texts], vectors)
        return dict(zip(texts, vectors, strict=True))


def forget(conn: Connection) -> None:
    """Delete the vectors of encoders that no version uses, a week after they came.

    A training that still runs has registered no version yet.
    """
    conn.execute(
        "delete from recsys.text_embedding where kept_at < now() - interval '7 days'"
        " and encoder <> all (array(select decode(f ->> 'sha256', 'hex')"
        " from recsys.model_version as v,"
        " jsonb_array_elements(v.spec -> 'items' -> 'features') as f"
        " where f ->> 'sha256' <> ''))"
    )


def _store(
    conn: Connection,
    feature: Feature,
    keys: list[bytes],
    vectors: NDArray[np.float16],
) -> None:
    """Keep vectors, unless another transaction is keeping some of this encoder.

    In a transaction that only reads, nothing is kept.

    To wait for it could end in a deadlock; the text is then computed once more, by
    whoever needs it next.
    """
    row = conn.execute(
        "select 'halfvec'::regtype::oid, current_setting('transaction_read_only') ="
        " 'off' and pg_try_advisory_xact_lock("
        "hashtextextended('recsys.text_embedding ' || %s, 0))",
        (feature.sha256,),
    ).fetchone()
    oid, free = row or (0, False)
    if free:
        conn.execute(
            "insert into recsys.text_embedding (encoder, text_hash, embedding)"
            " select %s, * from unnest(%s::bytea[], %s::halfvec[])"
            " on conflict do nothing",
            (
                bytes.fromhex(feature.sha256),
                keys,
                HalfvecArray(vectors.astype(np.float32), oid),
            ),
        )


def _clean(cell: object) -> str:
    """Return what is encoded of a cell: as much of it as the source's query returns."""
    return "" if cell is None else str(cell)[:MAX_CHARS].strip()


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


# encoders --------------------------------------------------------------------------

_ENCODERS: dict[tuple[int, str], SentenceEncoder] = {}
"""By process, because a session is not used after a fork, and sha256."""
_PRINTS: dict[tuple[Path, int, int], str] = {}
_LOCK = threading.Lock()


def _encoder_of(feature: Feature) -> SentenceEncoder:
    """Return the encoder that a version was trained with.

    Raises:
        ConfigError: It is not on this machine.
    """
    key = (os.getpid(), feature.sha256)
    with _LOCK:
        if key not in _ENCODERS:
            encoder = _load(_matching(feature))
            if encoder.sha256 != feature.sha256:
                raise _changed(feature, encoder.folder)  # in this very moment
            _ENCODERS[key] = encoder
        return _ENCODERS[key]


def _load(folder: Path) -> SentenceEncoder:
    return SentenceEncoder(folder, threads=os.cpu_count() or 1)


def _candidates(encoder: str, root: Path | None = None) -> list[Path]:
    path = Path(encoder).expanduser()
    roots = [*([root] if root else []), *settings.encoder_folders()]
    return [(root / path).resolve() for root in roots]


def _found(encoder: str, root: Path) -> Path:
    folders = _candidates(encoder, root)
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _matching(feature: Feature) -> Path:
    """Return the directory here with the files that a version was trained with."""
    folders = [f for f in _candidates(feature.encoder) if f.is_dir()]
    for folder in folders:
        if _print(folder) == feature.sha256:
            return folder
    if folders:
        raise _changed(feature, folders[0])
    raise ConfigError(
        f"the text encoder {feature.encoder!r} of feature {feature.name!r} is not on"
        " this machine",
        hint="Set RECSYS_ENCODERS to the folder that holds it; 'recsys retry MODEL'"
        " then tries what failed again.",
    )


def _print(folder: Path) -> str:
    """Return the fingerprint; files of the same age and size are not read twice."""
    try:
        graph = graph_of(folder).stat()
    except (ConfigError, OSError):
        return ""
    key = (folder, graph.st_mtime_ns, graph.st_size)
    if key not in _PRINTS:
        _PRINTS[key] = fingerprint(folder)
    return _PRINTS[key]


def _changed(feature: Feature, folder: Path) -> ConfigError:
    return ConfigError(
        f"{folder} is not the text encoder of feature {feature.name!r}: its files are"
        " others than in training",
        hint="Put back the directory that the version was trained with, or train a new"
        " version with this one.",
    )
