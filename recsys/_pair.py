"""Which two versions are compared, and on which users."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from recsys import _holdout, _sql, versions
from recsys._db import Connection
from recsys._holdout import Holdout
from recsys._source import source_errors
from recsys.errors import ConfigError, SourceError, VersionStateError
from recsys.types import UserId
from recsys.versions import ModelVersion


@dataclass(frozen=True, slots=True)
class Pair:
    """The two versions and how much of the items both can show.

    Attributes:
        base: None: the popularity floor.
        limit: Why the data are limited, in words; None when they are not.
    """

    candidate: ModelVersion
    base: ModelVersion | None
    sample_percent: float
    limit: str | None

    @property
    def both(self) -> tuple[ModelVersion, ...]:
        """The versions that are asked, the base first."""
        return (self.base, self.candidate) if self.base else (self.candidate,)

    @property
    def only(self) -> str | None:
        """Suffix of the version whose items alone count."""
        return self.candidate.suffix if self.limit is not None else None


def find(conn: Connection, model: str, number: int, base: int | None) -> Pair:
    """Return the two versions, when they can be compared.

    Args:
        conn: An open connection.
        model: Name of the model.
        number: The candidate.
        base: The other; None: the serving one, or the floors when none serves.

    Raises:
        ConfigError: Both are the same.
        UnknownVersion: The model has no such version.
        VersionStateError: One of them cannot be compared.
    """
    candidate = versions.get(conn, model, number)
    if base is None:
        base = versions.serving_number(conn, model)
    if base == number:
        raise ConfigError(
            f"version {number} of model {model!r} cannot be compared with itself",
            hint=f"Name another one: recsys compare {model} {number} BASE.",
        )
    other = None if base is None else versions.get(conn, model, base)
    if other is not None and other.state not in ("ready", "serving"):
        raise _not_ready(other)
    if candidate.state in ("ready", "serving"):
        return Pair(candidate, other, 100.0, None)
    if candidate.state != "building":
        raise _not_ready(candidate)
    percent = _loaded_percent(conn, candidate)
    told = f"{percent:.3g}" if percent < 100 else "100"
    limit = f"on {told} % of the items, while version {number} is {candidate.phase}"
    return Pair(candidate, other, percent, limit)


def _not_ready(version: ModelVersion) -> VersionStateError:
    hints = {
        "failed": "Repair it and run 'recsys backfill {} {}'.",
        "building": "Run 'recsys backfill {} {}' first.",
    }
    hint = hints.get(version.state, "Train a new one: recsys train {}")
    return VersionStateError(
        f"version {version.number} of model {version.model!r} is {version.state},"
        " not ready",
        hint=hint.format(version.model, version.number),
    )


def _loaded_percent(conn: Connection, version: ModelVersion) -> float:
    with source_errors("items"):
        row = conn.execute(
            _sql.trusted(
                "select source_count, item_count from"
                f" recsys._coverage_{version.suffix}()"
            )
        ).fetchone()
    total, loaded = row or (0, 0)
    if not loaded:
        raise VersionStateError(
            f"version {version.number} of model {version.model!r} has no items yet",
            hint=f"Run 'recsys backfill {version.model} {version.number}' first.",
        )
    return min(100.0, 100.0 * loaded / total) if total else 0.0


def _trained_until(conn: Connection, pair: Pair) -> dict[int, datetime | None]:
    rows = conn.execute(
        "select number, trained_until from recsys.model_version"
        " where model = %s and number = any(%s)",
        (pair.candidate.model, [version.number for version in pair.both]),
    )
    return dict(rows.fetchall())


def untold(conn: Connection, pair: Pair) -> tuple[int, ...]:
    """Return the versions of which nobody knows until when their data went."""
    known = _trained_until(conn, pair)
    return tuple(sorted(number for number, end in known.items() if end is None))


def later(conn: Connection, pair: Pair, cutoff: datetime | None) -> Holdout:
    """Return what users did after both versions' training data.

    Raises:
        ConfigError: The cut-off is before the end of a version's training data.
        SourceError: No cut-off is given, and where the data end is unknown.
    """
    known = _trained_until(conn, pair)
    model = pair.candidate.model
    ends = {number: end for number, end in known.items() if end is not None}
    if cutoff is None:
        untold = [number for number, end in known.items() if end is None]
        if untold:
            raise SourceError(
                f"until when the training data of version {untold[0]} of model"
                f" {model!r} went is unknown",
                hint="Pass --after TIME, a time after them, or --holdout FILE.",
            )
        cutoff = max(ends.values())
    for number, end in ends.items():
        if end > cutoff:
            raise ConfigError(
                f"version {number} of model {model!r} was trained on data until"
                f" {end.isoformat()}, so what happened after {cutoff.isoformat()} is"
                " no test for it",
                hint=f"Pass --after {max(ends.values()).isoformat()} or later.",
            )
    other = pair.base.number if pair.base and pair.limit is None else None
    return _holdout.after(conn, model, pair.candidate.number, cutoff, also=other)


def nothing(cutoff: datetime | None) -> SourceError:
    """Return the error of a comparison without anybody to ask."""
    if cutoff is None:
        return SourceError(
            "the holdout has nothing to compare on",
            hint="It needs lines with a user_id and an item_id.",
        )
    return SourceError(
        f"nobody took anything new after {cutoff.isoformat()}, where the training"
        " data ends",
        hint="Train with --until an earlier time, wait for interactions, or pass"
        " --holdout FILE.",
    )


def sample(relevant: Collection[UserId], size: int, seed: int) -> list[UserId]:
    """Return at most ``size`` users in an order that only the seed decides.

    A user's place is a hash: more users later leave most of a sample as it is.
    """
    return sorted(
        relevant, key=lambda user: hashlib.sha256(f"{seed}:{user}".encode()).digest()
    )[:size]
