"""Everything a report shows, read from the database; it can be made at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from recsys import _sql, artifacts, versions
from recsys._db import Connection
from recsys._source import source_errors
from recsys.config import ModelConfig
from recsys.errors import ArtifactError, SourceError

_TITLES = ("title", "name", "label", "description")
_LONGEST = 80
# Of an item beside its title: so many features, each so long.
_FEATURES, _LONGEST_VALUE = 3, 28
_TOLD = ("category", "categories", "number", "time")


@dataclass(frozen=True, slots=True)
class Item:
    """What an item is called, so that a list means something.

    Attributes:
        title: Empty when its source has none.
        about: Its first features, each by its name.
    """

    title: str = ""
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """A version and what is known of its training.

    Attributes:
        report: The training's report, see ``TrainedModel``; empty when it is gone.
        metrics: Slice -> method -> metric of the version.
        recall_curve: ef_search and ANN recall@20, by rising ef_search.
        items: Item id as text -> what it is called, for items of the samples.
        trials: Rows of a study of ``recsys tune``, if one was given.
        problems: What could not be read, in words.
    """

    model: str
    number: int
    state: str
    created_at: datetime
    created_by: str
    trained_until: str | None
    config: ModelConfig
    report: Mapping[str, Any]
    metrics: Mapping[str, Any]
    item_count: int | None
    ef_search: int | None
    ann_recall: float | None
    recall_curve: Sequence[tuple[float, float]]
    items: Mapping[str, Item]
    trials: Sequence[Any] = ()
    problems: Sequence[str] = field(default_factory=list[str])


def collect(
    conn: Connection,
    model: str,
    number: int,
    *,
    study: Path | None = None,
    user_ids: bool = True,
) -> Facts:
    """Read what the report of a version shows.

    Args:
        conn: An open connection; it is only read from.
        model: Name of the model.
        number: Number of the version, in any state.
        study: Also show the trials of this file.
        user_ids: Say whose the sampled lists are.

    Raises:
        UnknownVersion: There is no such version.
        ConfigError: The study cannot be read.
    """
    version = versions.get(conn, model, number)
    problems: list[str] = []
    report = _report(conn, version.artifacts.get("report"), problems)
    if not user_ids:
        report = _without_users(report)
    items = _items(conn, version.config, _samples_ids(report), problems)
    row = conn.execute(
        "select created_at, created_by, coalesce(recall_curve, '[]')"
        " from recsys.model_version where model = %s and number = %s",
        (model, number),
    ).fetchone()
    assert row is not None, "it was read above, in the same transaction"
    created_at, created_by, curve = row
    if version.error:
        problems.append(f"The version's last error: {version.error}")
    return Facts(
        model=model,
        number=number,
        state=version.state,
        created_at=created_at,
        created_by=created_by,
        trained_until=version.spec.get("trained_until"),
        config=version.config,
        report=report,
        metrics=version.metrics,
        item_count=version.item_count,
        ef_search=version.ef_search,
        ann_recall=version.ann_recall,
        recall_curve=[(float(ef), float(recall)) for ef, recall in curve],
        items=items,
        trials=_trials(study),
        problems=problems,
    )


def _report(
    conn: Connection, sha256: str | None, problems: list[str]
) -> Mapping[str, Any]:
    if sha256 is None:
        problems.append("This version was made without a report.")
        return {}
    try:
        return json.loads(artifacts.get(conn, sha256))
    except ArtifactError as exc:
        problems.append(f"The report of the training: {exc}.")
        return {}


def _samples_ids(report: Mapping[str, Any]) -> list[Any]:
    return list(
        {
            item: None
            for sample in report.get("samples", [])
            for part in ("history", "list", "hits")
            for item in sample[part]
        }
    )


def _without_users(report: Mapping[str, Any]) -> Mapping[str, Any]:
    rows: list[Mapping[str, Any]] = report.get("samples", [])
    without = [{k: v for k, v in row.items() if k != "user"} for row in rows]
    return {**report, "samples": without} if rows else report


def _items(
    conn: Connection, config: ModelConfig, ids: list[Any], problems: list[str]
) -> dict[str, Item]:
    """Return what items are called and what is known of them, by their source."""
    if not ids:
        return {}
    source = f"({config.items.sql}\n) as source"
    features = [f for f in config.items.features if f.type in _TOLD][:_FEATURES]
    told = {f.name: f.type for f in features}
    try:
        with conn.transaction(), source_errors("items"):
            title = _title(conn, config, source)
            columns = [name for name in (title, *told) if name]
            if not columns:
                return {}
            chosen = ", ".join(f'"{name}"::text' for name in columns)
            rows = conn.execute(
                _sql.trusted(
                    f"select item_id::text, {chosen} from {_sql.escaped(source)}"
                    f" where item_id = any(%s::{config.item_id}[])"
                ),
                ([str(item) for item in ids],),
            ).fetchall()
    except SourceError as exc:
        problems.append(f"Items are shown by their ids: {exc}.")
        return {}
    return {
        item: Item(
            title=_cut((values[0] if title else None) or "", _LONGEST),
            about=_about(told, values[1 if title else 0 :]),
        )
        for item, *values in rows
    }


def _title(conn: Connection, config: ModelConfig, source: str) -> str | None:
    """Return the column with titles: a text feature, else one with such a name."""
    column = next((f.name for f in config.items.features if f.type == "text"), None)
    if column is not None:
        return column
    cursor = conn.execute(_sql.trusted(f"select * from {source} limit 0"))
    have = [column.name for column in cursor.description or ()]
    return next((name for name in _TITLES if name in have), None)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"


def _about(told: Mapping[str, str], values: Sequence[str | None]) -> tuple[str, ...]:
    said: list[str] = []
    for (name, type_), value in zip(told.items(), values, strict=True):
        if value:
            text = value.partition(" ")[0] if type_ == "time" else value.strip("{}")
            said.append(f"{name} {_cut(text, _LONGEST_VALUE)}")
    return tuple(said)


def _trials(study: Path | None) -> Sequence[Any]:
    if study is None:
        return ()
    from recsys import tuning

    return tuning.trials(study)
