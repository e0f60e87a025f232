"""What counts as a hit: what users did after a version's data, or a file."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from recsys import _sql, versions
from recsys._db import Connection
from recsys._history import weight_expression
from recsys._source import source_errors
from recsys.config import ModelConfig
from recsys.errors import ConfigError
from recsys.ids import parse_id
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion


@dataclass(frozen=True, slots=True)
class Holdout:
    """What users did after the data a version was trained on.

    Attributes:
        relevant: Items per user that count as hits.
        before: History and popularity end here; None: all the source has.
        kinds: The part of ``relevant`` that was chosen by each kind of interaction;
            empty where kinds are not known.
    """

    relevant: Mapping[UserId, set[ItemId]]
    before: datetime | None = None
    kinds: Mapping[str, Mapping[UserId, set[ItemId]]] = field(
        default_factory=dict[str, Mapping[UserId, set[ItemId]]]
    )


def after(
    conn: Connection,
    model: str,
    number: int,
    cutoff: datetime,
    *,
    also: int | None = None,
    cold: bool = False,
) -> Holdout:
    """Return what known users first did from a time on, with known items.

    A hit is a pair of a target kind from ``cutoff`` on that the user did not have
    before; both the user and the item have interactions before it.

    Args:
        conn: An open connection.
        model: Name of the model.
        number: Version whose declaration says what counts, and whose items are known.
        cutoff: Hits begin here, histories end here.
        also: Another version, whose items are known, too.
        cold: Items without an interaction before the time count, too.

    Raises:
        ConfigError: The interaction source has no time.
        SourceError: The source fails.
    """
    version = versions.get(conn, model, number)
    more = versions.suffix(model, also) if also is not None else None
    query = _hits(version, more, cold=cold)
    relevant: dict[UserId, set[ItemId]] = defaultdict(set)
    kinds: dict[str, dict[UserId, set[ItemId]]] = defaultdict(lambda: defaultdict(set))
    with source_errors("interactions"):
        rows = conn.execute(_sql.trusted(query), (cutoff.timestamp(),))
        for user, item, name in rows:
            relevant[user].add(item)
            if name:
                kinds[name][user].add(item)
    return Holdout(relevant, cutoff, kinds)


def _hits(version: ModelVersion, also: str | None, *, cold: bool) -> str:
    """Return the query of users, items and kinds; its parameter is the cut-off.

    Args:
        version: Says what counts, and whose items are known.
        also: Suffix of another version, whose items are known, too.
        cold: Items without an interaction before the time count, too.
    """
    events = timed_events(
        version,
        ConfigError(
            "the interactions have no occurred_at, so there is no 'after'",
            hint="Pass --holdout FILE instead.",
        ),
    )
    other = f" union select item_id from recsys.item_vector_{also}" if also else ""
    return (
        "with event as materialized ("
        f" select every.*, every.at >= %s as later from ({events}) as every"
        "), known as (select distinct user_id from event where not later),"
        " sold as (select distinct item_id from event where not later),"
        " had as (select distinct user_id, item_id from event where not later)"
        " select distinct event.user_id, event.item_id, event.kind from event"
        " join known using (user_id)"
        f"{'' if cold else ' join sold on sold.item_id = event.item_id'}"
        " where event.later and event.target and event.item_id in"
        f" (select item_id from recsys.item_vector_{version.suffix}{other})"
        " and not exists"
        " (select from had where had.user_id = event.user_id"
        " and had.item_id = event.item_id)"
    )


def timed_events(version: ModelVersion, refusal: ConfigError) -> str:
    """Return SQL for user_id, item_id, at, kind and target of the interactions.

    Args:
        version: Whose declaration says what is a target.
        refusal: Raised when the source has no time.
    """
    config = version.config
    columns = tuple(version.spec.get("columns", ()))
    if "occurred_at" not in columns:
        raise refusal
    kind = "source.kind::text" if "kind" in columns else "''"
    return (
        f"select source.user_id::{config.user_id} as user_id,"
        f" source.item_id::{config.item_id} as item_id,"
        f" extract(epoch from source.occurred_at) as at, {kind} as kind,"
        f" {_sql.escaped(_target(config, columns))} as target"
        f" from ({_sql.escaped(config.interactions.sql)}\n) as source"
    )


def _target(config: ModelConfig, columns: tuple[str, ...]) -> str:
    """Return the SQL condition under which an interaction counts as a hit."""
    targets = config.interactions.targets
    if not targets or "kind" not in columns:
        return f"{weight_expression(config, columns)} > 0"
    return f"source.kind::text in ({', '.join(map(_sql.literal, targets))})"


def from_csv(path: Path, config: ModelConfig) -> Holdout:
    """Read a holdout of user_id, item_id (CSV, optionally gzip).

    Raises:
        ConfigError: The file cannot be read, or a row does not fit.
    """
    relevant: dict[UserId, set[ItemId]] = defaultdict(set)
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            absent = {"user_id", "item_id"} - set(reader.fieldnames or ())
            if absent:
                raise ConfigError(
                    f"{path} has no column {', '.join(sorted(absent))}",
                    hint="The first line must name the columns: user_id,item_id",
                )
            for row in reader:
                line = f"{path.name} line {reader.line_num}:"
                user = parse_id(f"{line} user_id", row["user_id"] or "", config.user_id)
                item = parse_id(f"{line} item_id", row["item_id"] or "", config.item_id)
                relevant[user].add(item)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as exc:
        raise ConfigError(
            f"cannot read {path}: {exc}", hint="It must be CSV in UTF-8, plain or .gz."
        ) from exc
    return Holdout(relevant)
